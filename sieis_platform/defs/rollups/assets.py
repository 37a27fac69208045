"""Hourly and daily aggregates of the archive, partitioned by day, into the marts and the hot store.

Belongs here: which readings are read and where the aggregates go. Not here: the arithmetic (analysis/aggregates.py).
"""

import datetime as dt
from typing import Final

import dagster as dg
import polars as pl

from sieis_platform import crash
from sieis_platform.analysis.aggregates import BUILDING, aggregate, with_date
from sieis_platform.defs import plot
from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.archive.snapshot import DATE, Snapshot
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import OWNERS, columns, labels, lineage, written
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.reading import FIELDS
from sieis_platform.stores.hot import AGGREGATE_MARTS, AGGREGATE_SCHEMA, SHORT_NAMES, STATISTICS, Period

MARTS: Final = AGGREGATE_MARTS

#: Metadata of a partition: readings that the archive held of that day when it was aggregated.
READINGS: Final = "readings"

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
            archive = Snapshot.of(platform.archive())
            counts: dict[str, int] = dict.fromkeys(window.keys, 0)
            frames = []
            for batch in window.batches(_BATCH_DAYS):
                readings = archive.readings(batch)
                counts |= dict(readings.group_by(DATE).len().iter_rows())
                frames.append(aggregate(readings, period))
            aggregates = with_date(pl.concat(frames))
            crash.point("rollup.before_mart")
            version = platform.marts().replace_days(MARTS[period], aggregates, window.first, window.last)
            crash.point("rollup.after_mart")
            with platform.hot() as hot:
                shown = aggregates.select(AGGREGATE_SCHEMA.names())
                hot.replace_aggregates(period, shown, window.start_ns, window.end_ns)
            crash.point("rollup.after_hot")
        for day, count in counts.items():
            # The check counts again at this version of the archive; once that is gone, this is what it compares with.
            context.add_asset_metadata({READINGS: count}, partition_key=day)
        context.log.info("%d rows for %s to %s", aggregates.height, window.first, window.last)
        return dg.MaterializeResult(
            metadata={
                **written(
                    aggregates.height,
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
