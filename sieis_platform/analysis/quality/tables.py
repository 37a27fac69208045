"""The tables that expectations are evaluated on: readings as they are, and small ones of figures a day, mote or source.

Belongs here: counting, in columns. Not here: what is expected of the counts (suites), where the rows come from.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import polars as pl

from sieis_platform.analysis.aggregates import BUILDING
from sieis_platform.reading import EXPECTED_INTERVAL_SECONDS, KEY, LINEAGE_SCHEMA, READING_SCHEMA
from sieis_platform.stores.archive import LedgerEntry
from sieis_platform.stores.hot import DAILY_SUMS_SCHEMA, SUMS
from sieis_platform.stores.rewrite import POSITION
from sieis_platform.timeline import DAY_NS

_EPOCH: Final = dt.date(1970, 1, 1)
_MINUTE_NS: Final = 60 * 1_000_000_000
_INTERVAL_NS: Final = EXPECTED_INTERVAL_SECONDS * 1_000_000_000


def columns(rows: pl.DataFrame, found: pl.Schema | None = None) -> pl.DataFrame:
    """One row a column that archived readings must have: column, found and expected type, nulls where it is a key.

    `found`: the columns of the archive, where `rows` holds only some of them.
    """
    expected = {**READING_SCHEMA, **LINEAGE_SCHEMA}
    return pl.DataFrame(
        {
            "column": list(expected),
            "found": [str((found or rows.schema).get(name, "missing")) for name in expected],
            "expected": [str(kind) for kind in expected.values()],
            "null_keys": [rows[name].null_count() if name in KEY and name in rows.columns else 0 for name in expected],
        }
    )


def positions(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a day, mote and partition of a source: date, mote_id, source, source_partition, rows, repeated,
    source_offset.

    `rows` (KEY and POSITION) of one position are stored once: `repeated` counts those whose position another row has
    too, whatever its day and mote, `source_offset` is the first of theirs (text: pandas makes floats of integers where
    some are null). Rows without a position, written by hand,
    are left out.
    """
    placed = rows.select(*KEY, *POSITION).drop_nulls(POSITION)
    shared = pl.when(pl.struct(POSITION).is_duplicated()).then("source_offset")
    return (
        placed.with_columns(_day_start(), shared.alias("shared"))
        .group_by("day_start", "mote_id", "source", "source_partition")
        .agg(
            pl.len().cast(pl.Int64).alias("rows"),
            pl.col("shared").count().cast(pl.Int64).alias("repeated"),
            pl.col("shared").min().cast(pl.String).alias("source_offset"),
        )
        .sort("day_start", "mote_id", "source", "source_partition")
        .select(_date(), "mote_id", "source", "source_partition", "rows", "repeated", "source_offset")
    )


def readings(rows: pl.DataFrame) -> pl.DataFrame:
    """The archived readings themselves (READING_SCHEMA), repeated keys included, their values as Float64.

    Great Expectations compares float64 in columns, but float32 value by value.
    """
    return rows.select(READING_SCHEMA.names()).cast({pl.Float32: pl.Float64})


def days(rows: pl.DataFrame, first: dt.date, last: dt.date, now_ns: int) -> pl.DataFrame:
    """One row a day `first` to `last` that has begun: date, rows, repeated, repeated_share, lag_minutes.

    repeated: rows whose key (mote_id, timestamp) another row has already; all are stored, the last wins in every read.
    lag_minutes: from the newest reading to the end of the day, or to `now_ns`; the whole day where there is none.
    """
    found = rows.group_by(_day_start()).agg(
        pl.len().cast(pl.Int64).alias("rows"),
        pl.struct(KEY).n_unique().cast(pl.Int64).alias("keys"),
        pl.col("timestamp").max().alias("newest"),
    )
    lag = (pl.min_horizontal(pl.col("day_start") + DAY_NS, pl.lit(now_ns)) - pl.col("newest")) / _MINUTE_NS
    return (
        _days(first, last, now_ns)
        .join(found, on="day_start", how="left")
        .with_columns(pl.col("rows", "keys").fill_null(0), pl.col("newest").fill_null(pl.col("day_start")))
        .select(
            _date(),
            "rows",
            (pl.col("rows") - pl.col("keys")).alias("repeated"),
            _share(pl.col("rows") - pl.col("keys"), pl.col("rows")).fill_null(0.0).alias("repeated_share"),
            lag.clip(lower_bound=0.0).alias("lag_minutes"),
        )
    )


def mote_days(
    rows: pl.DataFrame, first: dt.date, last: dt.date, now_ns: int, known: Iterable[int] = ()
) -> pl.DataFrame:
    """One row a day that has begun and mote: date, mote_id, readings, expected, share.

    Motes: those seen on any of the days, and the `known` ones, of which nothing may have come on any of them. readings:
    distinct timestamps. expected: one every EXPECTED_INTERVAL_SECONDS until the end of the day, or `now_ns`: a mote
    that fell silent counts as missing. Without any mote there is one row a day, of no mote.
    """
    expected_anyway = pl.DataFrame({"mote_id": list(known)}, schema={"mote_id": pl.Int32()})
    motes = pl.concat([rows.select("mote_id"), expected_anyway]).select(pl.col("mote_id").unique().sort())
    if motes.is_empty():
        motes = pl.DataFrame({"mote_id": [None]}, schema={"mote_id": pl.Int32()})
    found = rows.group_by(_day_start(), "mote_id").agg(pl.col("timestamp").n_unique().cast(pl.Int64).alias("readings"))
    passed = pl.min_horizontal(pl.col("day_start") + DAY_NS, pl.lit(now_ns)) - pl.col("day_start")
    return (
        _days(first, last, now_ns)
        .join(motes, how="cross")
        .join(found, on=["day_start", "mote_id"], how="left")
        .with_columns(pl.col("readings").fill_null(0), (passed // _INTERVAL_NS).alias("expected"))
        .select(
            _date(), "mote_id", "readings", "expected", _share(pl.col("readings"), pl.col("expected")).alias("share")
        )
    )


def deliveries(
    entries: Iterable[LedgerEntry], committed: Mapping[int, int], sources: Iterable[str], first: dt.date, last: dt.date
) -> pl.DataFrame:
    """One row a file and a day of the stream: source, date, records, dead, dead_share; from the ledger.

    A record without meaning has no time of its own. Of the stream it counts on the day it was archived (`committed`:
    Unix ns by version), if that is one of `first` to `last`; of a file wherever one of its readings is (`sources`).
    """
    histories = {source.removeprefix("history:") for source in sources if source.startswith("history:")}
    counts: dict[tuple[str, str | None], list[int]] = {}
    for entry in entries:
        kind, _, name = entry.app.partition("/")
        if kind == "backfill":  # counts its commits, not lines: those are accounted for by the load of the file
            continue
        if kind == "history":
            key = (f"history:{name}", None) if name in histories else None
            records = entry.stored + entry.duplicates + entry.dead + entry.skipped
        else:
            moment = committed.get(entry.version or 0)
            day = None if moment is None else _EPOCH + dt.timedelta(days=moment // DAY_NS)
            key = ("stream", day.isoformat()) if day is not None and first <= day <= last else None
            records = entry.stored + entry.duplicates + entry.dead
        if key is not None:
            counted = counts.setdefault(key, [0, 0])
            counted[0] += records
            counted[1] += entry.dead
    return (
        pl.DataFrame(
            [(source, date, records, dead) for (source, date), (records, dead) in sorted(counts.items(), key=str)],
            schema={"source": pl.String(), "date": pl.String(), "records": pl.Int64(), "dead": pl.Int64()},
            orient="row",
        )
        .filter(pl.col("records") > 0)
        .with_columns(_share(pl.col("dead"), pl.col("records")).alias("dead_share"))
    )


def daily_sums(found: pl.DataFrame) -> pl.DataFrame:
    """Readings (READING_SCHEMA, one a key) as HotStore.daily_sums counts them (DAILY_SUMS_SCHEMA)."""
    return (
        found.sort("timestamp")
        .group_by("mote_id", _day_start())
        .agg(
            pl.len().cast(pl.Int64).alias("readings"),
            *(pl.col(field).cast(pl.Float64).fill_nan(None).sum().alias(name) for name, field in SUMS.items()),
        )
        .select(DAILY_SUMS_SCHEMA.names())
        .cast(DAILY_SUMS_SCHEMA)
        .sort("day_start", "mote_id")
    )


def differing(hot: pl.DataFrame, archive: pl.DataFrame) -> pl.DataFrame:
    """mote_id and day_start of what is not the same in both (DAILY_SUMS_SCHEMA), the order of additions aside."""
    sums = [pl.col(name).round_sig_figs(9) for name in SUMS]
    both = [frame.select("mote_id", "day_start", "readings", *sums) for frame in (hot, archive)]
    key = both[0].columns
    one_sided = [mine.join(other, on=key, how="anti", nulls_equal=True) for mine, other in (both, both[::-1])]
    return pl.concat(one_sided).select("mote_id", "day_start").unique().sort("day_start", "mote_id")


def compared(hot: pl.DataFrame, archive: pl.DataFrame) -> pl.DataFrame:
    """One row a day and mote that either has (both DAILY_SUMS_SCHEMA): date, mote_id, readings in each, differences.

    `{field}_sum_difference` is relative to the larger of the two sums (or 1), 0 where both are the same.
    """
    both = archive.join(hot, on=["mote_id", "day_start"], how="full", coalesce=True, suffix="_hot").sort(
        "day_start", "mote_id"
    )
    return both.select(
        _date(),
        "mote_id",
        pl.col("readings_hot").fill_null(0).alias("hot_readings"),
        pl.col("readings").fill_null(0).alias("archive_readings"),
        *(_difference(name).alias(f"{name}_difference") for name in SUMS),
    )


def age(newest_ns: int | None, reference_ns: int) -> pl.DataFrame:
    """One row: newest (Unix ns) and how many minutes before `reference_ns` it is, since 1970 where there is none."""
    lag = max(0, reference_ns - (newest_ns or 0)) / _MINUTE_NS
    return pl.DataFrame(
        {"newest": [newest_ns], "lag_minutes": [lag]}, schema={"newest": pl.Int64(), "lag_minutes": pl.Float64()}
    )


def counted(aggregates: pl.DataFrame, archived: Mapping[str, int], partial: Collection[str] = ()) -> pl.DataFrame:
    """One row a day: date, archived readings, counted for the building, summed over motes.

    `aggregates`: date, mote_id, record_count. `archived`: readings by date. A day that one of them lacks counts as 0.
    `partial`: days whose building counts readings that the archive no longer has; it is null there.
    """
    building = pl.col("mote_id") == BUILDING
    found = aggregates.group_by("date").agg(
        pl.col("record_count").filter(building).sum().alias("building"),
        pl.col("record_count").filter(~building).sum().alias("motes"),
    )
    given = pl.DataFrame(
        {"date": list(archived), "archived": list(archived.values())},
        schema={"date": pl.String(), "archived": pl.Int64()},
    )
    return (
        given.join(found, on="date", how="full", coalesce=True)
        .select("date", pl.col("archived", "building", "motes").fill_null(0).cast(pl.Int64))
        .with_columns(pl.when(~pl.col("date").is_in(list(partial))).then("building").alias("building"))
        .sort("date")
    )


def _day_start() -> pl.Expr:
    return (pl.col("timestamp") - pl.col("timestamp") % DAY_NS).alias("day_start")


def _date() -> pl.Expr:
    return pl.from_epoch("day_start", time_unit="ns").dt.strftime("%Y-%m-%d").alias("date")


def _days(first: dt.date, last: dt.date, now_ns: int) -> pl.DataFrame:
    """The column day_start (Unix ns) of the days that have begun."""
    start = (first - _EPOCH).days * DAY_NS
    end = min(((last - _EPOCH).days + 1) * DAY_NS, now_ns)
    return pl.select(pl.int_range(start, end, DAY_NS, dtype=pl.Int64).alias("day_start"))


def _share(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    return pl.when(whole > 0).then(part / whole)


def _difference(name: str) -> pl.Expr:
    ours, theirs = pl.col(name).fill_null(0.0), pl.col(f"{name}_hot").fill_null(0.0)
    scale = pl.max_horizontal(ours.abs(), theirs.abs(), pl.lit(1.0))
    return pl.when(ours == theirs).then(0.0).otherwise((ours - theirs).abs() / scale)
