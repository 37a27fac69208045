"""Sensors evaluated as Dagster's daemon does it. Belongs here: what tests of several sensors share."""

import dagster as dg
from dagster._core.definitions.sensor_definition import SensorExecutionData

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.settings import Settings


def tick(
    sensor: dg.SensorDefinition,
    settings: Settings,
    instance: dg.DagsterInstance,
    cursor: str | None,
    platform: PlatformResource | None = None,
) -> SensorExecutionData:
    """One evaluation as the daemon makes it, asset events reported."""
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        repository_def=build_definitions(settings).get_repository_def(),
        resources={"platform": platform or PlatformResource.of(settings)},
    )
    data = sensor.evaluate_tick(context)
    for event in data.asset_events:
        instance.report_runless_asset_event(event)
    return data
