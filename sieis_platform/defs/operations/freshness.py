"""Alerts where an asset's freshness policy begins to warn or to fail, and once it holds again.

Belongs here: which changes become an alert. Not here: the policies (beside their assets), who judges them (Dagster's
daemon, every half minute), cooldown and delivery (sieis_platform.alerts).
"""

import datetime as dt
from collections.abc import Mapping
from typing import Final

import dagster as dg
import msgspec
from dagster._core.definitions.freshness import (  # what the daemon writes down; it has no public name
    FreshnessState,
    FreshnessStateRecord,
)

from sieis_platform.defs.cursors import decoded
from sieis_platform.defs.metadata import moment
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.state import AlertLevel, NewAlert

_LOOK_SECONDS: Final = 30

_LEVELS: Final[Mapping[FreshnessState, AlertLevel]] = {
    FreshnessState.PASS: "success",
    FreshnessState.WARN: "warning",
    FreshnessState.FAIL: "failure",
}
_TITLES: Final = {
    FreshnessState.PASS: "Fresh again",
    FreshnessState.WARN: "Not fresh",
    FreshnessState.FAIL: "Not fresh for too long",
}


class _Told(msgspec.Struct):
    """What was last dealt with of an asset: its state, and since when (Unix seconds)."""

    state: str
    since: float


_Cursor = dict[str, _Told]


@dg.sensor(
    name="freshness",
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="An alert when an asset's freshness policy begins to warn or to fail, and one when it holds again.",
)
def freshness(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
    """Compare each policy's state with that of the last look; the cursor moves once every alert is kept.

    A state lasts, unlike a failed run: one that is bad at the first look is news. What was bad and good again between
    two looks is passed over, which at windows of a quarter of an hour and more takes a sensor that did not run.
    """
    assert context.repository_def is not None  # noqa: S101 - Dagster gives it to a sensor that runs
    graph = context.repository_def.asset_graph
    policies = {
        key: policy
        for key in graph.get_all_asset_keys()
        if isinstance(policy := graph.get(key).freshness_policy, dg.FreshnessPolicy)
    }
    told = decoded(context.cursor, _Cursor) or {}
    now: _Cursor = {}
    kept = 0
    with platform.alerts() as alerts:
        for key, record in context.instance.get_freshness_state_records(list(policies)).items():
            name, state = key.to_user_string(), record.freshness_state
            now[name] = _Told(state.value, record.updated_at.timestamp())
            if _is_news(told.get(name), now[name]):
                kept += alerts.raise_alert(_alert(context.instance, key, policies[key], record))
    bad = sorted(name for name, one in now.items() if one.state in (FreshnessState.WARN, FreshnessState.FAIL))
    said = f"{kept} change(s) alerted; not fresh: {', '.join(bad) or 'none'}"
    return dg.SensorResult(skip_reason=said, cursor=msgspec.json.encode(now).decode())


def _is_news(before: _Told | None, now: _Told) -> bool:
    """Whether it got bad since the last look (again, if it was well in between), or is well after having been bad."""
    was_bad = before is not None and before.state in (FreshnessState.WARN, FreshnessState.FAIL)
    if now.state == FreshnessState.PASS:
        return was_bad
    # Not judged yet, or any more: nobody has to do anything about it.
    return now.state in (FreshnessState.WARN, FreshnessState.FAIL) and now != before


def _alert(
    instance: dg.DagsterInstance, key: dg.AssetKey, policy: dg.FreshnessPolicy, record: FreshnessStateRecord
) -> NewAlert:
    name, state = key.to_user_string(), record.freshness_state
    made = instance.get_latest_materialization_event(key)
    since = record.updated_at.replace(microsecond=0).isoformat()
    if state is FreshnessState.PASS:
        text = f"{name} is as fresh as its policy wants it since {since}."
    else:
        text = (
            f"{name} was last made or told anew at {moment(made.timestamp if made else None)}; its policy: "
            f"{_described(policy)}. Dagster's page of the asset shows its runs, the runbook what to look at."
        )
    return NewAlert(
        # With the moment of the change: each is an alert of its own, and one that is kept twice is held back.
        subject=f"freshness/{name}/{state.value}/{since}",
        title=f"{_TITLES[state]}: {name}",
        text=text,
        level=_LEVELS[state],
    )


def _described(policy: dg.FreshnessPolicy) -> str:
    fail, warn = (getattr(policy, name, None) for name in ("fail_window", "warn_window"))
    if fail is None:
        return str(policy)
    after = f"it fails after {_span(fail.to_timedelta())}"
    return f"it warns after {_span(warn.to_timedelta())}, {after}" if warn else after


def _span(span: dt.timedelta) -> str:
    minutes = int(span.total_seconds()) // 60
    return f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"


def definitions() -> dg.Definitions:
    """The sensor."""
    return dg.Definitions(sensors=[freshness])
