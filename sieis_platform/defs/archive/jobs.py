"""When the archive is cared for: hourly the open day, daily the closed ones, at night the cold, retention and vacuum.

Belongs here: these jobs and schedules. Not here: what they run (upkeep).
"""

import datetime as dt
from typing import Final

import dagster as dg

from sieis_platform.defs.archive.upkeep import (
    CLOSED_DAYS,
    COLD_DAYS,
    LEDGER,
    OPEN_DAY,
    RETENTION,
    STORAGE_REPORT,
    VACUUM,
)
from sieis_platform.defs.partitions import first_partition, windows
from sieis_platform.defs.resources import NO_ARCHIVE, PlatformResource
from sieis_platform.defs.schedules import once_archived
from sieis_platform.stores.archive import rows_by_day
from sieis_platform.stores.upkeep import unfinished_days

#: Longest run in seconds before it is ended; a night's vacuum of years of days takes minutes.
_MAX_RUNTIME: Final = {"dagster/max_runtime": "7200"}

compact_open_day = dg.define_asset_job(
    "compact_open_day",
    selection=dg.AssetSelection.assets(OPEN_DAY),
    description="Put today's small files together.",
    tags=_MAX_RUNTIME,
)
close_day = dg.define_asset_job(
    "close_day",
    selection=dg.AssetSelection.assets(CLOSED_DAYS),
    description="Put days in their final form: one row a key, one file a mote.",
    tags=_MAX_RUNTIME,
)
move_cold = dg.define_asset_job(
    "move_cold",
    selection=dg.AssetSelection.assets(COLD_DAYS),
    description="Move old days into the cold table.",
    tags=_MAX_RUNTIME,
)
retention = dg.define_asset_job(
    "retention",
    selection=dg.AssetSelection.assets(RETENTION),
    description="Remove the days that the archive no longer keeps.",
    tags=_MAX_RUNTIME,
)
vacuum = dg.define_asset_job(
    "vacuum",
    selection=dg.AssetSelection.assets(LEDGER, VACUUM, STORAGE_REPORT),
    description="Copy the ledger, delete files and log entries that no recent version needs, weigh what is left.",
    tags=_MAX_RUNTIME,
)
JOBS: Final = [compact_open_day, close_day, move_cold, retention, vacuum]


hourly_compaction = once_archived(
    "hourly_compaction", "20 * * * *", compact_open_day, "Today's small files, every hour."
)
nightly_vacuum = once_archived(
    "nightly_vacuum",
    "45 2 * * *",
    vacuum,
    "Every night: the ledger copied, old versions deleted, the storage report.",
)


@dg.schedule(
    cron_schedule="40 0 * * *",
    target=close_day,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Yesterday, and every earlier day that was never closed or had rows come late.",
)
def daily_closing(
    context: dg.ScheduleEvaluationContext, platform: PlatformResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Close what is not closed, one run for each range of days."""
    archive = platform.archive()
    if not archive.exists():
        return dg.SkipReason(NO_ARCHIVE)
    moment = context.scheduled_execution_time
    settings = platform.settings()
    first = first_partition(settings, context, CLOSED_DAYS)
    closed = context.instance.get_materialized_partitions(CLOSED_DAYS)
    files = archive.files()
    never = {day for day in rows_by_day(files) if day.isoformat() not in closed}
    open_again = unfinished_days(files, settings.archive_small_file_bytes)
    yesterday = moment.date() - dt.timedelta(days=1)
    days = {day for day in {yesterday, *never, *open_again} if first <= day <= yesterday}
    return [
        dg.RunRequest(run_key=f"{window.first}-{window.last}-{moment.isoformat()}", tags=window.tags())
        for window in windows(days)
    ]


@dg.schedule(
    cron_schedule="30 1 * * *",
    target=move_cold,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night, where a cold table is set.",
)
def nightly_move(context: dg.ScheduleEvaluationContext, platform: PlatformResource) -> dg.RunRequest | dg.SkipReason:
    """Move old days, once they were closed."""
    if not platform.archive().exists():
        return dg.SkipReason(NO_ARCHIVE)
    if not platform.settings().archive_cold_uri:
        return dg.SkipReason("every day stays in the live table; SIEIS_ARCHIVE_COLD_URI changes that")
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())


@dg.schedule(
    cron_schedule="20 2 * * *",
    target=retention,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night, where a retention is set.",
)
def nightly_retention(
    context: dg.ScheduleEvaluationContext, platform: PlatformResource
) -> dg.RunRequest | dg.SkipReason:
    """Let old days go."""
    if not platform.archive().exists():
        return dg.SkipReason(NO_ARCHIVE)
    settings = platform.settings()
    if settings.archive_retention_days is None and not settings.archive_retention_motes:
        return dg.SkipReason("the archive keeps every reading for ever; SIEIS_ARCHIVE_RETENTION_DAYS changes that")
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())


def definitions() -> dg.Definitions:
    """Jobs and schedules of the archive's care."""
    return dg.Definitions(
        jobs=JOBS, schedules=[hourly_compaction, daily_closing, nightly_move, nightly_retention, nightly_vacuum]
    )
