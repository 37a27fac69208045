"""Operations in Dagster on real instances: alerts, the inbox, rebuilding, runs that grow old, automation."""

import datetime as dt
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import freeze_time
from pydantic import SecretStr

from sieis_platform.alerts import AlertDeliveryError
from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.alerting import alert_delivery, failed_check, failed_run
from sieis_platform.defs.operations.inbox import inbox, load_inbox
from sieis_platform.defs.operations.rebuild import rebuild_hot_store
from sieis_platform.defs.operations.run_history import delete_old_runs
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.settings import Settings
from sieis_platform.state import State, StateUnavailableError, StoredAlert
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.timeline import TimelineFile
from tests.receiver import Receiver
from tests.ticks import tick

pytestmark = pytest.mark.timeout(300)

CHECKED = dg.AssetKey("archive")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation with its own inbox. History keeps its dates, so that nothing depends on the day of the test."""
    inbox_dir = tmp_path / "inbox"
    inbox_dir.mkdir()
    return Settings(data_dir=tmp_path / "var", inbox_dir=inbox_dir, timeline_mode="none", hot_retention_days=36_500)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def kept(settings: Settings) -> list[StoredAlert]:
    with State.open(settings) as state:
        return state.recent_alerts(100)


# -- alerts --------------------------------------------------------------------------------------------------------


def failed(
    settings: Settings, instance: dg.DagsterInstance, tags: dict[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    """A run that fails because there is no archive."""
    job = build_definitions(settings).resolve_job_def("observe_archive")
    return job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)


def test_failed_runs_since_the_last_look_are_alerts_with_their_reasons(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    old = failed(settings, instance)
    cursor = tick(failed_run, settings, instance, None).cursor
    assert kept(settings) == []  # what failed before anyone looked is not news
    first = failed(settings, instance)
    failed(settings, instance)
    cursor = tick(failed_run, settings, instance, cursor).cursor
    instance.add_run_tags(old.run_id, {"seen_by": "somebody"})  # an update that is no failure
    tick(failed_run, settings, instance, cursor)
    (stored,) = kept(settings)
    assert (stored.alert.subject, stored.alert.level, stored.repeats) == (
        "run/observe_archive/observe_archive_table",
        "failure",
        1,
    )
    assert "sieis load" in stored.alert.text
    assert first.run_id in stored.alert.text


def test_another_file_is_another_matter(settings: Settings, instance: dg.DagsterInstance) -> None:
    cursor = tick(failed_run, settings, instance, None).cursor
    for name in ("letter.txt", "other.txt", "letter.txt"):
        put(settings, name, "Dear Sir or Madam\n")
        config = {"ops": {"load_inbox_file": {"config": {"file": name}}}}
        request = dg.RunRequest(run_config=config, tags={"sieis/inbox_file": name})
        assert not run_requested(settings, instance, request).success
    tick(failed_run, settings, instance, cursor)
    assert {stored.alert.subject: stored.repeats for stored in kept(settings)} == {
        "run/load_inbox/load_inbox_file/letter.txt": 1,
        "run/load_inbox/load_inbox_file/other.txt": 0,
    }


def test_a_failed_run_is_alerted_once_the_state_is_back(settings: Settings, instance: dg.DagsterInstance) -> None:
    cursor = tick(failed_run, settings, instance, None).cursor
    result = failed(settings, instance)
    settings.state_path.mkdir(parents=True)  # in the way
    with pytest.raises(StateUnavailableError):
        tick(failed_run, settings, instance, cursor)
    settings.state_path.rmdir()
    tick(failed_run, settings, instance, cursor)
    (stored,) = kept(settings)
    assert result.run_id in stored.alert.text


def test_a_run_that_is_started_again_is_no_alert_yet(settings: Settings, instance: dg.DagsterInstance) -> None:
    cursor = tick(failed_run, settings, instance, None).cursor
    failed(settings, instance, {"dagster/will_retry": "true"})
    cursor = tick(failed_run, settings, instance, cursor).cursor
    assert kept(settings) == []
    failed(settings, instance)
    tick(failed_run, settings, instance, cursor)
    assert [stored.repeats for stored in kept(settings)] == [0]


@pytest.mark.parametrize(("again", "alerts"), [("true", 0), ("false", 1)])
def test_where_runs_are_retried_the_word_of_it_is_waited_for(
    settings: Settings, tmp_path: Path, again: str, alerts: int
) -> None:
    """Dagster notes the failure first, and in a second step whether it starts the run again."""
    overrides = {"run_retries": {"enabled": True, "max_retries": 1}}
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home), overrides=overrides) as instance:
        cursor = tick(failed_run, settings, instance, None).cursor
        run = instance.create_run_for_job(build_definitions(settings).resolve_job_def("observe_archive"))
        gone = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, run.job_name, message="its process is gone")
        instance.run_storage.handle_run_event(run.run_id, gone)
        cursor = tick(failed_run, settings, instance, cursor).cursor
        assert kept(settings) == []
        instance.add_run_tags(run.run_id, {"dagster/will_retry": again})
        cursor = tick(failed_run, settings, instance, cursor).cursor
        tick(failed_run, settings, instance, cursor)
        assert [stored.repeats for stored in kept(settings)] == [0] * alerts


def evaluation(name: str, passed: bool, severity: dg.AssetCheckSeverity) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=CHECKED, check_name=name, passed=passed, severity=severity, description=f"{name} said no"
    )


def test_failed_checks_since_the_last_look_are_alerts(settings: Settings, instance: dg.DagsterInstance) -> None:
    error, warning = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    instance.report_runless_asset_event(evaluation("schema", False, error))
    cursor = tick(failed_check, settings, instance, None).cursor
    assert kept(settings) == []  # what failed before anyone looked is not news
    instance.report_runless_asset_event(evaluation("positions_unique", False, error))
    instance.report_runless_asset_event(evaluation("positions_unique", True, error))  # it recovered meanwhile
    instance.report_runless_asset_event(evaluation("ranges", False, warning))
    instance.report_runless_asset_event(evaluation("nulls", True, warning))
    cursor = tick(failed_check, settings, instance, cursor).cursor
    found = {(stored.alert.subject, stored.alert.level) for stored in kept(settings)}
    assert found == {("check/archive: positions_unique", "failure"), ("check/archive: ranges", "warning")}
    tick(failed_check, settings, instance, cursor)
    assert [stored.repeats for stored in kept(settings)] == [0, 0]


def test_a_check_that_fails_after_a_look_at_its_plan_is_an_alert(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of checks are made when a run is planned: a look between that and the evaluation must not count them."""
    monkeypatch.setenv("SIEIS_INFLUX_TOKEN", "none")
    away = settings.model_copy(update={"influx_url": "http://127.0.0.1:1"})
    open_archive(settings).create()
    run_id, looks = str(uuid.uuid4()), []
    cursor = tick(failed_check, settings, instance, None).cursor

    def look(event: dg.EventLogEntry) -> None:
        if event.dagster_event_type is dg.DagsterEventType.RUN_START:
            assert (
                instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0].status.value == "PLANNED"
            )
            looks.append(tick(failed_check, settings, instance, cursor).cursor)

    key = dg.AssetCheckKey(dg.AssetKey("hot_store"), "freshness")
    instance.add_event_listener(run_id, look)
    job = build_definitions(away).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, run_id=run_id, op_selection=["hot_store_expectations"])
    assert result.success
    assert (len(looks), kept(settings)) == (1, [])
    tick(failed_check, settings, instance, looks[0])
    subjects = {stored.alert.subject for stored in kept(settings)}
    assert subjects == {"check/hot_store: freshness", "check/hot_store: equals_archive"}
    assert all(run_id in stored.alert.text for stored in kept(settings))


def test_alerts_are_delivered_and_told(settings: Settings, instance: dg.DagsterInstance, receiver: Receiver) -> None:
    heard = settings.model_copy(update={"alert_urls": SecretStr(receiver.url)})

    class Heard(PlatformResource):
        def settings(self) -> Settings:
            return heard

    platform = Heard.of(settings)
    cursor = tick(failed_check, settings, instance, None, platform).cursor
    instance.report_runless_asset_event(evaluation("schema", False, dg.AssetCheckSeverity.ERROR))
    tick(failed_check, settings, instance, cursor, platform)
    receiver.status = 500
    with pytest.raises(AlertDeliveryError, match="Check failed: archive: schema: JSON"):
        tick(alert_delivery, settings, instance, None, platform)
    with State.open(settings) as state:  # the wait before the next attempt passes
        (stored,) = state.due_alerts() or state.recent_alerts(1)
        state.save_attempt(stored.id, delivered_to=stored.delivered_to, error=stored.last_error, retry_seconds=0)
    receiver.status = 200
    data = tick(alert_delivery, settings, instance, None, platform)
    assert [message["title"] for message in receiver.received] == ["Check failed: archive: schema"]
    observed = instance.fetch_observations(dg.AssetKey("alerts"), limit=1).records[0].asset_observation
    assert observed is not None
    assert observed.metadata["waiting"].value == 0
    assert int(str(observed.metadata["failed_deliveries"].value)) >= 1
    assert "no new alerts" in (tick(alert_delivery, settings, instance, data.cursor, platform).skip_message or "")
    instance.report_runless_asset_event(evaluation("schema", False, dg.AssetCheckSeverity.ERROR))
    tick(failed_check, settings, instance, cursor, platform)
    assert [one.repeats > 0 for one in kept(settings)] == [True]
    again = tick(alert_delivery, settings, instance, data.cursor, platform)  # a repeat is not told
    assert (again.asset_events, again.cursor) == ([], data.cursor)


# -- the inbox -----------------------------------------------------------------------------------------------------

LINE = "2004-02-28 00:{minute:02}:30.5 {minute} 1 20.5 40.1 100.0 2.6\n"


def put(settings: Settings, name: str, text: str | None = None) -> Path:
    TimelineFile.of(settings).fix(settings, dt.date(2004, 2, 28), 1)  # as a load of the data set does
    path = settings.inbox_location / name
    path.write_text(text or "".join(LINE.format(minute=minute) for minute in range(20)))
    return path


def run_requested(
    settings: Settings, instance: dg.DagsterInstance, request: dg.RunRequest
) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings).resolve_job_def(load_inbox.name)
    return job.execute_in_process(
        instance=instance, run_config=request.run_config, tags=dict(request.tags), raise_on_error=False
    )


def test_a_file_is_loaded_once_it_has_settled(settings: Settings, instance: dg.DagsterInstance) -> None:
    path = put(settings, "readings.txt")
    put(settings, "more.txt.part")
    first = tick(inbox, settings, instance, None)
    assert first.run_requests == []  # it may still be written
    with path.open("a") as file:
        file.write(LINE.format(minute=30))
    second = tick(inbox, settings, instance, first.cursor)
    assert second.run_requests == []
    third = tick(inbox, settings, instance, second.cursor)
    (request,) = third.run_requests or []
    assert run_requested(settings, instance, request).success
    assert open_archive(settings).scan_all().collect().height == 21
    assert (settings.inbox_location / "done" / "readings.txt").exists()
    made = instance.get_latest_materialization_event(CHECKED)
    assert made is not None
    assert made.asset_materialization is not None
    assert made.asset_materialization.metadata["rows_loaded"].value == 21
    assert tick(inbox, settings, instance, third.cursor).run_requests == []


def test_what_is_no_file_of_readings_fails_once_and_says_why(settings: Settings, instance: dg.DagsterInstance) -> None:
    put(settings, "letter.txt", "Dear Sir or Madam\n")
    cursor = tick(inbox, settings, instance, None).cursor
    data = tick(inbox, settings, instance, cursor)
    (request,) = data.run_requests or []
    assert not run_requested(settings, instance, request).success
    failed = settings.inbox_location / "failed"
    assert "holds no reading" in (failed / "letter.txt.reason.txt").read_text()
    assert tick(inbox, settings, instance, data.cursor).run_requests == []


def test_a_file_that_cannot_be_loaded_now_is_tried_three_times(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    put(settings, "readings.txt")
    (settings.data_dir / "archive").write_text("in the way")  # the store's fault, not the file's
    cursor = tick(inbox, settings, instance, None).cursor
    attempts = 0
    while requests := tick(inbox, settings, instance, cursor).run_requests:
        assert not run_requested(settings, instance, requests[0]).success
        attempts += 1
        assert attempts <= 3
    assert attempts == 3
    assert (settings.inbox_location / "readings.txt").exists()
    left = tick(inbox, settings, instance, cursor)
    assert "readings.txt failed 3 times" in (left.skip_message or "")
    # Put again, it is another version.
    put(settings, "readings.txt")
    cursor = tick(inbox, settings, instance, cursor).cursor
    assert tick(inbox, settings, instance, cursor).run_requests


@contextmanager
def without_archive(settings: Settings) -> Iterator[None]:
    """The store is away: no run can load."""
    place = settings.data_dir / "archive"
    away = place.rename(place.with_name("away")) if place.exists() else None
    place.write_text("in the way")
    yield
    place.unlink()
    if away is not None:
        away.rename(place)


def test_the_same_file_is_taken_whenever_it_is_put_there_and_what_failed_before_it_succeeded_does_not_count(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    keys: list[str | None] = []
    cursor = None

    def attempt() -> bool:
        nonlocal cursor
        data = tick(inbox, settings, instance, cursor)
        if not data.run_requests:  # the first look, which cannot know yet whether anybody writes it
            data = tick(inbox, settings, instance, data.cursor)
        cursor = data.cursor
        (request,) = data.run_requests or []
        keys.append(request.run_key)
        return run_requested(settings, instance, request).success

    for _ in range(4):
        path = put(settings, "readings.txt")
        os.utime(path, ns=(1, 1))  # a copy that keeps size and time, as `rsync -t` makes it every night
        with without_archive(settings):
            assert not attempt()
            assert not attempt()
        assert attempt()
        assert not path.exists()
    assert len(keys) == len(set(keys)) == 12
    assert open_archive(settings).scan_all().collect().height == 20


@pytest.mark.parametrize("cursor", ["3", '{"readings.txt": 17}', "set by hand"])
def test_a_cursor_that_the_inbox_cannot_read_is_a_first_look(
    settings: Settings, instance: dg.DagsterInstance, cursor: str
) -> None:
    put(settings, "readings.txt")
    first = tick(inbox, settings, instance, cursor)
    assert first.run_requests == []
    assert tick(inbox, settings, instance, first.cursor).run_requests


# -- the hot store again from the archive --------------------------------------------------------------------------


def rebuild(settings: Settings, instance: dg.DagsterInstance, **config: str) -> dg.ExecuteInProcessResult:
    job = build_definitions(settings).resolve_job_def(rebuild_hot_store.name)
    run_config = {"ops": {"rebuild_hot_store_op": {"config": config}}}
    return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)


def test_the_hot_store_is_rebuilt_by_a_job(settings: Settings, instance: dg.DagsterInstance) -> None:
    put(settings, "readings.txt")
    cursor = tick(inbox, settings, instance, None).cursor
    (request,) = tick(inbox, settings, instance, cursor).run_requests or []
    assert run_requested(settings, instance, request).success
    for file in settings.data_dir.glob("hot.sqlite*"):
        file.unlink()
    for _ in range(2):
        assert rebuild(settings, instance, first_day="2004-02-28", last_day="2004-02-28").success
        hot = open_hot(settings)
        assert hot.count_readings() == 20
        hot.close()
    made = instance.get_latest_materialization_event(dg.AssetKey("hot_store"))
    assert made is not None
    assert made.asset_materialization is not None
    assert made.asset_materialization.metadata["readings_written"].value == 20


@pytest.mark.parametrize("config", [{"first_day": "yesterday"}, {"first_day": "2004-03-02", "last_day": "2004-03-01"}])
def test_days_that_are_none_are_refused(
    settings: Settings, instance: dg.DagsterInstance, config: dict[str, str]
) -> None:
    assert not rebuild(settings, instance, **config).success


# -- runs ----------------------------------------------------------------------------------------------------------


def test_old_runs_are_deleted_but_for_what_they_still_stand_for(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    TimelineFile.of(settings).fix(settings, today() - dt.timedelta(days=100), 35)
    definitions = build_definitions(settings)
    open_archive(settings).create()
    old = dt.datetime.now(dt.UTC) - dt.timedelta(days=60)
    day, other = (today() - dt.timedelta(days=days) for days in (80, 81))
    aggregates = dg.AssetSelection.assets("daily_aggregates")
    job = definitions.resolve_implicit_global_asset_job_def()

    def aggregate(window: Window) -> str:
        result = job.execute_in_process(
            instance=instance,
            tags=window.tags(),
            asset_selection=list(aggregates.resolve(definitions.resolve_asset_graph())),
        )
        return result.run_id

    with freeze_time(old):
        superseded = aggregate(Window(day, day))
        newest_of_its_day = aggregate(Window(other, other))
        observed = definitions.resolve_job_def("observe_archive").execute_in_process(instance=instance).run_id
    recent = aggregate(Window(day, day))
    cleanup = definitions.resolve_job_def(delete_old_runs.name)
    assert cleanup.execute_in_process(instance=instance).success
    assert instance.has_run(superseded)  # its history is not kept yet
    assert (
        definitions.resolve_implicit_global_asset_job_def()
        .execute_in_process(instance=instance, asset_selection=[dg.AssetKey("run_history")])
        .success
    )
    assert cleanup.execute_in_process(instance=instance).success
    left = {run: instance.has_run(run) for run in (superseded, observed, newest_of_its_day, recent)}
    assert left == {superseded: False, observed: False, newest_of_its_day: True, recent: True}
    assert instance.get_materialized_partitions(dg.AssetKey("daily_aggregates")) == {day.isoformat(), other.isoformat()}
    history = open_marts(settings).scan("run_history").collect()
    assert {superseded, observed} <= set(history["run_id"])
    assert history.filter(pl.col("run_id") == superseded)["partitions"].item() == f"{day} to {day}"
    assert history["run_id"].is_unique().all()


def test_the_history_of_runs_is_kept_by_automation_every_night(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    definitions = build_definitions(settings)
    evening = dt.datetime.combine(today(), dt.time(23), dt.UTC)
    before = dg.evaluate_automation_conditions(definitions, instance, evaluation_time=evening)
    assert before.total_requested == 0
    after = dg.evaluate_automation_conditions(
        definitions, instance, evaluation_time=evening + dt.timedelta(hours=4), cursor=before.cursor
    )
    assert after.get_num_requested(dg.AssetKey("run_history")) == 1
    assert after.total_requested == 1
