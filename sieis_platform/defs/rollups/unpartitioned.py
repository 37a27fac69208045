"""Past days that have readings but no partition: named, and alerted once.

Belongs here: what is said of them. Not here: which days those are (late.py), where partitions begin (partitions.py).
"""

import datetime as dt
from collections.abc import Sequence
from typing import Final

from sieis_platform.defs.resources import PlatformResource
from sieis_platform.state import NewAlert

#: Dagster's daemon loads the code anew every minute (not that of a code server of its own): no news before.
_TELL_AFTER_SECONDS: Final = 600
_NAMED: Final = 5


def told(platform: PlatformResource, waiting: dict[str, int], moment: int) -> dict[str, int]:
    """`waiting`, with 0 for the days that an alert tells of from now on: one alert a day, however long it waits.

    Raises: StateUnavailableError, StateError: the next look then tells them.
    """
    new = [
        dt.date.fromisoformat(day) for day, since in waiting.items() if since and moment - since >= _TELL_AFTER_SECONDS
    ]
    if not new:
        return waiting
    alert = NewAlert(
        subject=f"late_data/partitions/{new[0]}",
        title=f"{len(new)} days have readings but no partition",
        text=f"Nothing is derived of {some(new)}: Dagster's code was loaded before they were known, or they lie more "
        "than ten years back (a mote's clock?). The runbook tells what to do (Days without a partition).",
        level="warning",
    )
    with platform.alerts() as alerts:
        alerts.raise_alert(alert)
    return {day: 0 if dt.date.fromisoformat(day) in new else since for day, since in waiting.items()}


def some(days: Sequence[dt.date]) -> str:
    """The first few of them, and how many more."""
    named = ", ".join(str(day) for day in days[:_NAMED])
    return named if len(days) <= _NAMED else f"{named} and {len(days) - _NAMED} more"
