"""Assets that are no longer fresh are alerted once, and once again when they are; on real instances."""

import contextlib
import datetime as dt
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._core.instance.ref import InstanceRef
from dagster._core.test_utils import freeze_time

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.freshness import freshness
from sieis_platform.defs.operations.home import environment, prepare_home
from sieis_platform.settings import Settings
from sieis_platform.state import NewAlert, State, StateUnavailableError
from tests.ticks import tick

TOPIC, HOT = dg.AssetKey("sensor_readings"), dg.AssetKey("hot_store")
NOON = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "var")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def alerts(settings: Settings) -> list[NewAlert]:
    """Those kept, oldest first."""
    with State.open(settings) as state:
        return [stored.alert for stored in reversed(state.recent_alerts(100))]


def judged(instance: dg.DagsterInstance, key: dg.AssetKey, state: FreshnessState, minute: int) -> None:
    """Write down what Dagster's daemon writes down when a state has changed."""
    moment = (NOON + dt.timedelta(minutes=minute)).timestamp()
    change = FreshnessStateChange(
        key=key, previous_state=FreshnessState.UNKNOWN, new_state=state, state_change_timestamp=moment
    )
    instance._report_runless_asset_event(change)  # pyright: ignore[reportPrivateUsage]


def test_each_change_is_one_alert_and_the_recovery_is_another(settings: Settings, instance: dg.DagsterInstance) -> None:
    cursor = tick(freshness, settings, instance, None).cursor
    instance.report_runless_asset_event(dg.AssetMaterialization(TOPIC))
    for minute, state in enumerate([FreshnessState.UNKNOWN, FreshnessState.PASS, FreshnessState.WARN]):
        judged(instance, TOPIC, state, minute)
        cursor = tick(freshness, settings, instance, cursor).cursor
    (warning,) = alerts(settings)
    assert (warning.title, warning.level) == ("Not fresh: sensor_readings", "warning")
    assert "it warns after 15 min, it fails after 1 h" in warning.text
    for minute, state in enumerate([FreshnessState.FAIL, FreshnessState.PASS], start=45):
        judged(instance, TOPIC, state, minute)
        for _ in range(3):  # what stays as it is, is no news
            cursor = tick(freshness, settings, instance, cursor).cursor
    assert [(one.title, one.level) for one in alerts(settings)[1:]] == [
        ("Not fresh for too long: sensor_readings", "failure"),
        ("Fresh again: sensor_readings", "success"),
    ]
    # Minutes later again: the cooldown of six hours holds no change back.
    judged(instance, TOPIC, FreshnessState.WARN, 50)
    tick(freshness, settings, instance, cursor)
    assert [one.level for one in alerts(settings)] == ["warning", "failure", "success", "warning"]


def test_what_is_bad_at_the_first_look_is_news_and_what_is_good_is_not(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    judged(instance, TOPIC, FreshnessState.FAIL, 0)
    judged(instance, HOT, FreshnessState.PASS, 0)
    data = tick(freshness, settings, instance, None)
    assert [one.title for one in alerts(settings)] == ["Not fresh for too long: sensor_readings"]
    assert "not fresh: sensor_readings" in (data.skip_message or "")


def test_well_and_bad_again_while_nobody_looked_is_told(settings: Settings, instance: dg.DagsterInstance) -> None:
    judged(instance, TOPIC, FreshnessState.FAIL, 0)
    cursor = tick(freshness, settings, instance, None).cursor
    judged(instance, TOPIC, FreshnessState.PASS, 10)
    judged(instance, TOPIC, FreshnessState.FAIL, 90)
    tick(freshness, settings, instance, cursor)
    assert [one.level for one in alerts(settings)] == ["failure", "failure"]


def test_with_the_state_away_the_next_look_tells_it_once(settings: Settings, instance: dg.DagsterInstance) -> None:
    cursor = tick(freshness, settings, instance, None).cursor
    for key in (TOPIC, HOT):
        judged(instance, key, FreshnessState.WARN, 0)
    settings.state_path.unlink()
    settings.state_path.mkdir()  # in the way
    with pytest.raises(StateUnavailableError):
        tick(freshness, settings, instance, cursor)
    settings.state_path.rmdir()
    for _ in range(2):  # the second as if the first had died after its alerts were kept
        tick(freshness, settings, instance, cursor)
    assert sorted(one.title for one in alerts(settings)) == ["Not fresh: hot_store", "Not fresh: sensor_readings"]


def test_policies_are_judged_by_the_instance_of_the_installation(settings: Settings) -> None:
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(prepare_home(settings)))) as instance:
        assert instance.freshness_enabled
        assert "FRESHNESS_DAEMON" in instance.get_required_daemon_types()


#: Assets that say how old they may get. What is cared for (compaction, vacuum) makes nothing that anybody waits for.
JUDGED = {
    *("sensor_readings", "hot_store", "archive", "hourly_aggregates", "daily_aggregates"),
    *("anomaly_model", "anomalies", "run_history"),
}


def test_what_others_wait_for_has_a_policy_that_warns_before_it_fails(settings: Settings) -> None:
    found = {
        spec.key.to_user_string(): spec.freshness_policy
        for spec in build_definitions(settings).resolve_all_asset_specs()
    }
    policies = {name: policy for name, policy in found.items() if policy is not None}
    assert set(policies) == JUDGED
    for name, policy in policies.items():
        assert policy.warn_window.to_timedelta() < policy.fail_window.to_timedelta(), name


# -- the daemon ----------------------------------------------------------------------------------------------------


def _until(settings: Settings, titles: list[str], log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (found := [one.title for one in alerts(settings)]) != titles:
        assert time.monotonic() < deadline, f"{found} after {seconds:g} s; {log.read_text()[-3_000:]}"
        time.sleep(0.5)  # the daemon is another process: nothing but the state tells


@contextlib.contextmanager
def _daemon(settings: Settings, log: Path) -> Iterator[None]:
    """`sieis dagster daemon`, which judges freshness every second instead of every half minute."""
    told = {**environment(settings), "FRESHNESS_DAEMON_INTERVAL_SECONDS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sieis_cli", "dagster", "daemon"],
            env={**os.environ, **told},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_daemon_judges_and_the_sensor_tells_without_being_switched_on(settings: Settings, tmp_path: Path) -> None:
    home = InstanceRef.from_dir(str(prepare_home(settings)))
    State.open(settings).close()
    with dg.DagsterInstance.from_ref(home) as instance:
        with freeze_time(dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)):
            instance.report_runless_asset_event(dg.AssetMaterialization(TOPIC))
        log = tmp_path / "daemon.log"
        with _daemon(settings, log):
            _until(settings, ["Not fresh for too long: sensor_readings"], log, 120)
            instance.report_runless_asset_event(dg.AssetMaterialization(TOPIC))
            _until(settings, ["Not fresh for too long: sensor_readings", "Fresh again: sensor_readings"], log, 120)
    (failure, recovery) = alerts(settings)
    assert (failure.level, recovery.level) == ("failure", "success")
