"""Named crash points: places where a test may have the process kill or freeze itself, exactly there, without clean-up.

Belongs here: the names and the signal. Armed by the setting SIEIS_CRASH_AT; without it a point costs one comparison.
"""

import os
import re
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
    "aggregates.before_stale",
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


_SPEC: Final = re.compile(r"(?P<name>[^:]*)(:(?P<nth>\d+))?(:(?P<freeze>stop))?")


class _Armed:
    name: str = ""
    passes_left: int = 0
    how: signal.Signals = signal.SIGKILL


def arm(spec: str) -> None:
    """Have the process kill itself at `name`, or at its nth pass with `name:nth`; an empty text disarms.

    With `:stop` behind it freezes there (SIGSTOP), once, and goes on at SIGCONT.

    Raises: CrashPointError where there is no such point.
    """
    found = _SPEC.fullmatch(spec)
    if found is None or (spec and found["name"] not in POINTS):
        raise CrashPointError(
            f"SIEIS_CRASH_AT={spec!r} is no crash point; there are {', '.join(POINTS)} "
            "(with `:n`, the nth pass; with `:stop`, frozen instead of killed)"
        )
    _Armed.name, _Armed.passes_left = found["name"], int(found["nth"] or "1")
    _Armed.how = signal.SIGSTOP if found["freeze"] else signal.SIGKILL


def point(name: str) -> None:
    """Die here, or freeze, if armed for this point (SIGKILL, SIGSTOP: no handler, no flush, no atexit)."""
    if name != _Armed.name:
        return
    _Armed.passes_left -= 1
    if _Armed.passes_left <= 0:
        _Armed.name = ""
        os.kill(os.getpid(), _Armed.how)
