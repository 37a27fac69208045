"""Care of the archive: no row lost that should stay, none kept that should go, positions and ledger as before."""

import datetime as dt
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import Archive, Commit, FenceError, LedgerGapError, VersionGoneError
from sieis_platform.stores.ledger import LEDGER_MART, LedgerCopy, LedgerEntry
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.upkeep import compact_day, drop_superseded, expire, unfinished_days, vacuum
from sieis_platform.timeline import DAY_NS

TODAY = dt.date(2026, 3, 10)
MIDNIGHT = (TODAY - dt.date(1970, 1, 1)).days * DAY_NS
APP = "sensor_readings/one/0"
HOURS = 168
LONG_AGO = time.time() - (HOURS + 24) * 3600


def rows(keys: Sequence[tuple[int, int]], start: int, temperature: float = 20.0) -> pl.DataFrame:
    """Readings (mote, ns after today's midnight) at positions from `start` on."""
    return pl.DataFrame(
        [(mote, MIDNIGHT + ns, temperature, 40.0, None, 2.7) for mote, ns in keys], READING_SCHEMA, orient="row"
    ).with_columns(
        source=pl.lit("stream:one"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(start, start + len(keys), dtype=pl.Int64),
    )


def append(archive: Archive, keys: Sequence[tuple[int, int]], temperature: float = 20.0, app: str = APP) -> None:
    position = archive.position(app)
    start = position or 0
    entry = LedgerEntry(app=app, start=start, end=start + len(keys), stored=len(keys))
    archive.append(Commit(rows(keys, start, temperature), [entry], {app: position}))


def days_ago(number: int) -> dt.date:
    return TODAY - dt.timedelta(days=number)


def held(archive: Archive) -> list[tuple[int, int]]:
    """(days ago, mote) of every row."""
    number = (MIDNIGHT - pl.col("timestamp")).floordiv(DAY_NS)
    return sorted(archive.scan_all().select(number, "mote_id").collect().iter_rows())


def files(archive: Archive) -> int:
    return len(archive.table().file_uris())


def age(archive: Archive, *, data: bool = False) -> None:
    """Make everything that lies in the log (and the data files) look older than the horizon."""
    for file in Path(archive.uri).rglob("*.parquet" if data else "_delta_log/*"):
        os.utime(file, (LONG_AGO, LONG_AGO))


@pytest.fixture
def marts(tmp_path: Path) -> Marts:
    return Marts(str(tmp_path / "marts"))


@pytest.fixture
def archive(tmp_path: Path, marts: Marts) -> Archive:
    archive = Archive(str(tmp_path / "archive"), ledger_copy=LedgerCopy(marts))
    archive.create()
    return archive


# -- compaction --------------------------------------------------------------------------------------------------------
def test_the_small_files_of_a_day_become_one_a_mote_and_other_days_stay_as_they_are(archive: Archive) -> None:
    for number in range(4):
        append(archive, [(1, number), (2, number), (1, number - DAY_NS)])
    before = archive.scan_all().sort("source_offset").collect()
    assert compact_day(archive, TODAY) == (8, 2)
    assert files(archive) == 2 + 4
    assert archive.scan_all().sort("source_offset").collect().equals(before)
    version = archive.version()
    assert compact_day(archive, TODAY) == (0, 0)
    assert archive.version() == version
    assert audit_archive(archive).findings == []


def test_appends_to_the_day_being_compacted_keep_every_row_and_position(archive: Archive) -> None:
    stop = threading.Event()
    written = threading.Semaphore(0)

    def write() -> None:
        mine = Archive(archive.uri)
        while not stop.is_set():
            append(mine, [(1, mine.position(APP) or 0), (2, mine.position(APP) or 0)])
            written.release()

    writer = threading.Thread(target=write)
    writer.start()
    compacted = 0
    try:
        while compacted < 5:
            for _ in range(3):
                assert written.acquire(timeout=30)
            compacted += compact_day(archive, TODAY).removed > 0
    finally:
        stop.set()
        writer.join()
    audit = audit_archive(archive)
    assert audit.findings == []
    assert archive.position(APP) == audit.accounts[0].end == audit.accounts[0].rows
    offsets = archive.scan_all().select("source_offset").collect().to_series()
    assert sorted(offsets) == list(range(audit.accounts[0].end))


def test_days_with_loose_small_files_are_unfinished_until_compacted(archive: Archive) -> None:
    assert unfinished_days(archive.files(), 1 << 20) == []
    append(archive, [(1, 0), (1, -DAY_NS)])
    assert unfinished_days(archive.files(), 1 << 20) == []
    append(archive, [(1, 1 - DAY_NS)])
    assert unfinished_days(archive.files(), 1 << 20) == [days_ago(1)]
    assert unfinished_days(archive.files(), 10) == []  # none of these files is that small
    compact_day(archive, days_ago(1))
    assert unfinished_days(archive.files(), 1 << 20) == []


# -- closing -----------------------------------------------------------------------------------------------------------
def test_of_repeated_keys_the_last_written_stays_and_reads_are_as_before(archive: Archive) -> None:
    append(archive, [(1, 0), (2, 0), (3, 0)], temperature=1.0)
    append(archive, [(1, 0), (2, 0), (1, -DAY_NS)], temperature=2.0)
    append(archive, [(1, 0)], temperature=2.0)  # the same values again
    append(archive, [(1, -DAY_NS)], temperature=5.0)  # another day
    before = archive.scan().sort("mote_id", "timestamp").collect()
    untouched = {uri for uri in archive.table().file_uris() if "mote_id=3" in uri or "day=09" in uri}
    assert drop_superseded(archive, TODAY) == 3
    assert archive.scan().sort("mote_id", "timestamp").collect().equals(before)
    assert untouched <= set(archive.table().file_uris())
    assert held(archive) == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 1)]
    audit = audit_archive(archive)
    assert audit.findings == []
    assert (audit.accounts[0].stored, audit.accounts[0].removed, audit.accounts[0].rows) == (8, 3, 5)
    version = archive.version()
    assert drop_superseded(archive, TODAY) == 0
    assert archive.version() == version


def test_removed_rows_of_several_sources_are_each_accounted_to_theirs(archive: Archive) -> None:
    append(archive, [(1, 0), (2, 0)])
    other = "sensor_readings/two/0"
    frame = rows([(1, 0)], 0).with_columns(source=pl.lit("stream:two"))
    archive.append(Commit(frame, [LedgerEntry(app=other, start=0, end=1, stored=1)], {other: None}))
    assert drop_superseded(archive, TODAY) == 1
    audit = audit_archive(archive)
    assert audit.findings == []
    assert [(account.source, account.removed) for account in audit.accounts] == [("stream:one", 1), ("stream:two", 0)]


# -- retention ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("days", "motes", "gone"),
    [
        (None, {}, set()),
        (3, {}, {(4, 1), (4, 2), (4, 3), (5, 1), (5, 2), (5, 3)}),
        (None, {2: 2}, {(3, 2), (4, 2), (5, 2)}),
        (4, {2: 1, 3: 0}, {(5, 1), (2, 2), (3, 2), (4, 2), (5, 2)}),
        (9, {1: 4, 2: 4}, {(5, 1), (5, 2)}),
    ],
)
def test_retention_removes_exactly_what_it_should(
    archive: Archive, days: int | None, motes: dict[int, int], gone: set[tuple[int, int]]
) -> None:
    append(archive, [(mote, -number * DAY_NS) for number in range(6) for mote in (1, 2, 3)])
    before = set(held(archive))
    assert expire(archive, TODAY, days, motes) == len(gone)
    assert set(held(archive)) == before - gone
    assert audit_archive(archive).findings == []
    version = archive.version()
    assert expire(archive, TODAY, days, motes) == 0
    assert archive.version() == version


# -- vacuum and the log ------------------------------------------------------------------------------------------------
def test_a_reader_within_the_horizon_finds_its_files_and_later_they_are_gone(archive: Archive) -> None:
    for number in range(3):
        append(archive, [(1, number)])
    reader = archive.scan_all()
    compact_day(archive, TODAY)
    age(archive, data=True)
    assert vacuum(archive, HOURS).files == 0  # they are old, but were replaced only now
    assert reader.collect().height == 3
    assert len(archive.table().vacuum(0, dry_run=False, enforce_retention_duration=False)) == 3
    assert archive.scan_all().collect().height == 3


def test_files_of_killed_writers_are_deleted_and_the_summary_beside_the_table_is_not(archive: Archive) -> None:
    append(archive, [(1, 0)])
    folder = Path(archive.table().file_uris()[0].removeprefix("file://")).parent
    (folder / "part-of-a-killed-writer.parquet").write_bytes(b"half")
    (folder / "part-of-one-at-work.parquet").write_bytes(b"half")
    os.utime(folder / "part-of-a-killed-writer.parquet", (LONG_AGO, LONG_AGO))
    summary = Path(archive.uri) / "_metrics" / "summary.json"
    summary.parent.mkdir()
    summary.write_text("{}")
    os.utime(summary, (LONG_AGO, LONG_AGO))
    assert vacuum(archive, HOURS).files == 1
    assert (folder / "part-of-one-at-work.parquet").exists()
    assert summary.exists()
    assert held(archive) == [(0, 1)]


def test_the_log_is_cleaned_up_after_its_ledger_was_copied(archive: Archive, marts: Marts) -> None:
    other = "sensor_readings/one/1"
    for number in range(4):
        append(archive, [(1, number), (1, number)])
        archive.append(
            Commit(rows([], 0), [LedgerEntry(app=other, start=number, end=number + 1, stored=0, dead=1)],
                   {other: number or None})
        )  # fmt: skip
    drop_superseded(archive, TODAY)
    before, books = audit_archive(archive), archive.books()
    assert before.accounts[0].removed == 4
    vacuum(archive, HOURS)
    age(archive)
    cleaned = vacuum(archive, HOURS)
    assert cleaned.log_entries > 8
    assert archive.commits()[-1]["version"] > 8
    assert archive.books() == books
    assert audit_archive(archive) == before

    # Positions fence as before, appends and removals go on, and the next copy goes on where this one ended.
    assert (archive.position(APP), archive.position(other)) == (8, 4)
    late = Commit(rows([(1, 99)], 7), [LedgerEntry(app=APP, start=7, end=8, stored=1)], {APP: 7})
    with pytest.raises(FenceError, match="another writer was here"):
        archive.append(late)
    append(archive, [(1, 50), (1, 50)])
    drop_superseded(archive, TODAY)
    age(archive)
    vacuum(archive, HOURS)
    audit = audit_archive(archive)
    assert audit.findings == []
    assert (audit.accounts[0].end, audit.accounts[0].removed) == (10, 5)
    assert archive.books(DeltaTable(archive.uri)).entries[: len(books.entries)] == books.entries


def test_nothing_but_the_vacuum_cleans_up_the_log(archive: Archive) -> None:
    """The library's own clean-up, after a checkpoint, would take ledger entries that were never copied."""
    archive.table().alter.set_table_properties(
        {
            "delta.enableExpiredLogCleanup": "true",  # as a table of an earlier release has it by default
            "delta.logRetentionDuration": "interval 1 hours",
            "delta.checkpointInterval": "2",
        }
    )
    for number in range(4):
        append(archive, [(1, number), (1, number)])
    age(archive)
    for number in range(4):
        compact_day(archive, TODAY)
        append(archive, [(1, 10 + number)])
        drop_superseded(archive, TODAY)
    expire(archive, TODAY + dt.timedelta(days=9), 3, {})
    assert [commit["version"] for commit in archive.commits()][-1] == 0
    assert audit_archive(archive).findings == []


def test_a_copy_made_twice_at_once_counts_once(archive: Archive, marts: Marts) -> None:
    append(archive, [(1, 0)])
    commits, table_id = archive.commits(), str(archive.table().metadata().id)
    assert archive.copy_ledger() == 2
    assert archive.copy_ledger() == 0
    marts.append(LEDGER_MART, marts.scan(LEDGER_MART).collect())  # what a second copier at the same moment leaves
    assert LedgerCopy(marts).covered(table_id) == 1
    assert LedgerCopy(marts).read(table_id, below=2) == archive.books()
    assert LedgerCopy(marts).covered("another table") == -1
    assert len(commits) == 2


def test_a_copy_with_a_hole_covers_what_lies_before_it(archive: Archive, marts: Marts) -> None:
    for number in range(4):
        append(archive, [(1, number)])
    archive.copy_ledger()
    copied = marts.scan(LEDGER_MART).filter(pl.col("version") != 2).collect()
    marts.replace(LEDGER_MART, copied)
    assert archive.ledger_covered() == 1
    assert archive.copy_ledger() == 3
    assert archive.ledger_covered() == 4
    assert LedgerCopy(marts).read(str(archive.table().metadata().id), below=5) == archive.books()


def test_a_ledger_that_is_neither_in_the_log_nor_in_the_copy_is_told(archive: Archive, tmp_path: Path) -> None:
    append(archive, [(1, 0)])
    vacuum(archive, HOURS)
    age(archive)
    vacuum(archive, HOURS)
    lost = Archive(archive.uri, ledger_copy=LedgerCopy(Marts(str(tmp_path / "empty"))))
    for forgetful in (lost, Archive(archive.uri)):
        with pytest.raises(LedgerGapError, match="restore the mart `ledger` from a backup"):
            audit_archive(forgetful)


def test_a_version_that_is_gone_says_so(archive: Archive) -> None:
    append(archive, [(1, 0)])
    vacuum(archive, HOURS)
    age(archive)
    vacuum(archive, HOURS)
    with pytest.raises(VersionGoneError, match="version 1"):
        archive.scan_all(1)


def test_compaction_within_versions_that_lost_their_files_is_told(archive: Archive) -> None:
    append(archive, [(1, 0)])
    append(archive, [(1, 1)])
    reader = archive.scan_all()
    compact_day(archive, TODAY)
    archive.table().vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(VersionGoneError, match="vacuum"), archive.reading():
        reader.collect()
