"""The days that derived assets are partitioned by, and the window of days that one run is about.

Belongs here: partitions and windows. Not here: what is computed for them. The timeline file is the only thing read.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

import dagster as dg
from dagster._core.storage.tags import (  # the keys have no public name; they are what the UI's backfills set
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from sieis_platform.settings import Settings
from sieis_platform.timeline import DAY_NS, TimelineFile

#: Without a timeline (nothing loaded yet) the partitions begin this many days back.
_DEFAULT_HISTORY_DAYS: Final = 30
_EPOCH: Final = dt.date(1970, 1, 1)


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition a day (UTC), from the first day of history to today.

    `end_offset=1`: Dagster's days end yesterday otherwise. Where no timeline is fixed yet, the last 30 days.
    """
    timeline = TimelineFile.of(settings).read()
    if timeline is None:
        first = today() - dt.timedelta(days=_DEFAULT_HISTORY_DAYS)
    else:
        first = min([timeline.anchor, *timeline.history_days])
    return dg.DailyPartitionsDefinition(start_date=first.isoformat(), end_offset=1)


def history_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition a day of history: the data set's span on the platform's dates, up to the day before the anchor.

    Where no timeline is fixed yet, the last 30 days; the run that fixes it refuses what is then outside.
    """
    timeline = TimelineFile.of(settings).read()
    history = timeline.history_days if timeline else []
    first = history[0] if history else today() - dt.timedelta(days=_DEFAULT_HISTORY_DAYS)
    end = history[-1] + dt.timedelta(days=1) if history else today()
    return dg.DailyPartitionsDefinition(start_date=first.isoformat(), end_date=end.isoformat())


def today() -> dt.date:
    """Today's date, UTC."""
    return dt.datetime.now(dt.UTC).date()


#: Days of one run: a week of 42 motes is aggregated in about a second, and a failure costs no more than that.
_RUN_DAYS: Final = 35


@dataclass(frozen=True)
class Window:
    """The days `first` to `last`, both inclusive."""

    first: dt.date
    last: dt.date

    @classmethod
    def of_keys(cls, keys: dg.PartitionKeyRange) -> Self:
        """The window of a range of daily partition keys."""
        return cls(dt.date.fromisoformat(keys.start), dt.date.fromisoformat(keys.end))

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> Self | None:
        """The window that a run is about, from its tags (a check has no partition of its own), or None."""
        start = tags.get(ASSET_PARTITION_RANGE_START_TAG) or tags.get(PARTITION_NAME_TAG)
        end = tags.get(ASSET_PARTITION_RANGE_END_TAG) or tags.get(PARTITION_NAME_TAG)
        if not (start and end):
            return None
        return cls(dt.date.fromisoformat(start), dt.date.fromisoformat(end))

    def tags(self) -> dict[str, str]:
        """The tags that make one run cover this window."""
        return {
            ASSET_PARTITION_RANGE_START_TAG: self.first.isoformat(),
            ASSET_PARTITION_RANGE_END_TAG: self.last.isoformat(),
        }

    @property
    def days(self) -> int:
        """Number of days."""
        return (self.last - self.first).days + 1

    @property
    def start_ns(self) -> int:
        """First nanosecond of the window."""
        return (self.first - _EPOCH).days * DAY_NS

    @property
    def end_ns(self) -> int:
        """First nanosecond after the window."""
        return self.start_ns + self.days * DAY_NS

    @property
    def keys(self) -> list[str]:
        """The partition keys, ascending."""
        return [(self.first + dt.timedelta(days=i)).isoformat() for i in range(self.days)]

    def batches(self, days: int) -> Iterator["Window"]:
        """The window in pieces of at most `days` days, so that memory does not grow with its length."""
        first = self.first
        while first <= self.last:
            last = min(self.last, first + dt.timedelta(days=days - 1))
            yield Window(first, last)
            first = last + dt.timedelta(days=1)


def windows(days: Iterable[dt.date], most: int = _RUN_DAYS) -> list[Window]:
    """Exactly these days, as few windows as possible, none longer than `most` days."""
    found: list[Window] = []
    for day in sorted(days):
        if found and (day - found[-1].last).days == 1 and found[-1].days < most:
            found[-1] = Window(found[-1].first, day)
        else:
            found.append(Window(day, day))
    return found
