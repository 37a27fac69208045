"""Whose a data directory is: the lock of what runs on it, and the mark by which a demo knows its own.

Belongs here: that lock and that mark. Not here: what a demo removes (demo_steps.py), what `up` runs (up.py).
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sieis_platform.errors import FatalError

if TYPE_CHECKING:
    from pathlib import Path

    from sieis_platform.settings import Settings

DEMO_MARK: Final = "demo.json"
"""In a data directory that holds nothing but what a demo made."""

_LOCK: Final = "up.lock"


class FolderBusyError(FatalError):
    """Another `sieis up` or a demo runs on this data directory."""


@contextlib.contextmanager
def held(settings: "Settings") -> Iterator[None]:
    """Keep every other `sieis up` and demo from the data directory; the system gives it back however the process ends.

    Raises: FolderBusyError.
    """
    path = settings.data_dir / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderBusyError(
                f"`sieis up` already runs on {settings.data_dir} (`sieis down` stops it), or a demo does (it ends by "
                "itself)"
            ) from None
        yield


def is_held(settings: "Settings") -> bool:
    """Whether a `sieis up` or a demo runs on the data directory."""
    try:
        with held(settings):
            return False
    except FolderBusyError:
        return True


def mark_as_demo(settings: "Settings") -> None:
    """Say that what is in the data directory from now on is a demo's. For whoever holds it."""
    _mark(settings).write_text(json.dumps({"made_by": "sieis demo"}), encoding="utf-8")


def is_demos(settings: "Settings") -> bool:
    """Whether the data directory holds nothing but what a demo made."""
    return _mark(settings).exists()


def unmark(settings: "Settings") -> None:
    """What is in the data directory is no longer only a demo's, which may not remove it any more. For its holder."""
    _mark(settings).unlink(missing_ok=True)


def claim(settings: "Settings", *, for_demo: bool = False) -> None:
    """As `unmark`, for a command that writes there without holding the directory.

    Where a demo runs right now the mark stays: with `for_demo` the command may be a step of it, else it is refused.
    Raises: FolderBusyError.
    """
    if not is_demos(settings):
        return
    try:
        with held(settings):
            unmark(settings)
    except FolderBusyError:
        # Marked and held: it is a demo that runs, `up` takes the mark away.
        if not for_demo and is_demos(settings):
            raise


def _mark(settings: "Settings") -> "Path":
    return settings.data_dir / DEMO_MARK
