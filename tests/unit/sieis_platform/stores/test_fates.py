"""Questions to the ledger that read little of it answer as the whole ledger does, and read little of it."""

import json
import os
import time
from pathlib import Path

import polars as pl
import pytest

from sieis_platform.stores.archive import Archive, Commit
from sieis_platform.stores.archive_layout import ARCHIVE_SCHEMA
from sieis_platform.stores.cold import COLD_APP
from sieis_platform.stores.corrected import correction_app
from sieis_platform.stores.fates import file_fates, stream_fates
from sieis_platform.stores.ledger import LedgerCopy, LedgerEntry
from sieis_platform.stores.log import CommitLog, LogError
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.upkeep import vacuum
from sieis_platform.timeline import DAY_NS

HOURS = 168
LONG_AGO = time.time() - (HOURS + 24) * 3600
#: The midnight that the tests count days from; the vacuum's own commits are made now.
ZERO = (time.time_ns() // DAY_NS - 60) * DAY_NS
PARTS = ("topic/one/0", "topic/one/1")
FILE = "history/abc"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive(str(tmp_path / "archive"), ledger_copy=LedgerCopy(Marts(str(tmp_path / "marts"))))
    made.create()
    return made


def commit(archive: Archive, day: float, *apps: str, dead: int = 1) -> int:
    """One commit, made on a day, of 10 positions of each of `apps`; its version."""
    table = archive.table()
    starts = {app: archive.position(app, table) for app in apps}
    entries = [
        LedgerEntry(app=app, start=start or 0, end=(start or 0) + 10, stored=10 - dead, dead=dead)
        for app, start in starts.items()
    ]
    version = archive.append(Commit(pl.DataFrame(schema=ARCHIVE_SCHEMA), entries, starts))
    file = Path(archive.uri) / "_delta_log" / f"{version:020}.json"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if "commitInfo" in line:
            line["commitInfo"]["timestamp"] = int(ZERO + day * DAY_NS) // 1_000_000
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return version


def begin_long_ago(archive: Archive) -> None:
    """The table was made before all that follows."""
    file = Path(archive.uri) / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if "commitInfo" in line:
            line["commitInfo"]["timestamp"] = 1
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")


def clean_up(archive: Archive) -> int:
    """The vacuum, a week later: the oldest version that the log then holds."""
    vacuum(archive, HOURS)
    for file in Path(archive.uri).rglob("_delta_log/*"):
        os.utime(file, (LONG_AGO, LONG_AGO))
    vacuum(archive, HOURS)
    return archive.commits()[-1]["version"]


def by_day(archive: Archive, first: int, last: int) -> dict[tuple[str, int], tuple[int, int]]:
    """Stored and dead by app and day of commit, of the days `first` to `last`."""
    fates = stream_fates(archive, ZERO + first * DAY_NS, ZERO + (last + 1) * DAY_NS)
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for entry in fates.entries:
        key = entry.app, (fates.committed[entry.version or 0] - ZERO) // DAY_NS
        stored, dead = found.get(key, (0, 0))
        found[key] = stored + entry.stored, dead + entry.dead
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The versions that were read of the log."""
    versions: list[int] = []
    read = CommitLog.commit
    monkeypatch.setattr(CommitLog, "commit", lambda log, version: versions.append(version) or read(log, version))
    return versions


# -- positions ---------------------------------------------------------------------------------------------------------
def test_positions_are_those_that_the_whole_ledger_ends_at(archive: Archive, reads: list[int]) -> None:
    assert archive.positions() == {}
    commit(archive, 0, FILE)
    for _ in range(6):
        commit(archive, 1, *PARTS)
    ends = {entry.app: entry.end for entry in archive.ledger()}
    assert archive.positions() == ends == {FILE: 10, PARTS[0]: 60, PARTS[1]: 60}
    archive.table().create_checkpoint()
    commit(archive, 1, PARTS[0])
    reads.clear()
    assert archive.positions() == ends | {PARTS[0]: 70}
    assert reads == [8]
    assert clean_up(archive) > 7
    assert archive.positions() == ends | {PARTS[0]: 70}


def test_marks_of_corrections_and_of_whole_and_moved_files_are_no_positions(archive: Archive) -> None:
    marks = {"whole/abc": 10, correction_app("one"): 1, COLD_APP: 3}
    entry = LedgerEntry(app=FILE, start=0, end=10, stored=10)
    archive.append(Commit(pl.DataFrame(schema=ARCHIVE_SCHEMA), [entry], {FILE: None}, marks))
    assert {app: archive.position(app) for app in marks} == marks
    assert archive.positions() == {FILE: 10}


def test_the_hint_to_the_newest_checkpoint_may_be_missing_and_a_damaged_one_is_told(archive: Archive) -> None:
    hint = Path(archive.uri) / "_delta_log" / "_last_checkpoint"
    for _ in range(3):
        commit(archive, 0, *PARTS)
    clean_up(archive)
    expected = archive.positions()
    hint.write_text("{")
    with pytest.raises(LogError, match="delete that file"):
        archive.positions()
    hint.unlink()
    assert archive.positions() == expected == dict.fromkeys(PARTS, 30)


# -- the stream --------------------------------------------------------------------------------------------------------
def test_of_a_span_the_commits_made_in_it(archive: Archive) -> None:
    begin_long_ago(archive)
    commit(archive, 0.5, FILE, dead=9)
    commit(archive, 0.5, *PARTS)
    commit(archive, 0.9, PARTS[0], dead=3)
    commit(archive, 2.0, PARTS[1])
    assert by_day(archive, 0, 0) == {(PARTS[0], 0): (16, 4), (PARTS[1], 0): (9, 1)}
    assert by_day(archive, 1, 1) == {}
    assert by_day(archive, 1, 2) == {(PARTS[1], 2): (9, 1)}
    assert by_day(archive, -5, -1) == {}


def test_a_writer_whose_clock_is_behind_is_not_passed_over(archive: Archive) -> None:
    begin_long_ago(archive)
    minute = 1 / 1440
    commit(archive, 1 + minute, PARTS[0])
    commit(archive, 1 - minute, PARTS[1])  # the last of the day before, committed after the first of this one
    commit(archive, 1 + 2 * minute, PARTS[0])
    assert by_day(archive, 0, 0) == {(PARTS[1], 0): (9, 1)}
    assert by_day(archive, 1, 1) == {(PARTS[0], 1): (18, 2)}


def test_a_span_costs_what_lies_in_it_and_not_what_lies_around(archive: Archive, reads: list[int]) -> None:
    begin_long_ago(archive)
    for day in range(60):
        commit(archive, day, PARTS[0])
    reads.clear()
    assert by_day(archive, 40, 41) == {(PARTS[0], 40): (9, 1), (PARTS[0], 41): (9, 1)}
    assert len(reads) <= 12  # six to halve 61 versions, two in the span, and its ends


def test_what_the_log_no_longer_holds_comes_from_the_copy(archive: Archive) -> None:
    begin_long_ago(archive)
    for day in (0, 0.2, 1, 2):
        commit(archive, day, *PARTS)
    commit(archive, 2.5, FILE)
    before = by_day(archive, 0, 3)
    assert before[PARTS[0], 0] == (18, 2)
    begins = clean_up(archive)
    assert begins > 4
    assert by_day(archive, 0, 3) == before
    assert by_day(archive, 1, 1) == {(app, 1): (9, 1) for app in PARTS}
    now = (time.time_ns() - ZERO) / DAY_NS
    after = before | {(PARTS[0], int(now)): (9, 1)}
    commit(archive, now, PARTS[0])
    assert by_day(archive, 0, int(now)) == after
    marts = Marts(str(Path(archive.uri).parent / "marts"))
    marts.append("ledger", marts.scan("ledger").collect())  # what a second copier at the same moment leaves
    assert by_day(archive, 0, int(now)) == after


# -- files -------------------------------------------------------------------------------------------------------------
def test_a_file_is_summed_over_log_and_copy(archive: Archive) -> None:
    assert file_fates(archive, []) == []
    assert file_fates(archive, [FILE]) == []
    for _ in range(3):
        commit(archive, 0, FILE, PARTS[0], "history/other")
    whole = LedgerEntry(app=FILE, start=0, end=30, stored=27, dead=3, version=3)
    assert file_fates(archive, [FILE, "history/unknown"]) == [whole]
    clean_up(archive)
    commit(archive, 1, PARTS[0])
    assert file_fates(archive, [FILE]) == [whole]
    last = commit(archive, 1, FILE)
    assert file_fates(archive, [FILE]) == [LedgerEntry(app=FILE, start=0, end=40, stored=36, dead=4, version=last)]


def test_the_log_is_not_read_for_a_file_that_the_copy_accounts_for(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        commit(archive, 0, FILE)
    vacuum(archive, HOURS)  # copies; the log still holds all
    for name in ("commits", "books"):
        monkeypatch.setattr(Archive, name, lambda *_, name=name: pytest.fail(f"{name} reads the whole log"))
    (found,) = file_fates(archive, [FILE])
    assert (found.start, found.end, found.stored, found.dead) == (0, 30, 27, 3)
