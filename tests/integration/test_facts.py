"""The real file loaded through the real command: the archive holds exactly the facts of shared/data/README.md."""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform.reading import FIELDS
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.timeline import Timeline, TimelineFile
from tests.faults.harness import Platform, platform

LINES = 280_828
PER_MOTE = {1: 43_047, 4: 43_793, 6: 35_666, 22: 60_164, 23: 62_409, 33: 35_749}
MARCH_5 = dt.date(2004, 3, 5)


@pytest.fixture(scope="module")
def file(real_data: Path) -> Path:
    return real_data / "intel_lab" / "data.txt.gz"


@pytest.fixture(scope="module")
def loaded(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, dict[str, Any]]]:
    """A platform into which the file was loaded, and the summary of the load."""
    with platform(tmp_path_factory.mktemp("facts")) as one:
        done = one.run("load", str(file), "--json")
        assert done.returncode == 0, done.stderr
        yield one, json.loads(done.stdout)


@pytest.fixture(scope="module")
def archive(loaded: tuple[Platform, dict[str, Any]]) -> pl.DataFrame:
    return open_archive(loaded[0].settings).scan_all().collect()


@pytest.fixture(scope="module")
def timeline(loaded: tuple[Platform, dict[str, Any]]) -> Timeline:
    fixed = TimelineFile.of(loaded[0].settings).read()
    assert fixed is not None
    return fixed


def on(date: dt.date) -> list[pl.Expr]:
    return [pl.col("year") == f"{date:%Y}", pl.col("month") == f"{date:%m}", pl.col("day") == f"{date:%d}"]


def test_the_summary_says_what_became_of_every_line(loaded: tuple[Platform, dict[str, Any]]) -> None:
    summary = loaded[1]
    assert summary["lines_read"] == summary["rows_loaded"] == summary["rows_archive"] == LINES
    assert summary["rows_hot"] + summary["hot_beyond_retention"] == LINES
    assert (summary["duplicates"], summary["rejected"], summary["rejects_file"]) == (0, {}, None)
    assert not any(summary["skipped"].values())


def test_every_row_is_there_once(archive: pl.DataFrame) -> None:
    assert archive.height == LINES == archive.n_unique(["mote_id", "timestamp"])
    assert dict(archive["mote_id"].value_counts().iter_rows()) == PER_MOTE


def test_the_sick_readings_are_all_kept(archive: pl.DataFrame) -> None:
    counts = archive.select(
        stuck=(pl.col("temperature") == pl.lit(122.153, pl.Float32)).sum(),
        hot=(pl.col("temperature") > 50).sum(),
        dry=(pl.col("humidity") < 0).sum(),
        weak=(pl.col("voltage") < pl.lit(2.3, pl.Float32)).sum(),
    ).row(0, named=True)
    assert counts == {"stuck": 43_927, "hot": 49_120, "dry": 42_321, "weak": 54_933}
    assert archive["light"].max() == pytest.approx(1847.36)


def test_march_5_lies_where_the_timeline_says(archive: pl.DataFrame, timeline: Timeline) -> None:
    day = archive.filter(on(timeline.platform_day(MARCH_5)))
    one = day.filter(mote_id=1)["temperature"].cast(pl.Float64)
    assert (one.len(), one.mean(), one.std(), one.median()) == (
        1_824,
        pytest.approx(21.884114, abs=1e-6),
        pytest.approx(1.899264, abs=1e-6),
        pytest.approx(21.6103, abs=1e-6),
    )
    other = day.filter(mote_id=22)["temperature"].cast(pl.Float64)
    assert (other.len(), other.mean(), other.max()) == (
        2_551,
        pytest.approx(23.369619, abs=1e-6),
        pytest.approx(33.1792, abs=1e-6),
    )


def test_every_day_of_the_data_set_has_its_rows_on_its_date_of_history(
    archive: pl.DataFrame, timeline: Timeline, real_readings: pl.DataFrame
) -> None:
    def by_day(frame: pl.DataFrame) -> dict[dt.date, int]:
        days = frame.select(pl.from_epoch("timestamp", time_unit="ns").dt.date().alias("day"))
        return dict(days["day"].value_counts().iter_rows())

    expected = {timeline.platform_day(day): count for day, count in by_day(real_readings).items()}
    assert len(expected) == timeline.days == 35
    assert by_day(archive) == expected
    folders = archive.select(pl.concat_str("year", "month", "day", separator="-").str.to_date().alias("day"))
    assert dict(folders["day"].value_counts().iter_rows()) == expected
    assert max(expected) == timeline.anchor - dt.timedelta(days=1)


def test_every_value_is_that_of_the_file(
    archive: pl.DataFrame, timeline: Timeline, real_readings: pl.DataFrame
) -> None:
    columns = ["mote_id", "timestamp", *FIELDS]
    expected = real_readings.with_columns(timeline.to_platform()).select(columns)
    assert_frame_equal(archive.select(columns), expected, check_row_order=False, check_exact=True)


def test_the_hot_store_holds_the_same_as_far_as_it_reaches(
    archive: pl.DataFrame, loaded: tuple[Platform, dict[str, Any]]
) -> None:
    one, summary = loaded
    hot = open_hot(one.settings)
    try:
        rows = hot.readings(0, 1 << 62)
    finally:
        hot.close()
    # A few have come to the end of their retention since: a reading every second and more.
    assert 0 <= summary["rows_hot"] - rows.height < 1_000
    recent = archive.filter(pl.col("timestamp") >= rows["timestamp"].min()).select(rows.columns)
    assert_frame_equal(rows, recent, check_row_order=False, check_exact=True)


def test_a_second_load_writes_nothing_and_the_ledger_is_clean(
    loaded: tuple[Platform, dict[str, Any]], file: Path, archive: pl.DataFrame
) -> None:
    one, _ = loaded
    version = open_archive(one.settings).version()
    again = one.run("load", str(file), "--json")
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert (summary["lines_read"], summary["rows_archive"], summary["rows_hot"], summary["commits"]) == (0, 0, 0, 0)
    assert open_archive(one.settings).version() == version
    (account,) = one.verify()["accounts"]
    assert account["stored"] == account["rows"] == archive.height
