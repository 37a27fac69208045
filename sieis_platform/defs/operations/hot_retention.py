"""What the hot store no longer keeps is removed, so that its file does not grow for ever: asset, job, schedule.

Belongs here: when that runs and what is told of it. Not here: what is too old, and its removal (the store's `expire`).
"""

from typing import Final

import dagster as dg

from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import OWNERS, columns, labels, lineage, lineage_of, same_columns
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.assets import HOT_STORE
from sieis_platform.defs.stream.hot import told_of_hot
from sieis_platform.reading import READING_SCHEMA

HOT_RETENTION: Final = dg.AssetKey("hot_retention")
#: What is left are readings as they were.
_SAME_ROWS: Final = {**columns(READING_SCHEMA), **lineage(same_columns(READING_SCHEMA.names(), HOT_STORE))}


@dg.asset(
    key=HOT_RETENTION,
    deps=[HOT_STORE],
    group_name="operations",
    kinds={"sqlite"},
    owners=OWNERS,
    tags=labels("operations", "hot"),
    metadata=_SAME_ROWS,
    pool="hot",
    description="Readings and aggregates older than the hot store keeps them, removed from its file in short pieces "
    "between which the stream writes on. No read shows them in the meantime. InfluxDB's buckets do it by themselves.",
)
def hot_retention(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Remove what is too old; tell how much, and what is the oldest that is left (`first`)."""
    settings = platform.settings()
    with dagster_failures(), platform.hot() as hot:
        removed = hot.expire()
        told = told_of_hot(hot)
    context.log.info(
        "%d readings, %d daily and %d hourly aggregates were older than the hot store keeps them", *removed
    )
    return dg.MaterializeResult(
        metadata={
            **told,
            **lineage_of(_SAME_ROWS),
            "readings_removed": removed.readings,
            "daily_aggregates_removed": removed.daily,
            "hourly_aggregates_removed": removed.hourly,
            "retention_days": settings.hot_retention_days,
            "hourly_retention_days": settings.hot_hourly_retention_days,
        }
    )


#: A night's readings take seconds; the first run on a store that was never tidied, of a year, some minutes.
expire_hot_store = dg.define_asset_job(
    "expire_hot_store",
    selection=dg.AssetSelection.assets(HOT_RETENTION),
    description="Remove what the hot store no longer keeps.",
    tags={"dagster/max_runtime": "7200"},
)


@dg.schedule(
    cron_schedule="10 3 * * *",
    target=expire_hot_store,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night, where the hot store is SQLite.",
)
def nightly_hot_retention(
    context: dg.ScheduleEvaluationContext, platform: PlatformResource
) -> dg.RunRequest | dg.SkipReason:
    """Without waiting for an archive: a hot store grows without one, too."""
    if platform.settings().hot_store == "influx":
        return dg.SkipReason("InfluxDB's buckets remove what is too old by themselves")
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())


def definitions() -> dg.Definitions:
    """The asset, its job and the schedule."""
    return dg.Definitions(assets=[hot_retention], jobs=[expire_hot_store], schedules=[nightly_hot_retention])
