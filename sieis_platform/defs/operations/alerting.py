"""Alerts for failed runs and failed checks, and their delivery.

Belongs here: what of Dagster becomes an alert. Not here: cooldown and delivery (sieis_platform.alerts).
"""

import datetime as dt
import time
from collections.abc import Sequence
from typing import Final

import dagster as dg
import msgspec
import polars as pl
from dagster._core.storage.asset_check_execution_record import (  # no public way tells of a check's past evaluations
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

from sieis_platform.alerts import AlertDeliveryError
from sieis_platform.defs.cursors import decoded
from sieis_platform.defs.failures import step_failure
from sieis_platform.defs.metadata import OWNERS, columns, labels, preview_of
from sieis_platform.defs.operations.inbox import FILE_TAG
from sieis_platform.defs.operations.keys import ALERTS
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.state import NewAlert, StoredAlert

_LOOK_SECONDS: Final = 30
_FAILURES_READ: Final = 20  # failed evaluations of one check between two looks; more are one alert anyway
_REASON_CHARACTERS: Final = 1_000
_SUBJECT_CHARACTERS: Final = 500  # as long as the state keeps them
_RECENT: Final = 5
_WILL_RETRY: Final = "dagster/will_retry"  # set by Dagster right after a run has failed, where it retries runs
_TAG_SECONDS: Final = 60
#: A failure may become visible after a look although it is of before: another process' clock, a slow commit.
_REACH_SECONDS: Final = 300

_SCHEMA: Final = pl.Schema(
    {
        "raised_at": pl.String(),
        "level": pl.String(),
        "subject": pl.String(),
        "title": pl.String(),
        "repeats": pl.Int64(),
        "status": pl.String(),
    }
)


class _Runs(msgspec.Struct):
    """`since`: time of the last look, Unix seconds; `seen`: failed runs dealt with that the next look meets again."""

    since: float
    seen: list[str]


@dg.sensor(
    name="failed_run",
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="An alert for every failed run that is not started again, with the error of each failed step.",
)
def failed_run(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
    """Look at runs that failed since the last look; those before the first look are not news.

    Not one of Dagster's sensors of run status: their cursor passes a run even where its alert could not be kept. This
    one returns its cursor once all are kept: with the operational state away, the next tick sees the same runs.
    """
    now = time.time()
    before = decoded(context.cursor, _Runs)
    reach = (before.since if before else now) - _REACH_SECONDS
    records = context.instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=dt.datetime.fromtimestamp(reach, dt.UTC)),
        order_by="update_timestamp",
        ascending=True,
    )
    if before is None:
        cursor = _Runs(now, [record.dagster_run.run_id for record in records])
        text = msgspec.json.encode(cursor).decode()
        return dg.SensorResult(skip_reason="from now on failed runs are alerted", cursor=text)
    seen, kept = set(before.seen), 0
    with platform.alerts() as alerts:
        for record in records:
            run, ended = record.dagster_run, record.end_time or record.update_timestamp.timestamp()
            if run.run_id in seen or ended < reach:  # one that ended earlier has been given a tag since
                continue
            if context.instance.run_retries_enabled and _WILL_RETRY not in run.tags and ended > now - _TAG_SECONDS:
                continue  # whether it is started again is not said yet
            if run.tags.get(_WILL_RETRY) != "true":  # else how the next one ends is what counts
                kept += alerts.raise_alert(_of_run(context.instance, run))
            seen.add(run.run_id)
    cursor = _Runs(now, [run_id for record in records if (run_id := record.dagster_run.run_id) in seen])
    return dg.SensorResult(skip_reason=f"{kept} failed run(s) alerted", cursor=msgspec.json.encode(cursor).decode())


def _of_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> NewAlert:
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=kinds) if entry.dagster_event]
    reasons = [
        f"step {event.step_key}: {step_failure(event)[:_REASON_CHARACTERS]}"
        for event in events
        if event.is_step_failure
    ]
    if not reasons:
        said = [event.message for event in events if event.message]
        reasons = [said[-1] if said else "the run failed before any step"]
    # Another step, or another file of the inbox, is another matter, which the cooldown must not hold back.
    steps = "+".join(sorted({event.step_key or "" for event in events if event.is_step_failure}))
    about = [run.job_name, steps, run.tags.get(FILE_TAG)]
    return NewAlert(
        subject="/".join(["run", *(part for part in about if part)])[:_SUBJECT_CHARACTERS],
        title=f"{run.job_name} failed",
        text="\n".join([*reasons, f"run {run.run_id}; the runbook tells what to do"]),
        level="failure",
    )


@dg.sensor(
    name="failed_check",
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="An alert for every failed check: a warning about the building, or a failure of the platform.",
)
def failed_check(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult | dg.SkipReason:
    """Look at evaluations since the last look; those before the first look are not news.

    A row is there from the moment a check is planned, and becomes that of its evaluation later: its number says nothing
    of when the check failed. The cursor therefore keeps which failed rows were seen.
    """
    assert context.repository_def is not None  # noqa: S101 - Dagster gives it to a sensor that runs
    storage = context.instance.event_log_storage
    failed = {
        key: storage.get_asset_check_execution_history(
            key, limit=_FAILURES_READ, status={AssetCheckExecutionRecordStatus.FAILED}
        )
        for key in context.repository_def.asset_graph.asset_check_keys
    }
    seen = {key.to_user_string(): [one.id for one in records] for key, records in failed.items()}
    text = msgspec.json.encode(seen).decode()
    before = decoded(context.cursor, dict[str, list[int]])
    if before is None:
        return dg.SensorResult(skip_reason="from now on failed checks are alerted", cursor=text)
    kept = 0
    with platform.alerts() as alerts:
        for key, records in failed.items():
            new = _new(records, before.get(key.to_user_string(), []))
            kept += sum(alerts.raise_alert(_of(one)) for one in new)
    return dg.SensorResult(skip_reason=f"{kept} failed check(s) alerted", cursor=text)


def _new(failed: Sequence[AssetCheckExecutionRecord], seen: Sequence[int]) -> list[AssetCheckExecutionRecord]:
    """Those not seen, oldest first; where not all could be seen, none of before those that were."""
    first = min(seen) if len(seen) >= _FAILURES_READ else 0
    return [one for one in reversed(failed) if one.id not in seen and one.id > first]


def _of(record: AssetCheckExecutionRecord) -> NewAlert:
    name = f"{record.key.asset_key.to_user_string()}: {record.key.name}"
    event = record.event.dagster_event if record.event else None
    check = event.asset_check_evaluation_data if event else None
    failure = check is None or check.severity is dg.AssetCheckSeverity.ERROR
    return NewAlert(
        subject=f"check/{name}",
        title=f"Check failed: {name}",
        text=f"{check.description if check and check.description else 'no description'}\nrun {record.run_id}",
        level="failure" if failure else "warning",
    )


@dg.sensor(
    name="alert_delivery",
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends the alerts that wait (SIEIS_ALERT_URLS) and tells of them; fails where a service takes none.",
)
def alert_delivery(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult | dg.SkipReason:
    """Deliver, then tell the counts if they have changed.

    Raises: AlertDeliveryError: the tick is then red, and the next one tells the failures that were counted.
    """
    with platform.state() as state, platform.alerts() as alerts:
        outcome = alerts.deliver()
        if outcome.failures:
            raise AlertDeliveryError(
                f"{len(outcome.failures)} alert(s) not delivered, they are tried again: {'; '.join(outcome.failures)}"
            )
        counts, recent, deliverable = state.alert_counts(), state.recent_alerts(_RECENT), alerts.deliverable
        oldest = state.oldest_alert()
    # Repeats are not news: what stays broken is held back at every look, and each telling is kept by Dagster for good.
    cursor = msgspec.json.encode(counts._replace(repeats=0)).decode()
    if cursor == context.cursor or not counts.kept:
        quiet = "no new alerts" if deliverable else "alerts are only kept: SIEIS_ALERT_URLS is not set"
        return dg.SkipReason(quiet)
    rows = pl.DataFrame([_row(one) for one in recent], schema=_SCHEMA, orient="row")
    told = dg.AssetObservation(
        ALERTS,
        metadata={
            "dagster/row_count": counts.kept,
            "waiting": counts.waiting,
            "held_back": counts.repeats,
            "failed_deliveries": counts.failures,
            "first": oldest.isoformat() if oldest else "never",
            "last": recent[0].raised_at.isoformat(),
            "preview": preview_of(rows),
        },
    )
    return dg.SensorResult(asset_events=[told], cursor=cursor)


def _row(stored: StoredAlert) -> tuple[str, str, str, str, int, str]:
    alert = stored.alert
    status = "waiting" if stored.waiting else "delivered" if stored.delivered_to else "kept"
    return f"{stored.raised_at:%Y-%m-%d %H:%M:%S}", alert.level, alert.subject, alert.title, stored.repeats, status


def definitions() -> dg.Definitions:
    """The alerts and the sensors that raise and send them."""
    return dg.Definitions(
        assets=[
            dg.AssetSpec(
                ALERTS,
                description="What someone should know of: failed runs and checks, what is no longer fresh, dead "
                "letters, a consumer that is down. Kept in the operational state, sent through Apprise.",
                group_name="operations",
                kinds={"apprise", "sql"},
                owners=OWNERS,
                tags=labels("operations", "state"),
                metadata=columns(_SCHEMA),
            )
        ],
        sensors=[failed_run, failed_check, alert_delivery],
    )
