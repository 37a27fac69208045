"""Runs: a row each in the marts for good, and the job that deletes old ones from Dagster's own database.

Belongs here: what is kept of a run and for how long. Not here: retention of ticks (dagster.yaml).
"""

import datetime as dt
from collections.abc import Iterator
from typing import Final

import dagster as dg
import polars as pl

from sieis_platform.defs import plot
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import OWNERS, columns, labels, moment, preview_of
from sieis_platform.defs.operations.keys import RUN_HISTORY
from sieis_platform.defs.resources import PlatformResource

_ENDED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_PAGE: Final = 200
_PLOTTED: Final = 200
_ALERT_DAYS: Final = 90

_SCHEMA: Final = pl.Schema(
    {
        "run_id": pl.String(),
        "job": pl.String(),
        "status": pl.String(),
        "started_at": pl.Int64(),
        "seconds": pl.Float64(),
        "partitions": pl.String(),
        "started_by": pl.String(),
    }
)
_COLUMNS: Final = {
    "started_at": "Unix ns, UTC",
    "partitions": "the day or the days it was about",
    "started_by": "schedule, sensor, backfill or hand",
}


def _records(instance: dg.DagsterInstance, filters: dg.RunsFilter) -> Iterator[dg.RunRecord]:
    cursor = None
    while page := instance.get_run_records(filters, limit=_PAGE, cursor=cursor):
        yield from page
        cursor = page[-1].dagster_run.run_id


def _row(record: dg.RunRecord) -> tuple[str, str, str, int, float, str, str]:
    run, tags = record.dagster_run, record.dagster_run.tags
    start = record.start_time or record.create_timestamp.timestamp()
    days = [
        tags[name]
        for name in ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
        if name in tags
    ]
    starters = {"dagster/schedule_name": "schedule", "dagster/sensor_name": "sensor", "dagster/backfill": "backfill"}
    return (
        run.run_id,
        run.job_name,
        run.status.value,
        int(start * 1e9),
        (record.end_time or start) - start,
        tags.get("dagster/partition", " to ".join(days)),
        next((f"{kind} {tags[tag]}" for tag, kind in starters.items() if tag in tags), "hand"),
    )


@dg.asset(
    key=RUN_HISTORY,
    group_name="operations",
    kinds={"dagster", "deltalake"},
    owners=OWNERS,
    tags=labels("operations", "marts"),
    pool="marts",
    automation_condition=dg.AutomationCondition.on_cron("20 2 * * *"),
    freshness_policy=dg.FreshnessPolicy.time_window(
        warn_window=dt.timedelta(hours=30), fail_window=dt.timedelta(hours=54)
    ),
    description="Every ended run: what, when, how long, how it ended. Kept when Dagster's own record is deleted.",
    metadata=columns(_SCHEMA, _COLUMNS),
)
def run_history(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Add the runs that ended since."""
    table = RUN_HISTORY.to_user_string()
    records = _records(context.instance, dg.RunsFilter(statuses=_ENDED))
    ended = pl.DataFrame([_row(record) for record in records], schema=_SCHEMA, orient="row").sort("started_at")
    with dagster_failures():
        marts = platform.marts()
        new = ended.join(_kept(platform), on="run_id", how="anti")
        version = marts.append(table, new) if new.height or not marts.exists(table) else marts.version(table)
        rows = marts.info(table).rows
    shown = (new if new.height else ended).sort("started_at", descending=True)
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(rows),
        "added": dg.MetadataValue.int(new.height),
        "mart_version": dg.MetadataValue.int(version),
        "preview": preview_of(shown),
    }
    if ended.height:
        times = ended["started_at"]
        metadata["first"] = dg.MetadataValue.text(moment(times[0] / 1e9))
        metadata["last"] = dg.MetadataValue.text(moment(times[-1] / 1e9))
    if drawn := plot.lines({"seconds a run": ended.tail(_PLOTTED)["seconds"].to_list()}):
        metadata["plot"] = dg.MetadataValue.md(drawn)
    return dg.MaterializeResult(metadata=metadata)


def _kept(platform: PlatformResource) -> pl.DataFrame:
    """Ids of the runs that the mart has."""
    table = RUN_HISTORY.to_user_string()
    marts = platform.marts()
    if not marts.exists(table):
        return pl.DataFrame(schema={"run_id": pl.String()})
    with marts.reading(table):
        return marts.scan(table).select("run_id").collect()


def runs_in_use(instance: dg.DagsterInstance) -> set[str]:
    """Runs that made what is the newest of an asset or of one of its partitions: deleting them would unmake it."""
    used: set[str] = set()
    for key in instance.get_asset_keys():
        latest = instance.get_latest_materialization_event(key)
        if latest is not None:
            used.add(latest.run_id)
        ids = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        newest = list(ids.values())
        for at in range(0, len(newest), _PAGE):
            chosen = dg.AssetRecordsFilter(asset_key=key, storage_ids=newest[at : at + _PAGE])
            records = instance.fetch_materializations(chosen, limit=_PAGE).records
            used.update(record.run_id for record in records)
    return used


@dg.op(description="Delete ended runs older than SIEIS_RUN_RETENTION_DAYS whose history is kept, and old alerts.")
def delete_old_runs_op(context: dg.OpExecutionContext, platform: PlatformResource) -> None:
    """Runs that made the newest of an asset or partition stay, however old: their events say that it is there."""
    days = platform.settings().run_retention_days
    before = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    with dagster_failures():
        history = set(_kept(platform)["run_id"])
        with platform.state() as state:
            forgotten = state.forget_alerts(dt.datetime.now(dt.UTC) - dt.timedelta(days=_ALERT_DAYS))
    old = [
        record.dagster_run.run_id
        for record in _records(context.instance, dg.RunsFilter(statuses=_ENDED, created_before=before))
    ]
    used = runs_in_use(context.instance)
    deleted = [run for run in old if run in history and run not in used]
    for run in deleted:
        context.instance.delete_run(run)
    context.log.info("%d of %d runs older than %d days deleted; %d alerts", len(deleted), len(old), days, forgotten)
    context.add_output_metadata({"deleted": len(deleted), "older": len(old), "alerts_forgotten": forgotten})


@dg.job(
    description="Delete old runs from Dagster's database, so that it does not grow for ever.",
    tags={"dagster/max_runtime": "3600"},
)
def delete_old_runs() -> None:
    """The one step."""
    delete_old_runs_op()


daily_cleanup = dg.ScheduleDefinition(
    name="daily_cleanup",
    job=delete_old_runs,
    cron_schedule="0 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Old runs and alerts are deleted once a day, after their history is kept (02:20).",
)

#: What has an automation condition is materialized by it; the library's own sensor would wait to be switched on.
automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
    description="Evaluates the automation conditions of all assets and checks.",
)


def definitions() -> dg.Definitions:
    """The history, the job, its schedule, and the sensor behind all automation conditions."""
    return dg.Definitions(assets=[run_history], jobs=[delete_old_runs], schedules=[daily_cleanup], sensors=[automation])
