"""Tables kept open between reads: as true as tables opened anew, whatever happened to them meanwhile."""

import datetime as dt
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from sieis_platform.reading import ARCHIVE_PARTITIONS, READING_SCHEMA
from sieis_platform.stores import files as module
from sieis_platform.stores.archive import Archive, ArchiveError, Commit, VersionGoneError
from sieis_platform.stores.files import TableFiles, newest_files
from sieis_platform.stores.upkeep import compact_day
from sieis_platform.timeline import DAY_NS

FIRST = dt.date(2026, 2, 19)
DAY = (FIRST - dt.date(1970, 1, 1)).days


class Opened:
    """How often tables were opened."""

    def __init__(self) -> None:
        self.times = 0


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Counts openings of tables that are then read; nothing is kept from other tests."""
    count = Opened()

    class Counting(DeltaTable):
        def __init__(self, *arguments: object, **options: object) -> None:
            count.times += 1
            super().__init__(*arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "DeltaTable", Counting)
    module._KEPT.clear()
    yield count
    module._KEPT.clear()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive(str(tmp_path / "archive"))
    archive.create()
    return archive


def append(archive: Archive, day: int, mote: int = 1, value: float = 20.0) -> None:
    """One reading at the midnight that begins the day FIRST + `day`."""
    frame = pl.DataFrame([(mote, (DAY + day) * DAY_NS, value, 40.0, None, 2.7)], schema=READING_SCHEMA, orient="row")
    archive.append(
        Commit(
            frame.with_columns(
                source=pl.lit("history:a"), source_partition=pl.lit(0, pl.Int32), source_offset=pl.lit(0, pl.Int64)
            ),
            [],
            {},
        )
    )


def days(archive: Archive) -> list[int]:
    with archive.reading():
        found = archive.scan().select(pl.col("timestamp") // DAY_NS - DAY).collect().to_series().to_list()
    return sorted(found)


def test_a_table_is_opened_once_and_read_on_from_there(archive: Archive, opened: Opened) -> None:
    assert days(archive) == []
    for day in range(3):
        append(archive, day)
        assert days(archive) == list(range(day + 1))
        assert days(Archive(archive.uri)) == list(range(day + 1))
    assert opened.times == 1


def test_what_was_read_stays_at_its_version(archive: Archive) -> None:
    append(archive, 0)
    before = archive.files()
    append(archive, 1)
    assert (before.version, len(before.all())) == (1, 1)
    assert (archive.files().version, len(archive.files().all())) == (2, 2)
    assert archive.files(1).all() == before.all()


def test_rewrites_and_log_clean_up_are_seen(archive: Archive, opened: Opened) -> None:
    for value in (1.0, 2.0, 3.0):
        append(archive, 0, value=value)
    assert len(archive.files().all()) == 3
    compact_day(archive, FIRST)
    (left,) = archive.files().all()
    archive.table().create_checkpoint()
    for entry in (Path(archive.uri) / "_delta_log").glob("*.json"):  # as a vacuum does, to the last one
        if entry.stem < f"{archive.version():020}":
            entry.unlink()
    append(archive, 1)
    assert left in archive.files().all()
    assert days(archive) == [0, 1]
    assert opened.times == 1


def test_a_kept_table_whose_own_commit_was_cleaned_up_is_opened_anew(archive: Archive, opened: Opened) -> None:
    append(archive, 0)
    assert days(archive) == [0]
    append(archive, 1)
    archive.table().create_checkpoint()
    (Path(archive.uri) / "_delta_log" / f"{1:020}.json").unlink()
    assert days(archive) == [0, 1]
    assert opened.times == 2


def test_a_table_that_was_removed_is_missing(archive: Archive) -> None:
    append(archive, 0)
    assert days(archive) == [0]
    shutil.rmtree(archive.uri)
    with pytest.raises(ArchiveError, match="there is no archive"):
        days(archive)
    assert not Path(archive.uri).exists()


@pytest.mark.parametrize("commits", [1, 2, 3, 5])
def test_a_table_made_anew_is_another_one(archive: Archive, commits: int) -> None:
    for _ in range(3):
        append(archive, 0)
    assert days(archive) == [0]
    before = archive.files()
    shutil.rmtree(archive.uri)
    archive.create()
    for _ in range(commits):
        append(archive, 7)
    assert days(archive) == [7]
    now = archive.files()
    assert now.table_id == str(DeltaTable(archive.uri).metadata().id) != before.table_id
    assert now.version == commits


def test_a_file_that_is_gone_closes_what_was_kept(archive: Archive, opened: Opened) -> None:
    append(archive, 0)
    (path,) = archive.files().all()
    Path(path).unlink()
    with pytest.raises(VersionGoneError):
        days(archive)
    assert opened.times == 1
    archive.files()
    assert opened.times == 2


def test_threads_that_read_at_once_see_whole_versions(archive: Archive) -> None:
    """Each commit adds a day: whoever reads sees the days 0 to n, never fewer than before."""
    append(archive, 0)
    ended = threading.Event()
    wrong: list[list[int]] = []

    def read() -> None:
        seen = 0
        while not ended.is_set():
            files = archive_of(archive).files()
            found = sorted({int(day) for day in files.listed["partition.day"]})
            if len(found) < seen or found != list(range(19, 19 + len(found))) or files.version != len(found):
                wrong.append(found)
            seen = len(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for day in range(1, 9):
        append(archive, day)
    ended.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def archive_of(archive: Archive) -> Archive:
    """An instance of its own: one may be used by one thread at a time."""
    return Archive(archive.uri)


def test_only_so_many_tables_stay_open(tmp_path: Path, opened: Opened) -> None:
    for number in range(6):
        other = Archive(str(tmp_path / str(number)))
        other.create()
        other.files()
    assert len(module._KEPT) == module._MOST


def test_files_of_days_are_those_of_the_folders(archive: Archive) -> None:
    for day in (0, 9, 10, 11, 400):
        append(archive, day)
        append(archive, day, mote=2)
    files = archive.files()

    def found(first: int | None, last: int | None) -> list[str]:
        bounds = [None if day is None else FIRST + dt.timedelta(days=day) for day in (first, last)]
        return sorted({"-".join(path.split("/")[-5:-2]) for path in files.of_days(*bounds)})

    assert found(9, 11) == ["year=2026-month=02-day=28", "year=2026-month=03-day=01", "year=2026-month=03-day=02"]
    assert found(1, 8) == []
    assert len(files.of_days(FIRST, FIRST)) == 2
    assert found(None, 9) == ["year=2026-month=02-day=19", "year=2026-month=02-day=28"]
    assert found(12, None) == ["year=2027-month=03-day=26"]
    assert sorted(files.of_days(None, None)) == sorted(files.all()) == sorted(archive.table().file_uris())


def test_places_are_those_on_the_disk(tmp_path: Path) -> None:
    """The log writes `%20` for a space in a folder's name, the library also in the path before it."""
    root = tmp_path / "a b"
    write_deltalake(root, pl.DataFrame({"a": [1], "name": ["x y"]}), partition_by=["name"])
    (place,) = TableFiles.of(DeltaTable(root)).all()
    assert Path(place).is_file()


def test_an_empty_table_has_no_files(archive: Archive) -> None:
    files = newest_files(archive.uri, {})
    assert files.all() == files.of_days(FIRST, FIRST) == []
    assert set(ARCHIVE_PARTITIONS) < set(files.schema)


def test_a_vacuum_between_two_reads_changes_nothing_for_the_second(archive: Archive) -> None:
    for value in (1.0, 2.0):
        append(archive, 0, value=value)
    assert days(archive) == [0]
    compact_day(archive, FIRST)
    archive.table().vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert days(archive) == [0]
