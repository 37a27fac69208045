"""The readings of the data set in the order and under the dates of the platform, day after day, from a position on.

Belongs here: which reading comes next. Not here: when it is due (pace) or how it travels (emitter).
"""

import datetime as dt
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import polars as pl

from sieis_platform.errors import FatalError
from sieis_platform.reading import KEY, READING_SCHEMA
from sieis_platform.timeline import DAY_NS, Timeline

_EPOCH: Final = dt.date(1970, 1, 1)


class NothingToEmitError(FatalError):
    """No reading is left for the dates and motes asked for; the text says which dates there are."""


class Days(Protocol):
    """A data set day by day (sieis_platform.sources.days.DatasetDays)."""

    @property
    def days(self) -> Sequence[dt.date]:
        """Its days that have readings, ascending."""
        ...

    @property
    def motes(self) -> Sequence[int]:
        """Its mote ids."""
        ...

    def readings(self, day: dt.date) -> pl.DataFrame:
        """Readings of one day, READING_SCHEMA, sorted by timestamp and mote."""
        ...


class Cursor(NamedTuple):
    """A place in the order of readings: everything up to and with (timestamp, mote_id) lies behind it."""

    timestamp: int
    mote_id: int


def day_start(day: dt.date) -> Cursor:
    """The place before the first reading of a platform date."""
    return Cursor((day - _EPOCH).days * DAY_NS, 0)


class Replay:
    """Walks the data set from a cursor on; without end where the timeline repeats it.

    Emits the `motes` lowest ids of the data set. Where more are asked for, each mote is repeated under new ids above
    the highest: the copies carry the same values at the same moments. Of readings with one key the last is emitted.
    """

    def __init__(self, days: Days, timeline: Timeline, motes: int, start: Cursor) -> None:
        """Raises: NothingToEmitError where no reading of these motes follows `start`."""
        self._days, self._timeline = days, timeline
        self._with_readings = frozenset(days.days)
        self._as = _fleet(days.motes, motes)
        self._day = _EPOCH + dt.timedelta(days=start.timestamp // DAY_NS)
        if timeline.mode != "align":
            self._day = max(self._day, timeline.platform_day(timeline.first_day))
        self._load(start)
        if self.next_timestamp is None:
            raise NothingToEmitError(self._nothing(start))

    @property
    def motes(self) -> list[int]:
        """The mote ids emitted."""
        return self._as["as_id"].sort().to_list()

    @property
    def day(self) -> dt.date:
        """Platform date of the next reading."""
        return self._day

    @property
    def dataset_day(self) -> dt.date | None:
        """Day of the data set that is shown on `day`."""
        return self._timeline.dataset_day(self._day)

    @property
    def next_timestamp(self) -> int | None:
        """Unix nanoseconds of the next reading, or None where none is left."""
        return int(self._times[self._at]) if self._at < len(self._times) else None

    def upto(self, due_ns: int, limit: int) -> pl.DataFrame | None:
        """Take the next readings up to and with `due_ns`: at most `limit`, all of one day; None where none is due."""
        end = min(int(np.searchsorted(self._times, due_ns, side="right")), self._at + limit)
        if end <= self._at:
            return None
        taken = self._rows[self._at : end]
        self._at = end
        if self._at == len(self._times):
            self._day += dt.timedelta(days=1)
            self._load(None)
        return taken

    def _load(self, after: Cursor | None) -> None:
        """Go to the next day that has readings, from `_day` on; no more than once around the data set."""
        self._rows, self._times, self._at = pl.DataFrame(schema=READING_SCHEMA), np.empty(0, np.int64), 0
        for _ in range(self._timeline.days + 1):
            rows = self._of(self._day)
            if after is not None:
                rows = rows.filter(
                    (pl.col("timestamp") > after.timestamp)
                    | ((pl.col("timestamp") == after.timestamp) & (pl.col("mote_id") > after.mote_id))
                )
            if not rows.is_empty():
                self._rows, self._times, self._at = rows, rows["timestamp"].to_numpy(), 0
                return
            self._day += dt.timedelta(days=1)
            after = None

    def _of(self, day: dt.date) -> pl.DataFrame:
        source = self._timeline.dataset_day(day)
        if source is None or source not in self._with_readings:
            return pl.DataFrame(schema=READING_SCHEMA)
        return (
            self._days.readings(source)
            .join(self._as, on="mote_id")
            .with_columns(pl.col("as_id").alias("mote_id"), pl.col("timestamp") + (day - source).days * DAY_NS)
            .select(READING_SCHEMA.names())
            .unique(KEY, keep="last", maintain_order=True)  # a cursor cannot stand between two of one key
            .sort("timestamp", "mote_id")
        )

    def _nothing(self, start: Cursor) -> str:
        asked = _EPOCH + dt.timedelta(days=start.timestamp // DAY_NS)
        if not self._with_readings:
            return "the data set has no readings at all; give another with --data or SIEIS_DATA_FILE"
        if self._timeline.mode == "align":
            return (
                f"motes {self.motes[0]} to {self.motes[-1]} have no readings in the data set; ask for more with --motes"
            )
        first, last = (self._timeline.platform_day(day) for day in (min(self._with_readings), max(self._with_readings)))
        return (
            f"no readings from {asked} on: in timeline mode '{self._timeline.mode}' there are readings from {first} "
            f"to {last}; start at one of them with --from, or choose the mode 'align' in a new SIEIS_DATA_DIR"
        )


def _fleet(ids: Sequence[int], motes: int) -> pl.DataFrame:
    """Columns `mote_id` (in the data set) and `as_id` (emitted): the lowest ids, then as many copies as it takes."""
    known = sorted(ids)
    real = known[:motes]
    copies = (
        [(known[number % len(known)], known[-1] + 1 + number) for number in range(motes - len(real))] if known else []
    )
    pairs = [*zip(real, real, strict=True), *copies]
    return pl.DataFrame(pairs, schema={"mote_id": pl.Int32(), "as_id": pl.Int32()}, orient="row")
