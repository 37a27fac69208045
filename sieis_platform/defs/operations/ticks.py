"""Alerts where a schedule or sensor itself keeps failing: then nothing starts the runs whose failure would be told.

Belongs here: which failing ticks become an alert. Not here: failed runs (alerting), cooldown and delivery
(sieis_platform.alerts).
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import dagster as dg
import msgspec
from dagster._core.scheduler.instigation import (  # what the daemon writes down; it has no public name
    InstigatorStatus,
    InstigatorTick,
    TickStatus,
)

from sieis_platform.defs.cursors import decoded
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.state import NewAlert

_LOOK_SECONDS: Final = 60
#: One failure may be a server that restarts; alerts are not for what is over at the next tick.
_IN_A_ROW: Final = 3
_REASON_CHARACTERS: Final = 1_000


class _Failing(NamedTuple):
    """A schedule or sensor whose last ticks have all failed, and the newest of them."""

    name: str
    kind: str
    last: InstigatorTick


@dg.sensor(
    name="failed_tick",
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="An alert when a schedule or sensor has failed three times in a row, and one when it works again.",
)
def failed_tick(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
    """Compare what fails now with what was told at the last look; the cursor moves once every alert is kept.

    One that fails at the first look is news, as it still does. Its own failures it cannot tell: where the operational
    state is away, `alert_delivery` could deliver none either.
    """
    failing = {one.name: one for one in _failing(context)}
    told = set(decoded(context.cursor, list[str]) or [])
    with platform.alerts() as alerts:
        for name in sorted(set(failing) - told):
            alerts.raise_alert(_alert(failing[name]))
        for name in sorted(told - set(failing)):
            alerts.raise_alert(_well(name))
    said = f"failing: {', '.join(sorted(failing)) or 'none'}"
    return dg.SensorResult(skip_reason=said, cursor=msgspec.json.encode(sorted(failing)).decode())


def _failing(context: dg.SensorEvaluationContext) -> Iterator[_Failing]:
    assert context.repository_def is not None  # noqa: S101 - Dagster gives it to a sensor that runs
    ours = {
        **{schedule.name: "schedule" for schedule in context.repository_def.schedule_defs},
        **{sensor.name: "sensor" for sensor in context.repository_def.sensor_defs},
    }
    for state in context.instance.all_instigator_state():
        kind = ours.get(state.instigator_name)
        if kind is None or state.status is InstigatorStatus.STOPPED:
            continue  # of an earlier release, or switched off
        ticks = context.instance.get_ticks(
            state.instigator_origin_id,
            state.selector_id,
            limit=_IN_A_ROW,
            statuses=[TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE],  # one under way says nothing yet
        )
        if len(ticks) == _IN_A_ROW and all(one.status is TickStatus.FAILURE for one in ticks):
            yield _Failing(state.instigator_name, kind, ticks[0])


def _alert(failing: _Failing) -> NewAlert:
    error = failing.last.error
    while error is not None and error.cause is not None:  # the outer ones say only where Dagster met it
        error = error.cause
    reason = error.message.strip()[:_REASON_CHARACTERS] if error is not None else "no reason was kept"
    return NewAlert(
        subject=f"tick/{failing.name}",
        title=f"The {failing.kind} {failing.name} keeps failing",
        text=f"It failed {_IN_A_ROW} times in a row, and starts no runs meanwhile: {reason}\n"
        "Its page in Dagster shows every tick; the runbook tells what to do.",
        level="failure",
    )


def _well(name: str) -> NewAlert:
    return NewAlert(
        subject=f"tick/{name}/well",
        title=f"{name} works again",
        text=f"The last tick of {name} did not fail, or it was switched off.",
        level="success",
    )


def definitions() -> dg.Definitions:
    """The sensor."""
    return dg.Definitions(sensors=[failed_tick])
