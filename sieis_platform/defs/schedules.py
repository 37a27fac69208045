"""Schedules that run a job by the clock once there is an archive to run it on.

Belongs here: that one shape. Not here: which jobs, nor schedules that choose days (they lie beside their jobs).
"""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,  # what define_asset_job makes; it has no public name
)

from sieis_platform.defs.resources import NO_ARCHIVE, PlatformResource


def once_archived(name: str, cron: str, job: UnresolvedAssetJobDefinition, description: str) -> dg.ScheduleDefinition:
    """A schedule, running by default, that launches `job` at `cron` (UTC) and is skipped while there is no archive."""

    @dg.schedule(
        name=name,
        cron_schedule=cron,
        target=job,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )
    def tick(context: dg.ScheduleEvaluationContext, platform: PlatformResource) -> dg.RunRequest | dg.SkipReason:
        if not platform.archive().exists():
            return dg.SkipReason(NO_ARCHIVE)
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return tick
