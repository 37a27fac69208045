"""How the archive's rows lie in their table, live or cold: columns, files, and which of two readings of a key wins.

Belongs here: the layout. Not here: reading or writing a table (archive, cold).
"""

import time
from typing import Final

import polars as pl
from deltalake import WriterProperties

from sieis_platform.reading import ARCHIVE_PARTITIONS, KEY, LINEAGE_SCHEMA, READING_SCHEMA
from sieis_platform.timeline import DAY_NS

ARCHIVE_SCHEMA: Final = pl.Schema(
    {**{name: pl.String() for name in ARCHIVE_PARTITIONS}, **READING_SCHEMA, **LINEAGE_SCHEMA}
)

# Snappy, row groups up to 128 MB, 1 MB pages (DESIGN 3). A row is about 60 bytes, so 2 M rows stay below 128 MB.
WRITER: Final = WriterProperties(compression="SNAPPY", max_row_group_size=2_000_000, data_page_size_limit=1 << 20)
PROPERTIES: Final = {
    # Files are found by their folders and read by time: statistics of more columns made checkpoints six times as large.
    "delta.dataSkippingStatsColumns": "mote_id,timestamp",
    # The library's compaction and vacuum clean up the log whatever their hooks say. The ledger must be copied before.
    "delta.enableExpiredLogCleanup": "false",
}


def in_layout(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` (READING_SCHEMA and LINEAGE_SCHEMA) with their partition columns (text, zero-padded), as files hold them.

    Every file is then ordered by (mote_id, timestamp).
    """
    # Sorted while there are only numbers, and each day spelled once: half the time of sorting and spelling the rows.
    # Rows of a mote are then together by day too, so that this is the order in the files whatever the folders are.
    rows = rows.sort("mote_id", "timestamp", maintain_order=True).with_columns(
        pl.col("timestamp").floordiv(DAY_NS).alias("_day")
    )
    days = rows.select(pl.col("_day").unique())
    date = pl.from_epoch("_day", time_unit="d")
    days = days.with_columns(
        date.dt.strftime("%Y").alias("year"),
        date.dt.strftime("%m").alias("month"),
        date.dt.strftime("%d").alias("day"),
    )
    return rows.join(days, on="_day", how="left", maintain_order="left").select(ARCHIVE_SCHEMA.names())


def layout(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` (READING_SCHEMA and LINEAGE_SCHEMA without `ingested_at`) as they lie in the table, ingested now."""
    return in_layout(rows.with_columns(pl.lit(time.time_ns(), pl.Int64).alias("ingested_at")))


def last_wins(rows: pl.LazyFrame) -> pl.LazyFrame:
    """One row a key: the one written last, and within one write the one with the highest stream position.

    Ascending (mote_id, timestamp). One sort by key and age, of which the last of each key stays: sorted by age, made
    unique and sorted by key they took 2.5 times as long (310 ms of processor time for 560,000 rows).
    """
    following = [pl.col(name).ne_missing(pl.col(name).shift(-1)) for name in KEY]
    return rows.sort(*KEY, "ingested_at", "source_partition", "source_offset").filter(pl.any_horizontal(following))
