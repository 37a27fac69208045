"""A data set by days: the same readings as the file, in time order, built once."""

import datetime as dt
import gzip
import threading
from pathlib import Path

import polars as pl
import pytest

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.sources import days as days_module
from sieis_platform.sources.days import DatasetDays, DayOutsideError
from sieis_platform.sources.intel_lab import read_batches
from sieis_platform.sources.stream import SourceCorruptError


def write(path: Path) -> Path:
    lines = [
        f"2004-03-{day:02} {hour:02}:00:00.{mote} 1 {mote} 20 30 40 2.5\n"
        for mote in (3, 1, 2)
        for day in (1, 2, 4)
        for hour in range(24)
    ]
    path.write_text("".join(lines) + "2094-01-01 00:00:00 1 1 20 30 40 2.5\n" + "junk\n")
    return path


def test_days_hold_the_readings_of_the_file_in_time_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(days_module, "_ROUND_ROWS", 1)  # every batch its own round
    file = write(tmp_path / "data.txt")
    found = DatasetDays.open(file, tmp_path / "cache")
    assert found.days == [dt.date(2004, 3, day) for day in (1, 2, 3, 4)]
    assert found.motes == [1, 2, 3]
    assert (found.profile.lines, found.profile.outside_span) == (218, 1)
    day = found.readings(dt.date(2004, 3, 2))
    assert day.schema == READING_SCHEMA
    assert day.height == 72
    assert day.equals(day.sort("timestamp", "mote_id"))
    assert found.readings(dt.date(2004, 3, 3)).equals(pl.DataFrame(schema=READING_SCHEMA))
    assert found.readings(dt.date(2004, 3, 2), [2, 9])["mote_id"].unique().to_list() == [2]
    with pytest.raises(DayOutsideError, match="spans 2004-03-01 to 2004-03-04"):
        found.readings(dt.date(2094, 1, 1))


def test_all_days_together_are_the_real_file(intel_lab_file: Path, tmp_path: Path) -> None:
    found = DatasetDays.open(intel_lab_file, tmp_path)
    by_day = pl.concat([found.readings(day) for day in found.days])
    whole = pl.concat([batch.readings for batch in read_batches(intel_lab_file)]).drop("source_offset")
    key = ["timestamp", "mote_id"]
    assert by_day.equals(whole.sort(key))
    assert [found.readings(found.days[6], [1]).height] == [1_824]


def test_the_cache_is_found_again_by_content_and_not_built_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "data.txt")
    first = DatasetDays.open(file, tmp_path / "cache")
    packed = tmp_path / "moved.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    monkeypatch.setattr(days_module, "_build", lambda *_: pytest.fail("built again"))
    again = DatasetDays.open(packed, tmp_path / "cache")
    assert again.profile == first.profile
    assert again.readings(again.days[0]).equals(first.readings(first.days[0]))


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    packed = tmp_path / "data.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "data.txt").read_bytes())[:-9])
    with pytest.raises(SourceCorruptError):
        DatasetDays.open(packed, tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_builders_at_the_same_time_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "data.txt")
    together, build = threading.Barrier(3), days_module._build

    def at_once(path: Path, draft: Path) -> object:
        built = build(path, draft)
        together.wait(30)
        return built

    monkeypatch.setattr(days_module, "_build", at_once)
    heights: list[int] = []

    def opened() -> None:
        heights.append(DatasetDays.open(file, tmp_path / "cache").readings(dt.date(2004, 3, 1)).height)

    threads = [threading.Thread(target=opened) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert heights == [72, 72, 72]
    assert len(list((tmp_path / "cache").iterdir())) == 1
