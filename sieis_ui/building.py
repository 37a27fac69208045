"""What the API's answers mean for an operator: states of motes, medians of the building, episodes of anomalies.

Belongs here: pure functions from models to frames and small values. Not here: HTTP, widgets, colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import polars as pl

from sieis_ui.client import Aggregate, Anomaly, Mote, Reading
from sieis_ui.quantities import LOW_BATTERY_VOLTS, QUANTITIES, Quantity

#: A mote reports every 30 s, but radio loss is high (on the best day of the Intel Lab set 71% arrive): ten intervals
#: without a reading are a silent mote, not bad luck.
STALE_SECONDS: Final = 300.0
#: Of a building full of motes one is always due: two intervals without any reading are a delay, ten a stopped stream.
DELAYED_SECONDS: Final = 60.0
#: Anomalies of one mote further apart than this are two episodes (an hourly schedule scores the readings).
EPISODE_GAP_SECONDS: Final = 3_600


class Freshness(StrEnum):
    """How recent the newest reading of the building is."""

    LIVE = "live"
    DELAYED = "delayed"
    STOPPED = "stopped"


class State(StrEnum):
    """The one state a mote is drawn in, the most urgent first."""

    IMPOSSIBLE = "Impossible"
    SILENT = "Silent"
    LOW_BATTERY = "Low battery"
    OK = "OK"


@dataclass(frozen=True)
class Median:
    """Median of one quantity over motes, of plausible values only; None where no value was plausible."""

    value: float | None
    plausible: int
    impossible: int


@dataclass(frozen=True)
class Summary:
    """The building in a line: motes reporting, motes expected, newest reading."""

    reporting: int
    fleet: int
    newest_age_seconds: float
    freshness: Freshness


_MOTE_SCHEMA: Final = pl.Schema(
    {
        "mote_id": pl.Int64(),
        "timestamp": pl.Datetime("us", "UTC"),
        "age_seconds": pl.Float64(),
        "in_fleet": pl.Boolean(),
        **{field: pl.Float64() for field in QUANTITIES},
    }
)
_PLACE_SCHEMA: Final = pl.Schema({"mote_id": pl.Int64(), "x": pl.Float64(), "y": pl.Float64()})
_ANOMALY_SCHEMA: Final = pl.Schema(
    {
        "mote_id": pl.Int64(),
        "timestamp": pl.Datetime("us", "UTC"),
        "score": pl.Float64(),
        **{field: pl.Float64() for field in QUANTITIES},
    }
)


def mote_frame(readings: Sequence[Reading], motes: Sequence[Mote] = ()) -> pl.DataFrame:
    """One row a mote that has ever reported: its reading, place (null if unknown), `flags` (list) and `state` (text).

    The flagged ones come first. A value outside its plausible interval also sets the column `impossible_<field>`.
    """
    frame = pl.DataFrame(
        [reading.model_dump(include=set(_MOTE_SCHEMA)) for reading in readings],
        schema=_MOTE_SCHEMA,
    )
    places = pl.DataFrame(
        [mote.model_dump(include=set(_PLACE_SCHEMA)) for mote in motes],
        schema=_PLACE_SCHEMA,
    )
    impossible = {q.field: ~pl.col(q.field).is_between(q.low, q.high) for q in QUANTITIES.values()}
    any_impossible = pl.any_horizontal(f"impossible_{field}" for field in QUANTITIES)
    silent = pl.col("age_seconds") > STALE_SECONDS
    low = pl.col("voltage") < LOW_BATTERY_VOLTS
    flags = [
        (any_impossible, State.IMPOSSIBLE),
        (silent, State.SILENT),
        (low, State.LOW_BATTERY),
    ]
    return (
        frame.join(places.unique("mote_id"), on="mote_id", how="left")
        .with_columns(
            condition.fill_null(False).alias(f"impossible_{field}") for field, condition in impossible.items()
        )
        .with_columns(
            silent.alias("silent"),
            pl.concat_list(pl.when(condition.fill_null(False)).then(pl.lit(str(state))) for condition, state in flags)
            .list.drop_nulls()
            .alias("flags"),
        )
        .with_columns(pl.col("flags").list.first().fill_null(str(State.OK)).alias("state"))
        .sort(pl.col("flags").list.len() == 0, "mote_id")
    )


def unheard(motes: pl.DataFrame, known: Sequence[Mote]) -> pl.DataFrame:
    """Columns mote_id, x, y of the motes that have a place and have never reported."""
    places = pl.DataFrame([mote.model_dump(include=set(_PLACE_SCHEMA)) for mote in known], schema=_PLACE_SCHEMA)
    return places.drop_nulls().join(motes.select("mote_id"), on="mote_id", how="anti").sort("mote_id")


def summary(motes: pl.DataFrame, known: Sequence[Mote] = ()) -> Summary:
    """How the building does. The fleet is every mote known to belong to it, whether it has ever reported or not."""
    fleet = {mote.mote_id for mote in known if mote.in_fleet}
    fleet |= set(motes.filter("in_fleet")["mote_id"])
    age = motes.select(pl.col("age_seconds").min()).item()
    age = float("inf") if age is None else float(age)
    reporting = motes.filter(~pl.col("silent") & pl.col("in_fleet")).height
    return Summary(reporting, len(fleet), age, freshness(age))


def freshness(age_seconds: float) -> Freshness:
    """How a stream whose newest reading has this age is called."""
    if age_seconds <= DELAYED_SECONDS:
        return Freshness.LIVE
    return Freshness.DELAYED if age_seconds <= STALE_SECONDS else Freshness.STOPPED


def reporting_or_all(motes: pl.DataFrame) -> pl.DataFrame:
    """The motes reporting now; all of them where none is (the last known state of a stopped stream)."""
    now = motes.filter(~pl.col("silent"))
    return now if now.height else motes


def median(motes: pl.DataFrame, quantity: Quantity) -> Median:
    """Median of the plausible values of `quantity` over these motes."""
    values = motes.select(quantity.field, impossible=f"impossible_{quantity.field}").drop_nulls(quantity.field)
    plausible = values.filter(~pl.col("impossible"))[quantity.field]
    value = plausible.median()
    return Median(
        float(value) if isinstance(value, int | float) else None,
        len(plausible),
        values.height - len(plausible),
    )


def aggregate_frame(aggregates: Sequence[Aggregate], quantity: Quantity) -> pl.DataFrame:
    """Columns period_start, avg, min, max, median, record_count, out_of_range_count of one quantity, by time."""
    names = ("avg", "min", "max", "median")
    return pl.DataFrame(
        [
            {
                "period_start": row.period_start,
                **{name: row.value(f"{quantity.short}_{name}") for name in names},
                "record_count": row.record_count,
                "out_of_range_count": row.out_of_range_count,
            }
            for row in aggregates
        ],
        schema={
            "period_start": pl.Datetime("us", "UTC"),
            **dict.fromkeys(names, pl.Float64),
            "record_count": pl.Int64,
            "out_of_range_count": pl.Int64,
        },
    ).sort("period_start")


def episodes(anomalies: Sequence[Anomaly]) -> pl.DataFrame:
    """Anomalies joined to episodes: a failing mote is one line, not two thousand. Newest end first.

    Columns mote_id, start, end, count, score (the peak) and the four values at the peak. An episode ends where the mote
    has no anomaly for EPISODE_GAP_SECONDS.
    """
    frame = pl.DataFrame(
        [row.model_dump(include=set(_ANOMALY_SCHEMA)) for row in anomalies],
        schema=_ANOMALY_SCHEMA,
    )
    gap = pl.col("timestamp").diff().over("mote_id") > pl.duration(seconds=EPISODE_GAP_SECONDS)
    return (
        frame.sort("mote_id", "timestamp")
        .with_columns(gap.fill_null(True).cum_sum().alias("episode"))
        .group_by("mote_id", "episode")
        .agg(
            pl.col("timestamp").min().alias("start"),
            pl.col("timestamp").max().alias("end"),
            pl.len().alias("count"),
            pl.col("score").max().alias("peak"),
            *(pl.col(field).get(pl.col("score").arg_max()) for field in QUANTITIES),
        )
        .drop("episode")
        .rename({"peak": "score"})
        .sort("end", "score", descending=True)
    )


def duration_text(seconds: float) -> str:
    """A duration in its largest fitting unit: `4 s`, `12 min`, `3 h`, `9 days`; what lies in the future is `0 s`."""
    if seconds == float("inf"):
        return "never"
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
