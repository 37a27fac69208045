"""Named crash points: places where a test may have the process kill itself, exactly there and without any clean-up.

Belongs here: the names and the kill. Armed by the setting SIEIS_CRASH_AT; without it a point costs one comparison.
"""

import os
import signal
from typing import Final

from sieis_platform.errors import FatalError

POINTS: Final = (
    "archive.before_dead_letters",
    "archive.after_dead_letters",
    "archive.before_commit",
    "archive.after_commit",
    "archive.after_kafka_commit",
    "hot.before_write",
    "hot.after_write",
    "hot.after_kafka_commit",
    "load.before_hot",
    "load.after_hot",
    "load.before_commit",
    "load.after_commit",
    "backfill.before_commit",
    "backfill.after_commit",
    "backfill.before_hot",
    "correct.after_images",
    "correct.after_piece",
    "correct.after_archive",
    "correct.after_hot",
    "rollup.before_mart",
    "rollup.after_mart",
    "rollup.after_hot",
    "cold.after_begin",
    "cold.after_restore",
    "cold.before_cold",
    "cold.after_cold",
    "cold.after_live",
)


class CrashPointError(FatalError):
    """SIEIS_CRASH_AT names a point that does not exist."""


class _Armed:
    name: str = ""
    passes_left: int = 0


def arm(spec: str) -> None:
    """Have the process kill itself at `name`, or at its nth pass with `name:nth`; an empty text disarms.

    Raises: CrashPointError where there is no such point.
    """
    name, _, nth = spec.partition(":")
    if name and (name not in POINTS or not (nth or "1").isdecimal()):
        raise CrashPointError(
            f"SIEIS_CRASH_AT={spec!r} is no crash point; there are {', '.join(POINTS)} (with `:n`, the nth pass)"
        )
    _Armed.name, _Armed.passes_left = name, int(nth or "1")


def point(name: str) -> None:
    """Die here if armed for this point (SIGKILL: no handler, no flush, no atexit)."""
    if name != _Armed.name:
        return
    _Armed.passes_left -= 1
    if _Armed.passes_left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
