"""Hourly and daily aggregates of the archive, partitioned by day, into the marts and the hot store.

Belongs here: which readings are read and where the aggregates go. Not here: the arithmetic (analysis/aggregates.py).
"""

import datetime as dt
from typing import Final, NamedTuple

import dagster as dg
import polars as pl

from sieis_platform import crash
from sieis_platform.analysis.aggregates import BUILDING, aggregate, beside, with_date
from sieis_platform.defs import plot
from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.archive.snapshot import DATE, Snapshot
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.let_go import require_derivable, taken_over
from sieis_platform.defs.metadata import OWNERS, PARTITION_ROWS, columns, labels, lineage, rows_by_day, written
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.quality.guard import require_sound
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.reading import FIELDS
from sieis_platform.stores.hot import AGGREGATE_MARTS, AGGREGATE_SCHEMA, SHORT_NAMES, STATISTICS, HotStore, Period
from sieis_platform.stores.marts import Marts

MARTS: Final = AGGREGATE_MARTS

#: Metadata of a partition: readings that the archive held of that day when it was aggregated, less those let go.
READINGS: Final = "readings"
#: Metadata: what the archive had let go of when the days were aggregated (LetGo); absent where that is none of them.
LET_GO: Final = "archive_let_go"

#: Days read at once. 42 motes at 30 s are 121,000 readings a day; a week of them takes about 150 MB while aggregating.
_BATCH_DAYS: Final = 7

_COLUMNS: Final = {
    "mote_id": "0 is the whole building",
    "period_start": "Unix ns, UTC",
    "record_count": "readings, whatever their values",
    "null_count": "null values over all four fields",
    "out_of_range_count": "readings with at least one physically impossible value, which no average includes",
    "date": "the partition",
}


#: Two hourly runs missed; half a day without any.
_FRESHNESS: Final = dg.FreshnessPolicy.time_window(
    warn_window=dt.timedelta(hours=3), fail_window=dt.timedelta(hours=12)
)

_LINEAGE: Final = lineage(
    {
        "mote_id": [(ARCHIVE, "mote_id")],
        "period_start": [(ARCHIVE, "timestamp")],
        "date": [(ARCHIVE, "timestamp")],
        **{f"{SHORT_NAMES[field]}_{statistic}": [(ARCHIVE, field)] for field in FIELDS for statistic in STATISTICS},
        "record_count": [(ARCHIVE, "mote_id"), (ARCHIVE, "timestamp")],
        "null_count": [(ARCHIVE, field) for field in FIELDS],
        "out_of_range_count": [(ARCHIVE, field) for field in FIELDS],
    }
)


class RolledUp(NamedTuple):
    """The aggregates of a window (AGGREGATE_SCHEMA and `date`), its readings by date, the mart's version with them."""

    aggregates: pl.DataFrame
    readings: dict[str, int]
    mart_version: int


def roll_up(archive: Snapshot, marts: Marts, period: Period, window: Window) -> RolledUp:
    """Aggregate the readings of a window, and put the result in place of that window in the mart.

    What stands there of readings that the retention has let go stays. Raises: LetGoError (nothing else is in the
    window), RetriableError and FatalError of the two stores.
    """
    require_derivable(archive.let_go, window)
    counts: dict[str, int] = dict.fromkeys(window.keys, 0)
    frames = []
    for batch in window.batches(_BATCH_DAYS):
        readings = archive.derivable(batch)
        counts |= dict(readings.group_by(DATE).len().iter_rows())
        frames.append(aggregate(readings, period))
    aggregates = with_date(pl.concat(frames))
    kept = taken_over(marts, MARTS[period], archive.let_go, window)
    if kept is not None:
        aggregates = beside(kept.select(aggregates.columns), aggregates)
    crash.point("rollup.before_mart")
    version = marts.replace_days(MARTS[period], aggregates, window.first, window.last)
    crash.point("rollup.after_mart")
    return RolledUp(aggregates, counts, version)


def show(hot: HotStore, aggregates: pl.DataFrame, period: Period, window: Window) -> None:
    """Put the aggregates of a window in its place in the hot store. Raises: RetriableError and FatalError of it."""
    hot.replace_aggregates(period, aggregates.select(AGGREGATE_SCHEMA.names()), window.start_ns, window.end_ns)


def rollup_asset(period: Period, days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset of one period's aggregates: a run over any range of days replaces exactly those days."""

    @dg.asset(
        name=MARTS[period],
        deps=[ARCHIVE],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="rollups",
        kinds={"polars", "deltalake"},
        owners=OWNERS,
        tags=labels("derived", "marts"),
        pool="marts",
        freshness_policy=_FRESHNESS,
        description=(
            f"{period.capitalize()} average, minimum, maximum, sample deviation and median of every quantity, per mote "
            "and for the whole building. Impossible values are counted, not averaged."
        ),
        metadata={**columns(pl.Schema({**AGGREGATE_SCHEMA, "date": pl.String()}), _COLUMNS), **_LINEAGE},
    )
    def rollup(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
        window = Window.of_keys(context.partition_key_range)
        crash.arm(platform.settings().crash_at)
        with dagster_failures():
            archive, marts = Snapshot.of(platform.archive()), platform.marts()
            require_sound(archive, window)
            aggregates, counts, version = roll_up(archive, marts, period, window)
            with platform.hot() as hot:
                show(hot, aggregates, period, window)
            crash.point("rollup.after_hot")
            table_rows = marts.info(MARTS[period]).rows
        rows = rows_by_day(aggregates)
        for day, count in counts.items():
            # The check counts again at this version of the archive; once that is gone, this is what it compares with.
            context.add_asset_metadata({READINGS: count, PARTITION_ROWS: rows.get(day, 0)}, partition_key=day)
        context.log.info("%d rows for %s to %s", aggregates.height, window.first, window.last)
        let_go = {LET_GO: archive.let_go.text()} if archive.let_go.reaches(window.first) else {}
        return dg.MaterializeResult(
            metadata={
                **let_go,
                **written(
                    table_rows,
                    aggregates,
                    mart_version=version,
                    archive_version=archive.version,
                    archive_table=archive.table_id,
                    time_column="period_start",
                    plot=_plot(aggregates),
                ),
                **_LINEAGE,
            }
        )

    return rollup


def _plot(aggregates: pl.DataFrame) -> str | None:
    """The building's mean temperature and its readings over the periods; None for fewer than two of them."""
    building = aggregates.filter(pl.col("mote_id") == BUILDING).sort("period_start")
    return plot.lines(
        {
            "mean temperature, °C": building["temp_avg"].to_list(),
            "readings": building["record_count"].cast(pl.Float64).to_list(),
        }
    )
