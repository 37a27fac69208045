"""The contract of one reading: its fields, units, plausible ranges, wire format, Arrow and Polars schemas.

Belongs here: what is true of a reading wherever it is. Not here: how a store lays it out beyond column names and types.
"""

from datetime import datetime
from typing import Annotated, Final, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa


class Quantity(NamedTuple):
    """One measured quantity: its unit and the closed interval outside which a value is physically impossible."""

    unit: str
    low: float
    high: float


# Plausible indoors and within what the mote can measure. Temperature and humidity: a heated office, not the
# -40..124 degC the SHT11 sensor can express (a dying battery reports 122.153 degC). Voltage: two AA cells, 1.8 V
# brown-out to 3.6 V maximum (MICA2DOT datasheet). Light: direct sunlight is about 100,000 lux.
QUANTITIES: Final[dict[str, Quantity]] = {
    "temperature": Quantity("°C", -10.0, 50.0),
    "humidity": Quantity("%RH", 0.0, 100.0),
    "light": Quantity("lux", 0.0, 100_000.0),
    "voltage": Quantity("V", 1.8, 3.6),
}
FIELDS: Final = tuple(QUANTITIES)

#: One reading every 30 s and mote is what the motes were programmed for (Intel Berkeley Research Lab data page).
EXPECTED_INTERVAL_SECONDS: Final = 30

READING_SCHEMA: Final = pl.Schema(
    {"mote_id": pl.Int32(), "timestamp": pl.Int64(), **{field: pl.Float32() for field in FIELDS}}
)
"""Columns of a frame of readings. `timestamp` is Unix nanoseconds, UTC; values are nullable, the two keys are not."""

LINEAGE_SCHEMA: Final = pl.Schema(
    {"source": pl.String(), "source_partition": pl.Int32(), "source_offset": pl.Int64(), "ingested_at": pl.Int64()}
)
"""Where a row came from, and when (Unix ns) it was archived: of two readings with one key the later wins."""

ARCHIVE_PARTITIONS: Final = ("year", "month", "day")

ARROW_SCHEMA: Final = pa.schema(
    [
        pa.field("mote_id", pa.int32(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        *(pa.field(field, pa.float32()) for field in FIELDS),
    ]
)

KEY: Final = ("mote_id", "timestamp")
"""A reading is identified by these two, never by (mote_id, epoch): the epoch counter of the real motes wraps."""

MAX_MOTE_ID: Final = 2**31 - 1
MoteId = Annotated[int, msgspec.Meta(ge=1, le=MAX_MOTE_ID)]


class Message(msgspec.Struct, frozen=True, gc=False):
    """A reading as it travels on the topic `sensor_readings` (JSON, keyed by mote_id as text)."""

    mote_id: MoteId
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]
    temperature: float | None = None
    humidity: float | None = None
    light: float | None = None
    voltage: float | None = None


def out_of_range(field: str) -> pl.Expr:
    """Whether the value of `field` is physically impossible (null where the value is null)."""
    quantity = QUANTITIES[field]
    return ~pl.col(field).is_between(quantity.low, quantity.high)


def any_out_of_range() -> pl.Expr:
    """Whether any value of the reading is physically impossible; never null."""
    return pl.any_horizontal(out_of_range(field).fill_null(False) for field in FIELDS)


def utc(column: str = "timestamp") -> pl.Expr:
    """`column` (Unix ns) as a timezone-aware UTC datetime with ns precision."""
    return pl.from_epoch(pl.col(column), time_unit="ns").dt.replace_time_zone("UTC")
