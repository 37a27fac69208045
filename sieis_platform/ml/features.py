"""Features of single readings for the anomaly model, and the per-mote baseline they are measured against.

Belongs here: what the model sees. Not here: the model (anomaly.py), where readings come from.
"""

from typing import Final

import polars as pl

from sieis_platform.reading import FIELDS, any_out_of_range
from sieis_platform.timeline import DAY_NS

#: Below 2.3 V a mote of the reference set is wrong 92% of the time (shared facts of the data set; DESIGN 4).
HEALTHY_VOLTAGE: Final = 2.3

FEATURES: Final = (
    "temperature_delta",
    "humidity_delta",
    "light_delta",
    "voltage_delta",
    "temperature_rate",
    "humidity_rate",
    "temperature_noise",
    "humidity_noise",
    "temperature_peers",
    "humidity_peers",
)
"""Columns of a feature frame, in the order the model takes them; all are magnitudes, so that strange is always large.

`*_delta`: distance from the mote's own median in robust deviations. `*_rate`: change a minute since the mote's reading
before. `*_noise`: mean change between neighbours over the last ten readings. `*_peers`: distance from the building's
median of the same ten minutes, beyond the mote's usual one. Rates, noise and peers are in the units of the quantity.

A day's first readings, which have none or few before them, take rate and noise from those that follow: the mean of two
changes is often far out. What cannot be told is 0, not strange: a forest that meets a missing value in one of a
thousand readings learns to take that itself for strange.
"""

BASELINE_SCHEMA: Final = pl.Schema(
    {
        "mote_id": pl.Int32(),
        **{f"{field}_{part}": pl.Float64() for field in FIELDS for part in ("median", "spread")},
        "temperature_offset": pl.Float64(),
        "humidity_offset": pl.Float64(),
    }
)
"""Per mote: median and robust deviation of each field (light as its logarithm) and the usual distance from its peers.

mote_id 0 holds the medians over the motes and stands in for a mote that the training window did not know.
"""

_UNKNOWN: Final = 0
_MINUTE_NS: Final = 60_000_000_000
_PEERS_NS: Final = 10 * _MINUTE_NS
_PEERED: Final = ("temperature", "humidity")
_SERIES: Final = ("mote_id", "_day")
_NOISE_READINGS: Final = 10
_SHORTEST_MINUTES: Final = 0.1  # two readings a few ms apart are one radio retry, not a fast change

# A robust standard deviation: the interquartile range of a normal distribution is 1.349 standard deviations.
_IQR_TO_DEVIATION: Final = 1 / 1.349
# The class of the sensors themselves (SHT11 data sheet: 0.5 degC, a few %RH; light as log lux; the battery's ADC step
# is about 0.01 V): a smaller spread would make noise look strange.
_SPREAD_FLOOR: Final = {"temperature": 0.5, "humidity": 1.0, "light": 0.25, "voltage": 0.01}


def healthy() -> pl.Expr:
    """Whether a reading may serve as a baseline: nothing impossible, and not known to run on a dying battery."""
    return ~any_out_of_range() & (pl.col("voltage").is_null() | (pl.col("voltage") >= HEALTHY_VOLTAGE))


def baseline(readings: pl.DataFrame) -> pl.DataFrame:
    """The baseline (BASELINE_SCHEMA) of readings (READING_SCHEMA) known to be healthy; ascending mote_id, 0 first."""
    frame = _with_peers(readings)
    per_mote = frame.group_by("mote_id").agg(
        *(expression for field in FIELDS for expression in _robust(field)),
        *(pl.col(f"_{field}_apart").median().alias(f"{field}_offset") for field in _PEERED),
    )
    building = per_mote.select(pl.lit(_UNKNOWN, pl.Int32).alias("mote_id"), pl.exclude("mote_id").median())
    return (
        pl.concat([building, per_mote])
        .select([pl.col(name).cast(kind) for name, kind in BASELINE_SCHEMA.items()])
        .sort("mote_id")
    )


def features(readings: pl.DataFrame, base: pl.DataFrame) -> pl.DataFrame:
    """Feature frame (FEATURES as Float32, 0 where a value is missing), one row a reading, in the order given.

    `readings`: READING_SCHEMA. Nothing looks across midnight (UTC), so a day's features are the same whether the day is
    taken alone or in a range.
    """
    known = pl.col("mote_id").is_in(base["mote_id"].to_list())
    frame = (
        _with_peers(readings.with_row_index("_row"))
        .with_columns(pl.when(known).then("mote_id").otherwise(_UNKNOWN).cast(pl.Int32).alias("_base"))
        .join(base.rename({"mote_id": "_base"}), on="_base", how="left")
        .with_columns((pl.col("timestamp") // DAY_NS).alias("_day"))
        .sort("mote_id", "timestamp")
    )
    minutes = pl.col("timestamp").diff() / _MINUTE_NS
    columns = [
        ((_value(field) - pl.col(f"{field}_median")) / pl.col(f"{field}_spread")).alias(f"{field}_delta")
        for field in FIELDS
    ]
    for field in _PEERED:
        change = pl.col(field).diff().abs()
        rate = change / pl.max_horizontal(minutes, _SHORTEST_MINUTES)
        noise = change.rolling_mean(_NOISE_READINGS, min_samples=2)
        columns += [
            _from(1, rate).over(_SERIES).alias(f"{field}_rate"),
            _from(_NOISE_READINGS, noise).over(_SERIES).alias(f"{field}_noise"),
            (pl.col(f"_{field}_apart") - pl.col(f"{field}_offset").fill_null(0.0)).alias(f"{field}_peers"),
        ]
    found = frame.with_columns(columns).sort("_row")
    return found.select(pl.col(name).abs().fill_null(0.0).cast(pl.Float32) for name in FEATURES)


def _from(row: int, values: pl.Expr) -> pl.Expr:
    """`values` of a series, its first `row` replaced by the one after them (in a shorter series by its last)."""
    return pl.when(pl.int_range(pl.len()) < row).then(values.head(row + 1).last()).otherwise(values)


def _value(field: str) -> pl.Expr:
    """Light spans five decades, the other quantities less than one: it is taken as its logarithm."""
    return pl.col("light").clip(lower_bound=0).log1p() if field == "light" else pl.col(field)


def _robust(field: str) -> list[pl.Expr]:
    value = _value(field).cast(pl.Float64)
    spread = (value.quantile(0.75) - value.quantile(0.25)) * _IQR_TO_DEVIATION
    return [
        value.median().alias(f"{field}_median"),
        pl.max_horizontal(spread, _SPREAD_FLOOR[field]).alias(f"{field}_spread"),
    ]


def _with_peers(readings: pl.DataFrame) -> pl.DataFrame:
    """`readings` with `_{field}_apart`: distance from the median of all healthy readings of the same ten minutes."""
    window = pl.col("timestamp") // _PEERS_NS
    medians = [
        pl.when(healthy()).then(pl.col(field)).median().over(window).alias(f"_{field}_building") for field in _PEERED
    ]
    return readings.with_columns(medians).with_columns(
        (pl.col(field) - pl.col(f"_{field}_building")).alias(f"_{field}_apart") for field in _PEERED
    )
