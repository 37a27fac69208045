"""Dataset time to platform time and back, so that a data set of 2004 looks like a building that is alive today.

Belongs here: the mapping and the file that fixes it. Not here: what emits or loads the readings.
"""

import datetime as dt
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import polars as pl

from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings, TimelineMode

DAY_NS = 86_400 * 1_000_000_000
_EPOCH = dt.date(1970, 1, 1)


class TimelineError(FatalError):
    """The timeline cannot be fixed, read, or does not fit the data."""


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """The fixed mapping between days of the data set and days of the platform; time of day is always kept.

    `anchor` is the first live date: history lies before it, the simulator lives from it on.
    """

    mode: TimelineMode
    anchor: dt.date
    first_day: dt.date
    days: int
    phase: int = 0

    def __post_init__(self) -> None:
        if self.days < 1:
            raise TimelineError(f"a data set of {self.days} days has no timeline; give at least one day of readings")
        if not 0 <= self.phase < self.days:
            raise TimelineError(
                f"SIEIS_TIMELINE_PHASE={self.phase} must lie in 0..{self.days - 1}: the data set has {self.days} days"
            )

    @property
    def last_day(self) -> dt.date:
        """Last day of the data set."""
        return self.first_day + dt.timedelta(days=self.days - 1)

    @property
    def history_days(self) -> list[dt.date]:
        """The platform dates that the historical load fills, ascending; each stands for one day of the data set."""
        dates = (self.platform_day(self.first_day + dt.timedelta(days=i)) for i in range(self.days))
        return sorted(date for date in dates if date < self.anchor)

    def platform_day(self, dataset_day: dt.date) -> dt.date:
        """The platform date of one day of the data set in history (in `align`, each dataset day has exactly one)."""
        index = (dataset_day - self.first_day).days
        if not 0 <= index < self.days:
            raise TimelineError(
                f"{dataset_day} is outside the data set, which spans {self.first_day} to {self.last_day}"
            )
        return dataset_day + dt.timedelta(days=int(self._shift_days(index)))

    def dataset_day(self, platform_day: dt.date) -> dt.date | None:
        """The day of the data set shown on a platform date, or None where the mode has none for it."""
        if self.mode == "align":
            index = ((platform_day - self.anchor).days + self.phase) % self.days
            return self.first_day + dt.timedelta(days=index)
        day = platform_day - dt.timedelta(days=self._constant_shift())
        return day if self.first_day <= day <= self.last_day else None

    def to_platform(self, timestamp: str = "timestamp") -> pl.Expr:
        """Expression: dataset nanoseconds in column `timestamp` to platform nanoseconds in history.

        Null where the day lies outside the data set's span.
        """
        index = pl.col(timestamp).floordiv(DAY_NS) - (self.first_day - _EPOCH).days
        if self.mode == "align":
            start = (self.anchor - self.first_day).days - self.days
            shift = start + (index - self.phase) % self.days - index
        else:
            shift = pl.lit(self._constant_shift(), pl.Int64)
        inside = index.is_between(0, self.days - 1)
        return pl.when(inside).then(pl.col(timestamp) + shift * DAY_NS).otherwise(None).alias(timestamp)

    def _shift_days(self, index: int) -> int:
        if self.mode == "align":
            return (self.anchor - self.first_day).days - self.days + (index - self.phase) % self.days - index
        return self._constant_shift()

    def _constant_shift(self) -> int:
        if self.mode == "none":
            return 0
        return (_same_date(self.first_day, self.anchor.year) - self.first_day).days


def _same_date(day: dt.date, year: int) -> dt.date:
    """`day` in another year; Feb 29 becomes Mar 1 where that year has none, so that no two days share a date."""
    try:
        return day.replace(year=year)
    except ValueError:
        return dt.date(year, 3, 1)


@dataclass(frozen=True)
class TimelineFile:
    """The file that keeps the timeline with the data, written once and never changed by a later setting."""

    path: Path

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The timeline file of a data directory."""
        return cls(settings.data_dir / "timeline.json")

    def read(self) -> Timeline | None:
        """The fixed timeline, or None while none is fixed.

        Raises: TimelineError where the file is not a timeline.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Timeline)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError, IsADirectoryError) as error:
            raise TimelineError(f"{self.path} is not a timeline file ({error}); restore it from a backup") from error

    def fix(self, settings: Settings, first_day: dt.date, days: int, today: dt.date | None = None) -> Timeline:
        """The timeline of this data directory; fixed now, for ever, if this is the first use.

        Raises: TimelineError where the phase does not fit the data set.
        """
        kept = self.read()
        if kept is not None:
            return kept
        anchor = settings.anchor_date or today or dt.datetime.now(dt.UTC).date()
        phase = settings.timeline_phase if settings.timeline_mode == "align" else 0
        if "timeline_phase" not in settings.model_fields_set:
            phase = min(phase, days - 1)  # the default serves short data sets too; a phase asked for is never bent
        timeline = Timeline(mode=settings.timeline_mode, anchor=anchor, first_day=first_day, days=days, phase=phase)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(timeline), indent=2))
            os.link(draft, self.path)  # fails where another process was first: its anchor is the one that holds
        except FileExistsError:
            return self.fix(settings, first_day, days, today)
        finally:
            draft.unlink(missing_ok=True)
        return timeline
