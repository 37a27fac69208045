"""Jobs and the schedules that run them.

Belongs here: what runs together, and when. Not here: what it does.
"""

import datetime as dt
from typing import Final

import dagster as dg

from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.ml.assets import ANOMALIES, MODEL
from sieis_platform.defs.resources import NO_ARCHIVE, PlatformResource
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.defs.schedules import once_archived
from sieis_platform.defs.stream.assets import HOT_STORE

#: Checks of the stores belong to every run over days; the observation, which has no partition, is a job of its own.
_STORE_CHECKS: Final = dg.AssetSelection.checks_for_assets(ARCHIVE, HOT_STORE)
_REFRESHED: Final = dg.AssetSelection.assets(*MARTS.values(), ANOMALIES)
#: Longest run in seconds before it is ended; an observation takes one, a year of days about twenty minutes.
_SHORT: Final = {"dagster/max_runtime": "600"}
_LONG: Final = {"dagster/max_runtime": "14400"}

observe_archive = dg.define_asset_job(
    "observe_archive",
    selection=dg.AssetSelection.assets(ARCHIVE) - _STORE_CHECKS,
    description="Look at the archive: version, rows, days, positions.",
    tags=_SHORT,
)
refresh = dg.define_asset_job(
    "refresh",
    selection=_REFRESHED | _STORE_CHECKS,
    # Always whole: a run of chosen assets is one without the archive's checks.
    description="Aggregate and check days, and score them with the model in use once there is one.",
    tags=_LONG,
)
refresh_and_train = dg.define_asset_job(
    "refresh_and_train",
    selection=_REFRESHED | dg.AssetSelection.assets(MODEL) | _STORE_CHECKS,
    description="Train a new model, then aggregate, check and score days with it.",
    tags=_LONG,
)
JOBS: Final = [observe_archive, refresh, refresh_and_train]


@dg.schedule(
    cron_schedule="5 * * * *",
    target=refresh,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Today's aggregates and anomalies, hourly; in the first hour yesterday's too: its last rows come late.",
)
def hourly_refresh(
    context: dg.ScheduleEvaluationContext, platform: PlatformResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Refresh today."""
    if not platform.archive().exists():
        return dg.SkipReason(NO_ARCHIVE)
    moment = context.scheduled_execution_time
    days = [moment.date()] if moment.hour else [moment.date() - dt.timedelta(days=1), moment.date()]
    return [dg.RunRequest(run_key=f"{day}-{moment.isoformat()}", partition_key=day.isoformat()) for day in days]


@dg.schedule(
    cron_schedule="30 1 * * *",
    target=refresh_and_train,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night: a new model, and yesterday, now complete, with it.",
)
def nightly(context: dg.ScheduleEvaluationContext, platform: PlatformResource) -> dg.RunRequest | dg.SkipReason:
    """Train and refresh yesterday."""
    if not platform.archive().exists():
        return dg.SkipReason(NO_ARCHIVE)
    moment = context.scheduled_execution_time
    yesterday = (moment.date() - dt.timedelta(days=1)).isoformat()
    return dg.RunRequest(run_key=f"{yesterday}-{moment.isoformat()}", partition_key=yesterday)


archive_observation_schedule = once_archived(
    "archive_observation_schedule",
    "*/15 * * * *",
    observe_archive,
    "Version, rows and positions of the archive, every quarter of an hour.",
)


SCHEDULES: Final = [hourly_refresh, nightly, archive_observation_schedule]


def definitions() -> dg.Definitions:
    """Jobs and schedules."""
    return dg.Definitions(jobs=JOBS, schedules=SCHEDULES)
