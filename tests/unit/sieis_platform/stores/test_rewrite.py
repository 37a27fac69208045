"""Rows taken out or changed: exactly those, accounted for, whoever else writes at the same time."""

import datetime as dt
import threading
from pathlib import Path

import polars as pl
import pytest

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import Archive, ArchiveError, Commit
from sieis_platform.stores.archive_errors import ArchiveUnavailableError
from sieis_platform.stores.ledger import LedgerEntry, RemovedEntry
from sieis_platform.stores.rewrite import ROW_SCHEMA, Scope, remove, replace_rows
from sieis_platform.timeline import DAY_NS

FIRST = dt.date(2026, 2, 27)
MIDNIGHT = (FIRST - dt.date(1970, 1, 1)).days * DAY_NS
APP = "sensor_readings/one/0"


def rows(start: int, days: range = range(4)) -> pl.DataFrame:
    """One reading a day from FIRST on of each of two motes, at positions from `start` on."""
    keys = [(mote, MIDNIGHT + day * DAY_NS + start) for day in days for mote in (1, 2)]
    frame = pl.DataFrame([(*key, 20.0, 40.0, None, 2.7) for key in keys], READING_SCHEMA, orient="row")
    return frame.with_columns(
        source=pl.lit("stream:one"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(start, start + frame.height, dtype=pl.Int64),
    )


def append(archive: Archive, frame: pl.DataFrame) -> None:
    position = archive.position(APP)
    start = position or 0
    entry = LedgerEntry(app=APP, start=start, end=start + frame.height, stored=frame.height)
    archive.append(Commit(frame, [entry], {APP: position}))


def day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number)


def held(archive: Archive) -> set[tuple[int, int]]:
    """(day, mote) of every row."""
    number = (pl.col("timestamp") - MIDNIGHT).floordiv(DAY_NS)
    return set(archive.scan_all().select(number, "mote_id").collect().iter_rows())


@pytest.fixture(params=[True, False], ids=["mote folders", "no mote folders"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    archive = Archive(str(tmp_path / "archive"), mote_folders=request.param)
    archive.create()
    append(archive, rows(0))
    append(archive, rows(8))
    return archive


@pytest.mark.parametrize(
    ("scope", "gone"),
    [
        (Scope.day(day(1)), {(1, 1), (1, 2)}),
        (Scope.day(day(2), [2]), {(2, 2)}),
        (Scope(day(1)), {(0, 1), (0, 2), (1, 1), (1, 2)}),
        (Scope(day(2), day(1)), {(1, 1), (1, 2), (2, 1), (2, 2)}),
        (Scope(day(2), without_motes=[1]), {(0, 2), (1, 2), (2, 2)}),
        (Scope(day(40)), {(number, mote) for number in range(4) for mote in (1, 2)}),
    ],
)
def test_exactly_the_scope_is_removed_and_accounted_for(
    archive: Archive, scope: Scope, gone: set[tuple[int, int]]
) -> None:
    before = held(archive)
    assert remove(archive, scope, reason="retention") == 2 * len(gone)
    assert held(archive) == before - gone
    audit = audit_archive(archive)
    assert audit.findings == []
    assert (audit.accounts[0].stored, audit.accounts[0].removed) == (16, 2 * len(gone))
    assert archive.position(APP) == 16
    version = archive.version()
    assert remove(archive, scope, reason="retention") == 0
    assert archive.version() == version
    assert archive.books().removed == [
        RemovedEntry(source="stream:one", source_partition=0, rows=2 * len(gone), reason="retention", version=version)
    ]


def test_rows_are_left_out_and_values_changed_in_one_commit(archive: Archive) -> None:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        assert frame.schema == ROW_SCHEMA
        assert set(frame["mote_id"]) == {1}
        kept = frame.filter(pl.col("source_offset") < 8)
        return kept.with_columns(pl.lit(None, pl.Float32).alias("temperature"))

    before = archive.scan_all().collect()
    metadata = {"sieis.correction": "c-1"}
    done = replace_rows(
        archive, Scope.day(day(1), [1]), change, reason="corrected", metadata=metadata, transactions={"correct/c-1": 1}
    )
    assert done is not None
    assert done.version == archive.version()
    assert done.changed.select("source_offset", "temperature").rows() == [(2, 20.0)]
    assert done.removed["source_offset"].to_list() == [10]
    after = archive.scan_all().collect()
    assert after.filter(pl.col("temperature").is_null())["source_offset"].to_list() == [2]
    assert set(before["source_offset"]) - set(after["source_offset"]) == {10}
    ingested = after.join(before, on="source_offset").select(pl.col("ingested_at") == pl.col("ingested_at_right"))
    assert ingested.to_series().all()
    assert archive.position("correct/c-1") == 1
    assert archive.commits()[0]["sieis.correction"] == "c-1"
    assert audit_archive(archive).findings == []


def test_without_a_difference_nothing_is_committed(archive: Archive) -> None:
    version = archive.version()
    assert replace_rows(archive, Scope.day(day(1)), lambda frame: frame.reverse(), reason="none") is None
    assert archive.version() == version


def test_all_rows_may_go(archive: Archive) -> None:
    done = replace_rows(archive, Scope.day(day(0)), lambda frame: frame.clear(), reason="corrected")
    assert done is not None
    assert done.removed.height == 4
    assert {number for number, _mote in held(archive)} == {1, 2, 3}
    assert audit_archive(archive).findings == []


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: pl.concat([frame, frame.head(1)]),
        lambda frame: frame.with_columns(pl.col("source_offset") + 100),
        lambda frame: frame.with_columns(pl.col("timestamp") + DAY_NS),
        lambda frame: frame.with_columns(pl.col("mote_id") + 1),
    ],
)
def test_a_rewrite_that_makes_or_moves_rows_is_refused(archive: Archive, change) -> None:
    version = archive.version()
    with pytest.raises(ArchiveError, match="nothing was written"):
        replace_rows(archive, Scope.day(day(1)), change, reason="wrong")
    assert archive.version() == version


def test_appends_to_the_same_folders_meanwhile_are_all_kept(archive: Archive) -> None:
    """Between reading and committing another writer appends to the very day: the change is made anew on all of it."""
    seen: list[int] = []

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        seen.append(frame.height)
        if len(seen) < 3:
            append(Archive(archive.uri, mote_folders="mote_id" in archive.partition_columns), rows(8 + 8 * len(seen)))
        return frame.filter(pl.col("source_offset") % 2 == 0)

    done = replace_rows(archive, Scope.day(day(1)), change, reason="even")
    assert done is not None
    assert seen == [4, 6, 8]
    assert done.removed.height == 4
    assert archive.scan_all().select(pl.len()).collect().item() == 32 - 4
    assert audit_archive(archive).findings == []


def test_a_writer_that_never_stops_loses_nothing_to_removals_and_rewrites(archive: Archive) -> None:
    stop = threading.Event()
    written = threading.Semaphore(0)
    pause_seconds = 0.0

    def write() -> None:
        mine = Archive(archive.uri, mote_folders="mote_id" in archive.partition_columns)
        while not stop.is_set():
            append(mine, rows(mine.position(APP) or 0, range(1, 3)))
            written.release()
            stop.wait(pause_seconds)

    def rewrite(number: int) -> None:
        nonlocal pause_seconds
        while True:
            try:
                replace_rows(
                    archive,
                    Scope.day(day(1)),
                    lambda frame: frame.filter(pl.col("source_offset") % 7 != number),
                    reason="rewrite",
                )
                return
            except ArchiveUnavailableError:
                # A writer without any pause may win each time on a busy machine; then nothing was written, and it
                # gets slower until there is room.
                assert audit_archive(archive).findings == []
                pause_seconds = 2 * pause_seconds or 0.02

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            assert written.acquire(timeout=30)
            rewrite(number)
            remove(archive, Scope.day(day(0), [number]), reason="retention")
            assert audit_archive(archive).findings == []
    finally:
        stop.set()
        writer.join()
    audit = audit_archive(archive)
    assert audit.findings == []
    assert audit.accounts[0].end == archive.position(APP)
    assert audit.accounts[0].rows == audit.accounts[0].stored - audit.accounts[0].removed
