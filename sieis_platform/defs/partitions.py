"""The days that derived assets are partitioned by, and the window of days that one run is about.

Belongs here: partitions and windows. Not here: what is computed for them. Two files are all that is read: the timeline
and the first day.
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

from sieis_platform.first_day import FirstDayFile
from sieis_platform.settings import Settings
from sieis_platform.timeline import DAY_NS, TimelineFile

#: Without a timeline (nothing loaded yet) the partitions begin this many days before the first look at an archive.
_DEFAULT_HISTORY_DAYS: Final = 30
#: Ten years. A mote whose clock says 1970 must not make 20,000 partitions, which the UI would draw and backfills offer.
_LONGEST_HISTORY: Final = dt.timedelta(days=3_653)
_EPOCH: Final = dt.date(1970, 1, 1)


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition a day (UTC), from the first day of history, or an earlier one (`reach_back`), to today.

    `end_offset=1`: Dagster's days end yesterday otherwise. Where nothing is fixed yet, the last 30 days.
    """
    timeline = TimelineFile.of(settings).read()
    fixed = [] if timeline is None else [timeline.anchor, *timeline.history_days]
    kept = FirstDayFile.of(settings).read()
    if kept is not None:
        fixed.append(kept)
    first = min(fixed, default=today() - dt.timedelta(days=_DEFAULT_HISTORY_DAYS))
    return dg.DailyPartitionsDefinition(start_date=first.isoformat(), end_offset=1)


def is_fixed(settings: Settings) -> bool:
    """Whether the first partition stays where it is; otherwise it is another day each day."""
    return TimelineFile.of(settings).read() is not None or FirstDayFile.of(settings).read() is not None


def reach_back(settings: Settings, days: Iterable[dt.date]) -> None:
    """Let the partitions begin no later than the oldest of `days`, for good, and fix the first one if none is yet.

    Days more than ten years back are passed over. Fixed first is a month before today, or the oldest day if that is
    earlier: whatever code was loaded meanwhile has these partitions. Raises: FirstDayError, TimelineError.
    """
    begins = daily_partitions(settings).start.date()
    first = min([begins, *(day for day in days if day >= today() - _LONGEST_HISTORY)])
    if first < begins or not is_fixed(settings):
        FirstDayFile.of(settings).lower(first)


def first_partition(
    settings: Settings, context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, asset: dg.AssetKey
) -> dt.date:
    """The first day that a run of `asset`, one of `daily_partitions`, can be asked for.

    The files are read anew: a load may have fixed the timeline since this code was loaded. But Dagster refuses a run
    over a day that the loaded code does not know: that day waits until the code is loaded again.
    """
    first = daily_partitions(settings).start.date()
    try:
        repository = context.repository_def
    except dg.DagsterInvariantViolationError:  # how a schedule's context says that it was evaluated without one
        repository = None
    loaded = repository.asset_graph.get(asset).partitions_def if repository is not None else None
    return max(first, loaded.start.date()) if isinstance(loaded, dg.DailyPartitionsDefinition) else first


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
