"""The inbox: files are loaded once, moved with what became of them, and left alone while somebody writes them."""

import datetime as dt
import os
from pathlib import Path

import pytest

from sieis_platform import history
from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.history import HistoricalLoad
from sieis_platform.inbox import (
    InboxFileChangedError,
    InboxFileMissingError,
    InboxOutcome,
    InboxUnreadableError,
    load_waiting,
    settled,
    waiting_files,
)
from sieis_platform.settings import Settings
from sieis_platform.sources.chosen import recall
from sieis_platform.sources.profiles import Profile, profile
from sieis_platform.stores.archive import ArchiveUnavailableError, Commit
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.timeline import TimelineFile

LINE = "2004-02-28 00:{minute:02}:30.5 {epoch} 1 20.5 40.1 100.0 2.6\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(data_dir=tmp_path / "var", inbox_dir=tmp_path / "inbox", _env_file=None)
    made.inbox_location.mkdir()
    TimelineFile.of(made).fix(made, dt.date(2004, 2, 28), 1)  # as a load of the data set does
    return made


def put(settings: Settings, name: str = "readings.txt", lines: int = 10) -> Path:
    path = settings.inbox_location / name
    path.write_text("".join(LINE.format(minute=minute, epoch=minute) for minute in range(lines)))
    return path


def load(settings: Settings, name: str = "readings.txt") -> InboxOutcome:
    hot = open_hot(settings)
    try:
        return load_waiting(settings, hot, open_archive(settings), name)
    finally:
        hot.close()


def stored(settings: Settings) -> int:
    return open_archive(settings).scan_all().collect().height


def test_a_file_is_loaded_and_moved_to_done(settings: Settings) -> None:
    path = put(settings)
    outcome = load(settings)
    assert outcome.summary is not None
    assert (outcome.summary.rows_loaded, stored(settings)) == (10, 10)
    assert (path.exists(), outcome.moved_to) == (False, settings.inbox_location / "done" / "readings.txt")
    assert waiting_files(settings.inbox_location) == {}


def test_an_inbox_that_is_no_folder_is_not_taken_for_an_empty_one(settings: Settings) -> None:
    settings.inbox_location.rmdir()
    settings.inbox_location.write_text("")
    with pytest.raises(InboxUnreadableError, match="check that it is a folder"):
        waiting_files(settings.inbox_location)


def test_the_same_file_again_writes_nothing_and_overwrites_nothing(settings: Settings) -> None:
    outcomes = []
    for _ in range(2):
        put(settings)
        outcomes.append(load(settings))
    first, second = outcomes
    assert stored(settings) == 10
    assert first.moved_to != second.moved_to
    assert first.moved_to.exists()
    assert second.moved_to.exists()


def test_of_a_file_that_has_grown_only_what_is_new_is_stored(settings: Settings) -> None:
    put(settings)
    load(settings)
    put(settings, lines=15)
    summary = load(settings).summary
    assert summary is not None
    assert (summary.rows_loaded, summary.duplicates, stored(settings)) == (5, 10, 15)
    assert audit_archive(open_archive(settings)).findings == []


def test_readings_without_some_values_that_are_stored_are_not_stored_again(settings: Settings) -> None:
    short = "2004-02-28 00:01:30.5 1 1 20.5 40.1\n"
    for name, lines in (("a.txt", short), ("b.txt", short + LINE.format(minute=2, epoch=2))):
        (settings.inbox_location / name).write_text(lines)
        load(settings, name)
    assert stored(settings) == 2


def test_of_readings_that_differ_the_later_file_wins_and_may_be_put_right_again(settings: Settings) -> None:
    first, second = LINE.format(minute=1, epoch=1), LINE.format(minute=1, epoch=1).replace("20.5", "21.5")
    for number, (lines, wins) in enumerate(
        [(first, 20.5), (second, 21.5), (first + LINE.format(minute=2, epoch=2), 20.5), (second + first, 20.5)]
    ):
        (settings.inbox_location / f"{number}.txt").write_text(lines)
        load(settings, f"{number}.txt")
        counts = open_archive(settings).scan().sort("timestamp").first().collect()
        assert counts["temperature"].item() == wins


def test_a_file_of_which_nothing_was_loaded_is_refused_again(settings: Settings) -> None:
    for _ in range(2):
        path = settings.inbox_location / "summer.txt"
        path.write_text("".join(f"2004-06-01 00:00:{second:02}.5 1 1 20.5 40.1 100.0 2.6\n" for second in range(20)))
        outcome = load(settings, path.name)
        assert outcome.summary is None
        assert outcome.moved_to.parent.name == "failed"
    assert "was here before" in outcome.reason


def test_what_holds_no_reading_goes_to_failed_with_the_reason(settings: Settings) -> None:
    (settings.inbox_location / "letter.txt").write_text("Dear Sir or Madam\n")
    outcome = load(settings, "letter.txt")
    failed = settings.inbox_location / "failed"
    assert (outcome.summary, outcome.moved_to) == (None, failed / "letter.txt")
    assert "holds no reading" in (failed / "letter.txt.reason.txt").read_text()


def test_a_file_of_the_inbox_does_not_become_the_data_set(settings: Settings, tmp_path: Path) -> None:
    data_set = tmp_path / "data_set.txt"
    data_set.write_text("".join(LINE.format(minute=minute, epoch=minute) for minute in range(30, 40)))
    hot = open_hot(settings)
    HistoricalLoad(settings, hot, open_archive(settings)).load(data_set)
    hot.close()
    put(settings)
    assert load(settings).summary is not None
    assert recall(settings) == data_set


def test_without_a_data_set_a_file_is_refused_and_fixes_nothing(settings: Settings) -> None:
    TimelineFile.of(settings).path.unlink()
    put(settings)
    outcome = load(settings)
    assert (outcome.summary, outcome.moved_to) == (None, settings.inbox_location / "failed" / "readings.txt")
    assert "sieis load" in outcome.moved_to.with_name("readings.txt.reason.txt").read_text()
    assert TimelineFile.of(settings).read() is None


def test_unfinished_hidden_and_linked_files_are_not_waiting(settings: Settings, tmp_path: Path) -> None:
    for name in ("a.txt.part", "b.tmp", ".hidden", "c.txt~"):
        put(settings, name)
    (tmp_path / "secret").write_text("x")
    (settings.inbox_location / "link.txt").symlink_to(tmp_path / "secret")
    put(settings)
    assert set(waiting_files(settings.inbox_location)) == {"readings.txt"}
    with pytest.raises(InboxFileMissingError):
        load(settings, "link.txt")


def test_a_file_that_grows_is_not_settled(settings: Settings) -> None:
    path = put(settings)
    before = waiting_files(settings.inbox_location)
    assert settled(before, {}) == {}
    with path.open("a") as file:
        file.write("more\n")
    now = waiting_files(settings.inbox_location)
    assert settled(now, before) == {}
    assert settled(waiting_files(settings.inbox_location), now) == now


def test_a_file_written_to_while_it_is_loaded_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(settings)
    real = HistoricalLoad.load

    def load_then_touch(self: HistoricalLoad, source: Path, *, remembered: bool) -> object:
        summary = real(self, source, remembered=remembered)
        os.utime(path, ns=(1, 1))
        return summary

    monkeypatch.setattr(HistoricalLoad, "load", load_then_touch)
    with pytest.raises(InboxFileChangedError):
        load(settings)
    assert path.exists()


def test_a_file_that_grows_before_its_first_commit_is_not_loaded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(settings)

    def profile_then_append(source: Path) -> Profile:
        facts = profile(source)
        with path.open("a") as file:
            file.write(LINE.format(minute=30, epoch=30))
        return facts

    with monkeypatch.context() as patched:
        patched.setattr(history, "profile", profile_then_append)
        with pytest.raises(InboxFileChangedError):
            load(settings)
    assert path.exists()
    assert load(settings).summary is not None
    assert stored(settings) == 11  # none twice, under the name of the shorter file


def test_a_file_that_grows_is_committed_no_further(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings.model_copy(update={"load_batch_rows": 1_000})
    path = settings.inbox_location / "readings.txt"
    line = "2004-02-28 {:02d}:{:02d}:{:02d}.5 1 1 20.5 40.1 100.0 2.6\n"
    path.write_text("".join(line.format(i // 3600, i // 60 % 60, i % 60) for i in range(60_000)))
    archive, commits = open_archive(settings), []
    append = archive.append

    def append_both(commit: Commit) -> int:
        commits.append(commit.rows.height)
        with path.open("a") as file:
            file.write(line.format(23, 0, 0))
        return append(commit)

    monkeypatch.setattr(archive, "append", append_both)
    hot = open_hot(settings)
    with pytest.raises(InboxFileChangedError):
        load_waiting(settings, hot, archive, path.name)
    hot.close()
    assert len(commits) == 1
    assert stored(settings) == commits[0] < 60_000


def test_a_file_of_which_nothing_was_loaded_goes_to_failed(settings: Settings) -> None:
    path = settings.inbox_location / "summer.txt"
    path.write_text("".join(f"2004-06-01 00:00:{second:02}.5 1 1 20.5 40.1 100.0 2.6\n" for second in range(20)))
    outcome = load(settings, path.name)
    assert (outcome.summary, outcome.moved_to) == (None, settings.inbox_location / "failed" / "summer.txt")
    told = outcome.moved_to.with_name("summer.txt.reason.txt").read_text()
    assert "of 20 lines outside_dataset_span 20" in told
    assert "timeline.json" in told
    assert stored(settings) == 0


def test_a_store_that_fails_leaves_the_file_where_it_is(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(settings)
    archive = open_archive(settings)

    def full(_: Commit) -> int:
        raise ArchiveUnavailableError("the disk is full")

    monkeypatch.setattr(archive, "append", full)
    hot = open_hot(settings)
    with pytest.raises(ArchiveUnavailableError):
        load_waiting(settings, hot, archive, path.name)
    hot.close()
    assert path.exists()
    assert load(settings).summary is not None


@pytest.mark.parametrize("name", ["../readings.txt", "/etc/passwd", "", "..", "done/readings.txt", "gone.txt"])
def test_only_files_of_the_inbox_are_loaded(settings: Settings, name: str) -> None:
    put(settings)
    with pytest.raises(InboxFileMissingError):
        load(settings, name)


def test_no_folder_is_an_empty_inbox(tmp_path: Path) -> None:
    assert waiting_files(tmp_path / "none") == {}
