"""The inbox: a folder whose files are loaded and moved to done/, or to failed/ with the reason beside them.

Belongs here: which files are ready, what becomes of them. Not here: the load (history.py), nor when it runs.
"""

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.history import HistoricalLoad, LoadSummary, app_of
from sieis_platform.settings import Settings
from sieis_platform.sources.stream import (
    SourceChangedError,
    SourceError,
    SourceNotFoundError,
    SourcePermissionError,
)
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.fates import file_fates
from sieis_platform.stores.hot import HotStore
from sieis_platform.timeline import TimelineFile

DONE: Final = "done"
FAILED: Final = "failed"
#: What browsers, rsync and scp-like tools call a file that they are still writing.
_UNFINISHED: Final = (".part", ".partial", ".tmp", ".filepart", ".crdownload", ".swp", "~")


class InboxUnreadableError(FatalError):
    """The inbox, or its done/ or failed/, cannot be read or written."""


class InboxFileMissingError(FatalError):
    """The inbox has no file of this name (any more)."""


class InboxFileChangedError(RetriableError):
    """A file was written to while it was being loaded; it stays in the inbox and is loaded again."""


class Version(NamedTuple):
    """What tells that a file is still the same: its size in bytes and its modification time."""

    size: int
    modified_ns: int

    def __str__(self) -> str:
        return f"{self.size}-{self.modified_ns}"


class InboxOutcome(NamedTuple):
    """Where a file went, what was loaded of it, or why it was not."""

    moved_to: Path
    summary: LoadSummary | None
    reason: str


def waiting_files(folder: Path) -> dict[str, Version]:
    """The files in `folder` by name, as they are now; those that say by their name that they are unfinished are not.

    Links are not followed: whoever may write here need not be allowed to read what they point to. No folder, no files.
    Raises: InboxUnreadableError.
    """
    try:
        found = {}
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            ready = not path.name.startswith(".") and not path.name.lower().endswith(_UNFINISHED)
            if ready and not path.is_symlink() and path.is_file():
                found[path.name] = _version(path)
    except FileNotFoundError:  # taken away in between: the next look sees what is left
        return {}
    except OSError as error:
        raise InboxUnreadableError(
            f"the inbox {folder} cannot be read ({error.strerror}); check that it is a folder, and its rights"
        ) from error
    return found


def settled(now: Mapping[str, Version], before: Mapping[str, Version]) -> dict[str, Version]:
    """Those of `now` that are as they were at the look before: nobody is writing them."""
    return {name: version for name, version in now.items() if before.get(name) == version}


def load_waiting(settings: Settings, hot: HotStore, archive: Archive, name: str) -> InboxOutcome:
    """Load the file `name` of the inbox and move it to done/, or to failed/ where it has no reading to load.

    So does any file while no timeline is fixed: the data set that is replayed comes with `sieis load`.
    Killed half-way, the file is still there, and loading it again goes on behind the last commit. A store that fails
    is not the file's fault: the error is raised and the file stays.

    Raises: InboxFileMissingError, InboxFileChangedError, InboxUnreadableError, TimelineError; as HistoricalLoad.load.
    """
    folder = settings.inbox_location
    if name in ("", ".", "..") or Path(name).name != name:
        raise InboxFileMissingError(f"{name!r} is no name of a file in {folder}")
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise InboxFileMissingError(f"{folder} has no file {name}; it was loaded or taken away")
    if TimelineFile.of(settings).read() is None:
        return _refused(
            path,
            "this installation has no data set yet, and a file of the inbox must not become it: its days would fix the "
            "timeline for ever. Run `sieis load FILE` with the data set, then put this file into the inbox again",
        )
    before = _version(path)
    try:
        # Not remembered as the data set: the file is moved away, and the simulator would look for it in vain.
        summary = HistoricalLoad(settings, hot, archive).load(path, remembered=False)
    except (SourceChangedError, SourceNotFoundError) as error:
        raise InboxFileChangedError(f"{path} was written to or moved while it was loaded ({error})") from error
    except SourcePermissionError:
        raise
    except SourceError as error:
        return _refused(path, str(error))
    if _version(path) != before:
        raise InboxFileChangedError(f"{path} was written to while it was loaded; it stays and is loaded again")
    if reason := _nothing_loaded(summary, archive):
        return _refused(path, reason)
    return InboxOutcome(_move(path, folder / DONE), summary, "")


def _nothing_loaded(summary: LoadSummary, archive: Archive) -> str:
    """Why no reading of a file is stored; empty where one is, by this load or an earlier one."""
    if summary.rows_loaded or summary.duplicates or summary.skipped.get("already_backfilled"):
        return ""
    if summary.resumed_at_byte:
        if any(one.stored or one.duplicates for one in file_fates(archive, [app_of(summary.fingerprint)])):
            return ""
        return (
            "this very file was here before, and no reading of it was loaded then: the reason lies beside it in failed/"
        )
    left = Counter(summary.rejected) + Counter(summary.skipped)
    if not left:
        return ""
    counts = ", ".join(f"{reason} {count:,}" for reason, count in left.most_common())
    kept = f"; the rejected lines are in {summary.rejects_file}" if summary.rejects_file else ""
    return (
        f"no reading of it was loaded: of {summary.lines_read:,} lines {counts}; readings must lie within the days of "
        f"the data set of this installation (timeline.json) and before its live ones{kept}"
    )


def _refused(path: Path, reason: str) -> InboxOutcome:
    moved = _move(path, path.parent / FAILED)
    _write(moved.with_name(f"{moved.name}.reason.txt"), reason)
    return InboxOutcome(moved, None, reason)


def _version(path: Path) -> Version:
    status = path.stat()
    return Version(status.st_size, status.st_mtime_ns)


def _move(path: Path, folder: Path) -> Path:
    """Into `folder`, under another name where that one is taken: nothing that was loaded is overwritten."""
    target = folder / path.name
    try:
        folder.mkdir(exist_ok=True)
        if target.exists():
            target = folder / f"{path.stem}.{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%f}{path.suffix}"
        return path.rename(target)
    except OSError as error:
        raise InboxUnreadableError(
            f"{path} cannot be moved to {folder} ({error.strerror}); check its rights"
        ) from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise InboxUnreadableError(f"{path} cannot be written ({error.strerror}); check its rights") from error
