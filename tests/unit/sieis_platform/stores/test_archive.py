"""The archive: layout, one commit for rows and positions and ledger, the fence, who wins, what is read."""

import contextlib
import datetime as dt
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from polars.testing import assert_frame_equal

from sieis_platform.errors import RetriableError
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import (
    ARCHIVE_SCHEMA,
    Archive,
    ArchiveError,
    ArchiveUnavailableError,
    Commit,
    FenceError,
    LedgerEntry,
)
from sieis_platform.timeline import DAY_NS

DAY = 20_503
MIDNIGHT = DAY * DAY_NS  # 2026-02-19 00:00 UTC
APP = "sensor_readings/incarnation/0"


def rows(keys: list[tuple[int, int]], *, start: int = 0, temperature: float = 20.0, partition: int = 0) -> pl.DataFrame:
    """Readings (mote_id, timestamp) as they come from positions `start` on of one stream partition."""
    frame = pl.DataFrame(
        [(mote, ns, temperature, 40.0, None, 2.7) for mote, ns in keys], schema=READING_SCHEMA, orient="row"
    )
    return frame.with_columns(
        source=pl.lit("stream:incarnation"),
        source_partition=pl.lit(partition, pl.Int32),
        source_offset=pl.int_range(start, start + len(keys), dtype=pl.Int64),
    )


def append(archive: Archive, frame: pl.DataFrame, expected: int | None = None, app: str = APP, **counts: int) -> int:
    start = expected or 0
    end = start + frame.height + sum(counts.values())
    entry = LedgerEntry(app=app, start=start, end=end, stored=frame.height, **counts)
    return archive.append(Commit(frame, [entry], {app: expected}))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive(str(tmp_path / "archive"))
    archive.create()
    return archive


def keys_of(frame: pl.LazyFrame) -> list[tuple[int, int]]:
    return sorted(frame.select("mote_id", "timestamp").collect().rows())


def at_once(works: Sequence[Callable[[], object]]) -> list[BaseException]:
    """Run all at the same moment; what they raised."""
    start = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        start.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


# -- the table ---------------------------------------------------------------------------------------------------------
def test_before_the_first_write_there_is_nothing_and_it_says_what_to_do(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "archive"))
    assert not archive.exists()
    looks: list[Callable[[], object]] = [archive.table, archive.version, archive.scan, archive.scan_all, archive.ledger]
    for look in looks:
        with pytest.raises(ArchiveError, match="sieis load"):
            look()
    assert list(tmp_path.iterdir()) == []


def test_racing_creators_make_it_once(tmp_path: Path) -> None:
    for race in range(10):
        folder = str(tmp_path / str(race))
        assert at_once([Archive(folder).create] * 4) == []
        assert Archive(folder).version() == 0


def test_creating_it_again_changes_nothing(archive: Archive) -> None:
    append(archive, rows([(1, MIDNIGHT)]))
    archive.create()
    assert keys_of(archive.scan_all()) == [(1, MIDNIGHT)]
    assert archive.position(APP) == 1


def test_folders_are_named_by_day_and_mote(archive: Archive) -> None:
    append(archive, rows([(17, MIDNIGHT), (17, MIDNIGHT - 1), (3, MIDNIGHT + DAY_NS - 1)]))
    folders = {str(file.parent.relative_to(archive.uri)) for file in Path(archive.uri).rglob("*.parquet")}
    assert folders == {
        "year=2026/month=02/day=19/mote_id=17",
        "year=2026/month=02/day=18/mote_id=17",
        "year=2026/month=02/day=19/mote_id=3",
    }


def test_without_mote_folders_files_are_sorted_by_mote_and_time(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path / "archive"), mote_folders=False)
    archive.create()
    append(archive, rows([(3, MIDNIGHT), (1, MIDNIGHT + 5), (2, MIDNIGHT + 1), (1, MIDNIGHT + 2)]))
    (file,) = (tmp_path / "archive").rglob("*.parquet")
    assert file.parent.name == "day=19"
    written = pl.read_parquet(file, hive_partitioning=False).select("mote_id", "timestamp").rows()
    assert written == [(1, MIDNIGHT + 2), (1, MIDNIGHT + 5), (2, MIDNIGHT + 1), (3, MIDNIGHT)]


def test_types_and_values_come_back_to_the_last_bit(archive: Archive) -> None:
    frame = rows([(1, MIDNIGHT + 1), (2**31 - 1, MIDNIGHT + 2)]).with_columns(
        temperature=pl.Series([122.153, None], dtype=pl.Float32), light=pl.Series([1e-45, -0.0], dtype=pl.Float32)
    )
    append(archive, frame)
    found = archive.scan_all().select(ARCHIVE_SCHEMA.names()).collect()
    assert found.schema == ARCHIVE_SCHEMA
    assert_frame_equal(found.select(frame.columns).sort("mote_id"), frame, check_exact=True)


# -- appends -----------------------------------------------------------------------------------------------------------
def test_rows_position_and_ledger_come_in_one_commit(archive: Archive) -> None:
    before = archive.version()
    version = append(archive, rows([(1, MIDNIGHT), (2, MIDNIGHT)]), duplicates=3, dead=1)
    assert version == before + 1 == archive.version()
    table = DeltaTable(archive.uri, version=before)
    assert archive.position(APP, table) is None
    assert archive.position(APP) == 6
    assert archive.ledger() == [LedgerEntry(app=APP, start=0, end=6, stored=2, duplicates=3, dead=1, version=version)]
    assert archive.ledger(table) == []


def test_the_ledger_of_a_version_is_the_same_while_others_write(archive: Archive) -> None:
    append(archive, rows([(1, MIDNIGHT)]))
    table = archive.table()
    before = archive.ledger(table)
    append(archive, rows([(1, MIDNIGHT + 1)], start=1), expected=1)
    DeltaTable(archive.uri).optimize.compact()
    assert archive.ledger(table) == before
    assert [entry.version for entry in archive.ledger()] == [1, 2]


def test_positions_without_any_row_are_committed_too(archive: Archive) -> None:
    append(archive, rows([]), dead=5)
    assert archive.position(APP) == 5
    append(archive, rows([(1, MIDNIGHT)], start=5), expected=5)
    assert [(entry.start, entry.end, entry.stored) for entry in archive.ledger()] == [(0, 5, 0), (5, 6, 1)]


def test_several_partitions_move_together_or_not_at_all(archive: Archive) -> None:
    other = APP.replace("/0", "/1")
    append(archive, rows([(2, MIDNIGHT)]), app=other)
    frame = pl.concat([rows([(1, MIDNIGHT)]), rows([(2, MIDNIGHT + 1)], partition=1)])
    entries = [LedgerEntry(app=app, start=0, end=1, stored=1) for app in (APP, other)]
    with pytest.raises(FenceError) as raised:
        archive.append(Commit(frame, entries, {APP: None, other: None}))
    assert (raised.value.app_id, raised.value.expected, raised.value.found) == (other, None, 1)
    assert archive.position(APP) is None
    assert keys_of(archive.scan_all()) == [(2, MIDNIGHT)]


@pytest.mark.parametrize("expected", [None, 1, 3, 99])
def test_a_position_that_is_elsewhere_fences_the_writer_out(archive: Archive, expected: int | None) -> None:
    append(archive, rows([(1, MIDNIGHT), (1, MIDNIGHT + 1)]))
    with pytest.raises(FenceError, match="another writer was here"):
        append(archive, rows([(1, MIDNIGHT + 2)]), expected=expected)
    assert archive.position(APP) == 2
    assert archive.scan_all().collect().height == 2


def test_a_fence_is_no_retriable_error() -> None:
    assert not issubclass(FenceError, RetriableError)


def test_of_writers_racing_for_one_position_exactly_one_wins(archive: Archive) -> None:
    expected = None
    for race in range(5):
        frame = rows([(1, MIDNIGHT + race)], start=race)
        works = [lambda frame=frame, expected=expected: append(Archive(archive.uri), frame, expected)] * 4
        errors = at_once(works)
        assert [type(error) for error in errors] == [FenceError] * 3
        expected = race + 1
        assert archive.position(APP) == expected
    assert archive.scan_all().collect().height == 5
    assert [entry.start for entry in archive.ledger()] == list(range(5))


def test_writers_of_different_partitions_do_not_disturb_each_other(archive: Archive) -> None:
    def write(partition: int) -> None:
        mine = Archive(archive.uri)
        for i in range(5):
            frame = rows([(partition + 1, MIDNIGHT + i)], start=i, partition=partition)
            append(mine, frame, i or None, app=f"sensor_readings/incarnation/{partition}")

    assert at_once([lambda partition=partition: write(partition) for partition in range(4)]) == []
    assert archive.scan_all().collect().height == 20
    assert [archive.position(f"sensor_readings/incarnation/{partition}") for partition in range(4)] == [5] * 4


def test_appends_go_on_beside_deletes_and_compaction(archive: Archive) -> None:
    append(archive, rows([(9, MIDNIGHT - 40 * DAY_NS + i) for i in range(20)]), app="history/old")

    def until_it_takes(change: Callable[[DeltaTable], object]) -> None:
        # A delete and a compaction refuse each other, which is not what is tested: the appends beside them are.
        while True:
            with contextlib.suppress(CommitFailedError):
                change(DeltaTable(archive.uri))
                return

    def expire() -> None:
        for i in range(20):
            until_it_takes(lambda table, i=i: table.delete(f"mote_id = 9 AND timestamp = {MIDNIGHT - 40 * DAY_NS + i}"))

    def write() -> None:
        mine = Archive(archive.uri)
        for i in range(20):
            append(mine, rows([(1, MIDNIGHT + i)], start=i), i or None)

    def compact() -> None:
        for _ in range(5):
            until_it_takes(lambda table: table.optimize.compact(partition_filters=[("day", "=", "19")]))

    assert at_once([expire, write, compact]) == []
    assert keys_of(archive.scan_all()) == [(1, MIDNIGHT + i) for i in range(20)]
    assert archive.position(APP) == 20
    assert sum(entry.stored for entry in archive.ledger() if entry.app == APP) == 20


def test_a_full_disk_moves_no_position_and_passes(small_disk: Any) -> None:
    archive = Archive(str(small_disk.folder / "archive"))
    archive.create()
    append(archive, rows([(1, MIDNIGHT)]))
    noise = pl.Series(range(100_000), dtype=pl.Float32).shuffle(1)
    frame = rows([(1, MIDNIGHT + 1 + i) for i in range(100_000)], start=1).with_columns(
        temperature=noise, humidity=noise.reverse(), voltage=noise.shuffle(2)
    )
    with pytest.raises(ArchiveUnavailableError, match=r"disk .* is full"):
        append(archive, frame, expected=1)
    assert archive.position(APP) == 1
    assert keys_of(archive.scan_all()) == [(1, MIDNIGHT)]
    small_disk.grow(64 * 1024)
    append(archive, frame, expected=1)
    assert archive.position(APP) == 100_001
    assert archive.scan_all().select(pl.len()).collect().item() == 100_001


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("")
    with pytest.raises(ArchiveError, match="cannot be made or opened"):
        Archive(str(tmp_path / "archive")).create()


# -- reads -------------------------------------------------------------------------------------------------------------
def test_conflicting_readings_are_all_kept_and_the_last_one_wins(archive: Archive) -> None:
    key = (1, MIDNIGHT)
    append(archive, rows([key, (2, MIDNIGHT)], temperature=3.0))
    append(archive, rows([key], start=2, temperature=2.0), expected=2)
    within = [rows([key], start=3 + i, temperature=value) for i, value in enumerate([9.0, 1.0])]
    append(archive, pl.concat(within[::-1]), expected=3)  # the later position stands first in the frame
    assert archive.scan_all().filter(mote_id=1).collect().height == 4
    found = archive.scan().sort("mote_id").collect()
    assert found["mote_id"].to_list() == [1, 2]
    assert found["temperature"].to_list() == [1.0, 3.0]
    assert found["source_offset"].to_list() == [4, 1]


def test_what_was_written_later_wins_whatever_position_it_came_from(archive: Archive) -> None:
    append(archive, rows([(1, MIDNIGHT)], start=7, temperature=1.0, partition=5))
    append(archive, rows([(1, MIDNIGHT)], temperature=2.0), app="history/file")
    assert archive.scan().collect()["temperature"].to_list() == [2.0]


def test_compaction_changes_nobodys_victory(archive: Archive) -> None:
    for i, value in enumerate([5.0, 4.0, 3.0]):
        append(archive, rows([(1, MIDNIGHT)], start=i, temperature=value), expected=i or None)
    DeltaTable(archive.uri).optimize.compact()
    assert archive.scan().collect()["temperature"].to_list() == [3.0]


def test_a_scan_takes_the_half_open_interval_of_the_motes_asked_for(archive: Archive) -> None:
    times = [MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 1, MIDNIGHT + DAY_NS - 1, MIDNIGHT + DAY_NS]
    append(archive, rows([(mote, ns) for mote in (1, 2) for ns in times]))
    one = [(1, ns) for ns in times]
    assert keys_of(archive.scan(mote_ids=[1])) == one
    assert keys_of(archive.scan(MIDNIGHT, MIDNIGHT + DAY_NS, [1])) == one[1:4]
    assert keys_of(archive.scan(MIDNIGHT + 1, mote_ids=[1])) == one[2:]
    assert keys_of(archive.scan(end_ns=MIDNIGHT, mote_ids=[1])) == one[:1]
    assert keys_of(archive.scan(MIDNIGHT, MIDNIGHT, [1])) == []
    assert keys_of(archive.scan(mote_ids=[])) == []
    assert keys_of(archive.scan(0, 2**62)) == sorted((mote, ns) for mote in (1, 2) for ns in times)


def test_a_scan_opens_only_the_files_of_its_days_and_motes(archive: Archive) -> None:
    append(archive, rows([(mote, MIDNIGHT + day * DAY_NS) for mote in (1, 2) for day in (-50, -1, 0, 1)]))
    wanted = Path(archive.uri) / "year=2026/month=02/day=19/mote_id=2"
    for file in Path(archive.uri).rglob("*.parquet"):
        if file.parent != wanted and "checkpoint" not in file.name:
            file.unlink()
    assert keys_of(archive.scan(MIDNIGHT, MIDNIGHT + DAY_NS, [2])) == [(2, MIDNIGHT)]


def test_an_older_version_can_be_read(archive: Archive) -> None:
    version = append(archive, rows([(1, MIDNIGHT)]))
    append(archive, rows([(2, MIDNIGHT)], start=1), expected=1)
    assert keys_of(archive.scan_all(version)) == [(1, MIDNIGHT)]


def test_days_before_1970_and_in_leap_years_have_their_folder(archive: Archive) -> None:
    moments = [dt.datetime(1969, 12, 31, 23, 59, tzinfo=dt.UTC), dt.datetime(2024, 2, 29, tzinfo=dt.UTC)]
    times = [int(moment.timestamp()) * 10**9 for moment in moments]
    append(archive, rows([(1, ns) for ns in times]))
    days = archive.scan_all().select("year", "month", "day").collect().rows()
    assert sorted(days) == [("1969", "12", "31"), ("2024", "02", "29")]
    assert keys_of(archive.scan(times[0], times[0] + 1)) == [(1, times[0])]
