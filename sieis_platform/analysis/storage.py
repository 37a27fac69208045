"""What the tables weigh: files, bytes, small files, and how much smaller the archive is than the messages it came from.

Belongs here: the figures. Not here: when they are taken or where they are kept.
"""

import datetime as dt
from typing import Final, NamedTuple

import msgspec
import polars as pl

from sieis_platform.reading import ARCHIVE_PARTITIONS, FIELDS, READING_SCHEMA
from sieis_platform.stores.files import TableFiles

#: Readings whose messages are measured. Of 10,000 plausible ones the mean length is known to a tenth of a byte.
SAMPLE_ROWS: Final = 10_000

REPORT_SCHEMA: Final = pl.Schema(
    {
        "date": pl.String(),
        "measured_at": pl.Int64(),
        "table": pl.String(),
        "version": pl.Int64(),
        "files": pl.Int64(),
        "rows": pl.Int64(),
        "bytes": pl.Int64(),
        "small_files": pl.Int64(),
        "days": pl.Int64(),
        "raw_bytes": pl.Int64(),
        "compression_ratio": pl.Float64(),
    }
)
"""Columns of the mart `storage_report`. `measured_at`: Unix ns. `days`: days that have rows. `raw_bytes`: the readings
as JSON messages, estimated from a sample; it, `days` and the ratio are null for the marts."""


class Weight(NamedTuple):
    """One table at one version; `first_day`, `last_day` and `days` are of tables partitioned as the archive is."""

    version: int
    files: int
    rows: int
    bytes: int
    small_files: int
    days: int | None = None
    first_day: dt.date | None = None
    last_day: dt.date | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `_metrics/summary.json` beside the archive says of its live table; `cold` is the Weight of the other."""

    measured_at: dt.datetime
    version: int
    files: int
    rows: int
    bytes: int
    small_files: int
    small_file_bytes: int
    days: int
    first_day: dt.date | None
    last_day: dt.date | None
    raw_bytes: int
    compression_ratio: float | None
    ledger_copied_to_version: int
    cold: dict[str, int | dt.date | None] | None = None


def weigh(table: TableFiles, small_file_bytes: int) -> Weight:
    """The table's weight, from its log alone; files below `small_file_bytes` are small."""
    listed = table.listed
    if listed.is_empty():
        return Weight(table.version, 0, 0, 0, 0)
    size = listed["size_bytes"]
    weight = Weight(
        table.version,
        listed.height,
        int(listed["num_records"].sum()),
        int(size.sum()),
        int((size < small_file_bytes).sum()),
    )
    folders = [f"partition.{name}" for name in ARCHIVE_PARTITIONS]
    if not set(folders) <= set(listed.columns):
        return weight
    days = listed.select(pl.concat_str(folders).str.to_date("%Y%m%d").unique().sort()).to_series().to_list()
    return weight._replace(days=len(days), first_day=days[0], last_day=days[-1])


def message_bytes(readings: pl.DataFrame) -> float:
    """Mean bytes of these readings (READING_SCHEMA) as JSON messages of the topic; 0 without any."""
    if readings.is_empty():
        return 0.0
    moment = pl.from_epoch(pl.col("timestamp"), time_unit="ns").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    message = pl.struct(pl.col("mote_id"), *FIELDS, moment.alias("timestamp")).struct.json_encode()
    return float(readings.select(READING_SCHEMA.names()).select(message.str.len_bytes().mean()).item())


def report_row(table: str, weight: Weight, moment: dt.datetime, raw_bytes: int | None = None) -> pl.DataFrame:
    """One row of the mart (REPORT_SCHEMA)."""
    return pl.DataFrame(
        {
            "date": [moment.date().isoformat()],
            "measured_at": [int(moment.timestamp() * 1_000_000) * 1_000],
            "table": [table],
            **{name: [getattr(weight, name)] for name in ("version", "files", "rows", "bytes", "small_files", "days")},
            "raw_bytes": [raw_bytes],
            "compression_ratio": [ratio(raw_bytes, weight.bytes)],
        },
        schema=REPORT_SCHEMA,
    )


def ratio(raw_bytes: int | None, stored_bytes: int) -> float | None:
    """How many times smaller the stored form is; None where there is nothing to compare."""
    return round(raw_bytes / stored_bytes, 2) if raw_bytes and stored_bytes else None
