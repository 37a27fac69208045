"""Hourly and daily aggregates of readings, per mote and for the whole building: pure functions on frames.

Belongs here: what an aggregate is. Not here: where readings come from, where aggregates go, which days are recomputed.
"""

from typing import Final

import polars as pl

from sieis_platform.reading import FIELDS, any_out_of_range, out_of_range
from sieis_platform.stores.hot import AGGREGATE_SCHEMA, SHORT_NAMES, Period

BUILDING: Final = 0
"""The mote_id of the rows that stand for the whole building (real ids begin at 1)."""

PERIOD_NS: Final[dict[Period, int]] = {"hourly": 3_600_000_000_000, "daily": 86_400_000_000_000}
"""Length of a period; periods begin at full hours and at midnight, UTC."""


def aggregate(readings: pl.DataFrame, period: Period) -> pl.DataFrame:
    """Aggregates (AGGREGATE_SCHEMA) of readings (READING_SCHEMA; other columns are ignored).

    Ascending (period_start, mote_id): one row a mote and period that has readings, and one row (mote_id 0) a period
    over all readings of the building.

    - avg, min, max, std and median are over the values of one field that are neither null nor physically impossible,
      in double over the stored float32; null where there are none. std is the sample deviation (n - 1), null below
      two values.
    - record_count: readings, whatever their values. null_count: null values, counted over all four fields.
    - out_of_range_count: readings with at least one impossible value (NaN is one).
    """
    keyed = readings.select(
        "mote_id",
        (pl.col("timestamp") - pl.col("timestamp") % PERIOD_NS[period]).alias("period_start"),
        any_out_of_range().alias("_impossible"),
        pl.sum_horizontal(pl.col(field).is_null() for field in FIELDS).cast(pl.Int64).alias("_nulls"),
        *(pl.when(~out_of_range(field)).then(pl.col(field).cast(pl.Float64)).alias(field) for field in FIELDS),
    )
    per_mote = keyed.group_by("period_start", "mote_id").agg(_statistics())
    building = keyed.group_by("period_start").agg(pl.lit(BUILDING, pl.Int32).alias("mote_id"), *_statistics())
    columns = list(AGGREGATE_SCHEMA)
    return pl.concat([per_mote.select(columns), building.select(columns)]).sort("period_start", "mote_id")


def beside(kept: pl.DataFrame, derived: pl.DataFrame) -> pl.DataFrame:
    """`derived`, and of `kept` the aggregates of motes whose readings are gone; ascending (period_start, mote_id).

    A period with such a mote keeps the building's row of `kept`: averages, deviations and medians of the whole do not
    follow from those of its parts. Where `kept` has no such mote, none was in the building, and `derived` tells it.
    Both have the same columns, and no mote in common on one day.
    """
    building, gone = pl.col("mote_id") == BUILDING, kept.filter(pl.col("mote_id") != BUILDING)
    partial = pl.col("period_start").is_in(gone["period_start"].unique().to_list())
    return pl.concat([gone, kept.filter(building & partial), derived.filter(~(building & partial))]).sort(
        "period_start", "mote_id"
    )


def with_date(aggregates: pl.DataFrame) -> pl.DataFrame:
    """`aggregates` with the column `date` (text YYYY-MM-DD, UTC) that the marts are partitioned by."""
    return aggregates.with_columns(pl.from_epoch("period_start", time_unit="ns").dt.strftime("%Y-%m-%d").alias("date"))


def _statistics() -> list[pl.Expr]:
    expressions: list[pl.Expr] = []
    for field in FIELDS:
        value, name = pl.col(field), SHORT_NAMES[field]
        expressions += [
            value.mean().alias(f"{name}_avg"),
            value.min().alias(f"{name}_min"),
            value.max().alias(f"{name}_max"),
            value.std(ddof=1).alias(f"{name}_std"),
            value.median().alias(f"{name}_median"),
        ]
    return [
        *expressions,
        pl.len().cast(pl.Int64).alias("record_count"),
        pl.col("_nulls").sum().alias("null_count"),
        pl.col("_impossible").sum().cast(pl.Int64).alias("out_of_range_count"),
    ]
