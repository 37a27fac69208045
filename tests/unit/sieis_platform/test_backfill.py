"""Days of history filled from the file: beside a load in any order, without repeats, replaced when asked to."""

import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.backfill import (
    Backfill,
    BackfillSummary,
    LiveDayError,
    NoHistoryError,
    OutsideHistoryError,
    history_file,
)
from sieis_platform.history import HistoricalLoad
from sieis_platform.reading import LINEAGE_SCHEMA, READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Commit, LedgerEntry
from sieis_platform.stores.hot import HotStore
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.stores.rewrite import Scope, remove
from sieis_platform.stores.tiers import movable_days, move_day
from sieis_platform.timeline import DAY_NS
from tests.unit.sieis_platform.history_file import (
    A_DAY,
    DAYS,
    MOTES,
    ROWS,
    archived,
    day,
    hot_rows,
    won,
    write,
)

#: Lines of one commit of a load: the file falls into several.
BATCH = 5_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("file") / "readings.txt")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", load_batch_rows=BATCH)


@pytest.fixture
def hot(settings: Settings) -> Iterator[HotStore]:
    store = open_hot(settings)
    yield store
    store.close()


def fill(
    settings: Settings, hot: HotStore, file: Path, first: int, last: int, *, replace: bool = False
) -> BackfillSummary:
    """Fill the days from `first` to `last` before the anchor."""
    return Backfill(settings, hot, open_archive(settings)).fill(file, day(first), day(last), replace=replace)


def load(settings: Settings, hot: HotStore, file: Path) -> dict[str, int]:
    return HistoricalLoad(settings, hot, open_archive(settings)).load(file).skipped


def clean(settings: Settings) -> bool:
    assert audit_archive(open_archive(settings)).findings == []
    return True


@pytest.fixture(scope="module")
def expected(file: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The archive after one undisturbed load of the file."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("expected"))
    hot = open_hot(settings)
    load(settings, hot, file)
    hot.close()
    rows = archived(settings)
    assert rows.height == ROWS
    return rows


def test_days_are_filled_as_a_load_fills_them(
    settings: Settings, hot: HotStore, file: Path, expected: pl.DataFrame
) -> None:
    done = fill(settings, hot, file, 3, 2)
    assert (done.rows, done.added) == (2 * MOTES * A_DAY, 2 * MOTES * A_DAY)
    assert done.rows_by_day == {day(3): MOTES * A_DAY, day(2): MOTES * A_DAY}
    dates = pl.concat_str("year", "month", "day", separator="-")
    wanted = expected.filter(dates.is_in([str(day(3)), str(day(2))]))
    assert_frame_equal(archived(settings), wanted, check_exact=True)
    assert_frame_equal(hot_rows(settings), won(open_archive(settings)))
    assert clean(settings)


def test_again_writes_nothing(settings: Settings, hot: HotStore, file: Path) -> None:
    fill(settings, hot, file, 3, 2)
    version = open_archive(settings).version()
    again = fill(settings, hot, file, 3, 2)
    assert (again.added, again.rows_hot) == (0, 0)
    fill(settings, hot, file, 3, 2, replace=True)
    assert open_archive(settings).version() == version


def test_days_that_were_moved_are_neither_filled_nor_loaded_again_but_replaced(
    settings: Settings, hot: HotStore, file: Path, expected: pl.DataFrame
) -> None:
    settings = settings.changed(archive_cold_uri=str(settings.data_dir / "cold"))
    fill(settings, hot, file, 4, 3)
    archive = open_archive(settings)
    remove(archive, Scope.day(day(3), [2]), reason="test")
    for number in (4, 3):
        move_day(archive, day(number))
    assert fill(settings, hot, file, 4, 4).added == 0
    assert fill(settings, hot, file, 4, 3).added == A_DAY
    skipped = load(settings, hot, file)
    assert skipped["already_backfilled"] == 2 * MOTES * A_DAY
    assert_frame_equal(archived(settings), expected, check_exact=True)
    move_day(archive, day(3))
    assert movable_days(archive, day(3)) == [day(DAYS), day(5)]
    append = LedgerEntry(app="sensor_readings/one/0", start=0, end=1, stored=1)
    stray = expected.filter(mote_id=1).head(1).with_columns(source=pl.lit("stream:one"), source_partition=pl.lit(0))
    stray = stray.with_columns(
        (pl.col("timestamp") * 0 + (day(4) - dt.date(1970, 1, 1)).days * DAY_NS + 7).alias("timestamp"),
        pl.lit(0, pl.Int64).alias("source_offset"),
        pl.col("source_partition").cast(pl.Int32),
    )
    archive.append(Commit(stray.drop("year", "month", "day"), [append], {append.app: None}))
    move_day(archive, day(4))
    done = fill(settings, hot, file, 4, 4, replace=True)
    assert (done.removed, done.changed) == (1, 0)
    assert_frame_equal(archived(settings), expected, check_exact=True)
    assert_frame_equal(hot_rows(settings), won(open_archive(settings)))
    assert clean(settings)


@pytest.mark.parametrize("order", ["load first", "backfill first", "between two backfills"])
def test_beside_a_load_each_row_is_there_once(
    order: str, settings: Settings, hot: HotStore, file: Path, expected: pl.DataFrame
) -> None:
    if order != "load first":
        fill(settings, hot, file, 4, 2)
    skipped = load(settings, hot, file)
    if order != "backfill first":
        assert fill(settings, hot, file, DAYS, 1).added == 0
    assert skipped.get("already_backfilled", 0) == (0 if order == "load first" else 3 * MOTES * A_DAY)
    assert_frame_equal(archived(settings), expected, check_exact=True)
    assert_frame_equal(hot_rows(settings), won(open_archive(settings)))
    assert clean(settings)


class Broken(Exception):  # noqa: N818 - stands for a kill
    """The process ends here."""


def test_a_load_broken_off_and_a_backfill_complete_each_other(
    settings: Settings, hot: HotStore, file: Path, expected: pl.DataFrame
) -> None:
    def breaks(_: object) -> None:
        raise Broken

    with pytest.raises(Broken):
        HistoricalLoad(settings, hot, open_archive(settings)).load(file, breaks)
    stored = archived(settings).height
    assert 0 < stored < ROWS
    done = fill(settings, hot, file, DAYS, 1)
    assert done.added == ROWS - stored
    load(settings, hot, file)
    assert_frame_equal(archived(settings), expected, check_exact=True)
    assert clean(settings)


def test_a_load_and_backfills_at_the_same_time(
    settings: Settings, hot: HotStore, file: Path, expected: pl.DataFrame
) -> None:
    errors: list[BaseException] = []

    def run(work) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - asserted on below
                errors.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    threads = [
        run(lambda: load(settings, hot, file)),
        *(run(lambda number=number: fill(settings, hot, file, number, number)) for number in range(1, DAYS + 1)),
    ]
    for thread in threads:
        thread.join()
    assert errors == []
    assert_frame_equal(archived(settings), expected, check_exact=True)
    assert clean(settings)


def streamed(settings: Settings, *rows: tuple) -> None:
    """Rows of a stream in the archive, on the dates of history."""
    frame = pl.DataFrame(rows, schema=READING_SCHEMA, orient="row").with_columns(
        pl.lit("stream:abc").alias("source"),
        pl.lit(0, pl.Int32).alias("source_partition"),
        pl.int_range(len(rows), dtype=pl.Int64).alias("source_offset"),
    )
    archive = open_archive(settings)
    archive.create()
    app = "sensor_readings/abc/0"
    entry = LedgerEntry(app=app, start=0, end=len(rows), stored=len(rows))
    archive.append(Commit(frame, [entry], {app: archive.position(app)}))


def test_what_was_streamed_is_not_doubled_unless_the_day_is_replaced(
    settings: Settings, hot: HotStore, file: Path, expected: pl.DataFrame
) -> None:
    start = (day(2) - dt.date(1970, 1, 1)).days * DAY_NS
    at_key, between = start + 1_500_000_000, start + 77
    streamed(settings, (1, at_key, 99.0, 1.0, 1.0, 2.0), (1, between, 98.0, 1.0, 1.0, 2.0))
    done = fill(settings, hot, file, 2, 2)
    assert done.added == MOTES * A_DAY - 1
    rows = won(open_archive(settings))
    assert rows.height == MOTES * A_DAY + 1
    assert rows.filter(timestamp=at_key, mote_id=1)["temperature"].to_list() == [99.0]

    replaced = fill(settings, hot, file, 2, 2, replace=True)
    assert (replaced.added, replaced.removed) == (1, 2)
    wanted = expected.filter(pl.concat_str("year", "month", "day", separator="-") == str(day(2)))
    assert_frame_equal(archived(settings), wanted, check_exact=True)
    assert_frame_equal(hot_rows(settings), won(open_archive(settings)))
    assert clean(settings)


def test_a_day_that_was_damaged_is_mended_by_replacing_it(
    settings: Settings, hot: HotStore, file: Path, expected: pl.DataFrame
) -> None:
    load(settings, hot, file)
    archive = open_archive(settings)
    remove(archive, Scope.day(day(3), [1]), reason="test")
    archive.table().update(updates={"temperature": "-1"}, predicate=f"day = '{day(3):%d}'")
    done = fill(settings, hot, file, 3, 3, replace=True)
    assert (done.added, done.changed) == (A_DAY, (MOTES - 1) * A_DAY)
    assert_frame_equal(archived(settings), expected, check_exact=True)
    assert clean(settings)


def test_without_mote_folders_it_is_the_same(tmp_path: Path, file: Path, expected: pl.DataFrame) -> None:
    settings = Settings(data_dir=tmp_path / "flat", archive_mote_folders=False)
    hot = open_hot(settings)
    fill(settings, hot, file, DAYS, 1)
    fill(settings, hot, file, DAYS, 1, replace=True)
    load(settings, hot, file)
    hot.close()
    assert_frame_equal(archived(settings), expected, check_exact=True, check_row_order=False)
    assert clean(settings)


def test_days_of_the_stream_are_refused(settings: Settings, hot: HotStore, file: Path) -> None:
    with pytest.raises(LiveDayError, match="belongs to the stream"):
        fill(settings, hot, file, 1, 0)
    assert not open_archive(settings).exists()


def test_days_before_history_are_refused(settings: Settings, hot: HotStore, file: Path) -> None:
    with pytest.raises(OutsideHistoryError, match=f"from {day(DAYS)} to {day(1)}"):
        fill(settings, hot, file, DAYS + 1, DAYS)
    assert not open_archive(settings).exists()


def test_the_file_is_the_one_loaded_last(settings: Settings, hot: HotStore, file: Path) -> None:
    with pytest.raises(NoHistoryError, match="sieis load"):
        history_file(settings)
    fill(settings, hot, file, 1, 1)
    assert history_file(settings) == file
    assert set(LINEAGE_SCHEMA) <= set(open_archive(settings).scan_all().collect_schema())
