"""The hot store's contract: what SQLite and InfluxDB both must do, in frames and nanoseconds.

Belongs here: the protocol, its schemas and errors. Not here: any query language.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol

import polars as pl

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.reading import FIELDS, READING_SCHEMA
from sieis_platform.timeline import DAY_NS

Period = Literal["hourly", "daily"]

#: Short names of the aggregate columns, as in `temp_avg` (InfluxDB field names of sensor_reading_daily_agg).
SHORT_NAMES: Final[dict[str, str]] = {"temperature": "temp", "humidity": "hum", "light": "light", "voltage": "volt"}
STATISTICS: Final = ("avg", "min", "max", "std", "median")

AGGREGATE_SCHEMA: Final = pl.Schema(
    {
        "mote_id": pl.Int32(),
        "period_start": pl.Int64(),
        **{f"{SHORT_NAMES[field]}_{statistic}": pl.Float64() for field in FIELDS for statistic in STATISTICS},
        "record_count": pl.Int64(),
        "null_count": pl.Int64(),
        "out_of_range_count": pl.Int64(),
    }
)
"""One row a mote and period; `period_start` is Unix ns UTC. mote_id 0 is the whole building."""

AGGREGATE_MARTS: Final[dict[Period, str]] = {"hourly": "hourly_aggregates", "daily": "daily_aggregates"}
"""Names of the marts whose rows (AGGREGATE_SCHEMA and `date`) the hot store shows."""

LATEST_SCHEMA: Final = pl.Schema({**READING_SCHEMA, "updated_timestamp": pl.String()})
"""A reading and when the hot store wrote it (ISO 8601, UTC)."""

SUMS: Final[dict[str, str]] = {f"{field}_sum": field for field in FIELDS}
DAILY_SUMS_SCHEMA: Final = pl.Schema(
    {"mote_id": pl.Int32(), "day_start": pl.Int64(), "readings": pl.Int64(), **dict.fromkeys(SUMS, pl.Float64())}
)
"""One row a mote and day (UTC) that has readings, counted and added up; `day_start` is Unix ns. Null counts as 0."""


class HotStoreUnavailableError(RetriableError):
    """The hot store does not answer, is locked or too busy; the same call may succeed later."""


class HotStoreError(FatalError):
    """The hot store refuses for a reason that will not pass (wrong schema, unreadable file, no permission)."""


class AggregatesRefusedError(HotStoreError):
    """Some aggregates were refused, and not for their age; the others are written. Only a person can mend that."""


class Retention(NamedTuple):
    """Days a hot store keeps readings and daily aggregates, and hourly aggregates; None: for ever."""

    days: int | None
    hourly_days: int | None

    def oldest_ns(self, now_ns: int, period: Period = "daily") -> int:
        """The oldest moment (Unix ns) that counts; what is before is neither taken nor shown."""
        days = self.hourly_days if period == "hourly" else self.days
        return -(2**63) if days is None else now_ns - days * DAY_NS


class Expired(NamedTuple):
    """Rows that were beyond the retention and have been removed."""

    readings: int = 0
    daily: int = 0
    hourly: int = 0


class WriteOutcome(NamedTuple):
    """Rows now in the store, rows it refused as older than its retention, and rows it refused for another reason."""

    written: int
    beyond_retention: int
    refused: int = 0


def check_window(aggregates: pl.DataFrame, start_ns: int, end_ns: int) -> None:
    """Raises: HotStoreError where a row of `aggregates` lies outside start_ns <= period_start < end_ns."""
    outside = aggregates.filter(~pl.col("period_start").is_between(start_ns, end_ns, closed="left"))
    if not outside.is_empty():
        raise HotStoreError(
            f"{outside.height} aggregates lie outside the window {start_ns} to {end_ns} that they are to replace, e.g. "
            f"{outside['period_start'][0]}; widen the window or leave them out"
        )


class HotStore(Protocol):
    """The last days, for live screens. Writes are idempotent: same mote and timestamp overwrite, the last row wins.

    What is beyond the retention (`Retention`) is neither taken nor shown, whether or not it has been removed yet: every
    store answers the same at the same moment.
    """

    def write_readings(self, readings: pl.DataFrame) -> WriteOutcome:
        """Write rows with the columns of READING_SCHEMA (others are ignored), in any order; of one key the last wins.

        Raises: HotStoreUnavailableError (retry the same call), HotStoreError.
        """
        ...

    def latest(self, mote_ids: Sequence[int] | None = None) -> pl.DataFrame:
        """The newest reading of each mote (LATEST_SCHEMA), ascending mote_id; of all motes where None."""
        ...

    def readings(
        self, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None = None, limit: int | None = None
    ) -> pl.DataFrame:
        """At most `limit` readings (READING_SCHEMA) in start_ns <= timestamp < end_ns, by (timestamp, mote_id)."""
        ...

    def count_readings(self, start_ns: int | None = None, end_ns: int | None = None) -> int:
        """How many readings lie in start_ns <= timestamp < end_ns; an absent bound is open."""
        ...

    def daily_sums(self, start_ns: int, end_ns: int) -> pl.DataFrame:
        """Readings in start_ns <= timestamp < end_ns by mote and day (DAILY_SUMS_SCHEMA), by (day_start, mote_id).

        A checksum, computed where the readings lie. A store may count in the value that a reading had before it was
        overwritten by one without; `readings` tells.
        """
        ...

    def write_aggregates(self, period: Period, aggregates: pl.DataFrame) -> None:
        """Write rows with the columns of AGGREGATE_SCHEMA; same mote and period_start overwrite.

        Those beyond the retention are dropped: the marts have them. Raises: AggregatesRefusedError,
        HotStoreUnavailableError (repeat the call), HotStoreError.
        """
        ...

    def replace_aggregates(self, period: Period, aggregates: pl.DataFrame, start_ns: int, end_ns: int) -> None:
        """Make `aggregates` (AGGREGATE_SCHEMA) all there is in start_ns <= period_start < end_ns.

        What is there for another mote or period of the window is removed: a mote that has lost its readings must not
        keep the average of them. New rows are written first, so a reader never finds a hole. Twice is like once.
        Ended half-way it has left some of both: repeat it.
        Raises: HotStoreError for a row outside the window; else as `write_aggregates`.
        """
        ...

    def aggregates(
        self, period: Period, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None = None
    ) -> pl.DataFrame:
        """Aggregates (AGGREGATE_SCHEMA) with start_ns <= period_start < end_ns, ascending (period_start, mote_id)."""
        ...

    def delete_readings(self, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None = None) -> int:
        """Remove readings with start_ns <= timestamp < end_ns; the number removed."""
        ...

    def expire(self) -> Expired:
        """Remove what is beyond the retention, where the store does not do so by itself; how much.

        Changes no answer, frees the space. Raises: HotStoreUnavailableError (repeat the call), HotStoreError.
        """
        ...

    def ping(self) -> None:
        """Return if the store answers. Raises: HotStoreUnavailableError, HotStoreError."""
        ...

    def close(self) -> None:
        """Release the connection; the store must not be used afterwards."""
        ...
