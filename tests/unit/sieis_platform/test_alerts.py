"""Alerts through the real Apprise to a real HTTP server: kept first, delivered to all, tried again, held back."""

import datetime as dt
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from sieis_platform.alerts import Alerts, AlertSettingsError
from sieis_platform.settings import Settings
from sieis_platform.state import NewAlert, State
from tests.databases import in_new_database
from tests.receiver import Receiver
from tools.services.group import Services
from tools.services.instance import Instance

ALERT = NewAlert("run/refresh", "refresh failed", "step daily_aggregates: no space left", "failure")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture
def second() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Instance]:
    with Services.start(["postgres"]) as services:
        yield services["postgres"]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    settings = Settings(data_dir=tmp_path, _env_file=None)
    if request.param == "postgres":
        settings = in_new_database(request.getfixturevalue("postgres"), tmp_path)
    with State.open(settings) as opened:
        yield opened


def alerts(state: State, *urls: str, cooldown: float = 3_600) -> Alerts:
    return Alerts(state, SecretStr(", ".join(urls)) if urls else None, cooldown)


def again_now(state: State) -> None:
    """Make every waiting alert due: what passes otherwise is time."""
    for stored in state.recent_alerts(100):
        if stored.waiting:
            state.save_attempt(stored.id, delivered_to=stored.delivered_to, error=stored.last_error, retry_seconds=0)


def test_an_alert_arrives_with_what_it_says(state: State, receiver: Receiver) -> None:
    sender = alerts(state, receiver.url)
    assert sender.raise_alert(ALERT)
    assert receiver.received == []  # kept first: sending is a step of its own
    assert sender.deliver().delivered == 1
    (message,) = receiver.received
    assert (message["title"], message["type"]) == ("refresh failed", "failure")
    assert message["message"].startswith("step daily_aggregates: no space left")
    assert sender.deliver().delivered == 0
    assert len(receiver.received) == 1


def test_the_cooldown_holds_repeats_of_one_subject_back_and_counts_them(state: State, receiver: Receiver) -> None:
    sender = alerts(state, receiver.url)
    assert [sender.raise_alert(ALERT) for _ in range(3)] == [True, False, False]
    assert sender.raise_alert(ALERT._replace(subject="run/nightly"))
    assert sender.deliver().delivered == 2
    assert "2 more of the kind since" in receiver.received[0]["message"]
    assert state.alert_counts() == (2, 0, 2, 0)


def test_after_the_cooldown_it_is_sent_again(state: State, receiver: Receiver) -> None:
    sender = alerts(state, receiver.url, cooldown=0)
    assert sender.raise_alert(ALERT)
    assert sender.raise_alert(ALERT)
    assert sender.deliver().delivered == 2


def test_the_cooldown_holds_across_processes_that_raise_at_once(state: State, receiver: Receiver) -> None:
    sender = alerts(state, receiver.url)
    with ThreadPoolExecutor(8) as threads:
        kept = list(threads.map(lambda _: sender.raise_alert(ALERT), range(40)))
    assert kept.count(True) == 1
    assert state.alert_counts().repeats == 39


def test_what_is_not_taken_is_counted_said_and_sent_again(state: State, receiver: Receiver) -> None:
    sender = alerts(state, receiver.url)
    sender.raise_alert(ALERT)
    receiver.status = 500
    outcome = sender.deliver()
    assert outcome.delivered == 0
    assert "refresh failed: JSON:" in outcome.failures[0]
    assert state.alert_counts() == (1, 1, 0, 1)
    assert sender.deliver().failures == []  # it waits before it is tried again
    receiver.status = 200
    again_now(state)
    assert sender.deliver().delivered == 1
    assert len(receiver.received) == 1


def test_a_service_that_has_an_alert_is_not_sent_it_again_for_the_sake_of_another(
    state: State, receiver: Receiver, second: Receiver
) -> None:
    sender = alerts(state, receiver.url, second.url)
    sender.raise_alert(ALERT)
    second.status = 503
    assert len(sender.deliver().failures) == 1
    second.status = 200
    again_now(state)
    assert sender.deliver().delivered == 1
    assert (len(receiver.received), len(second.received)) == (1, 1)


def test_a_password_in_an_address_is_in_no_reason(state: State) -> None:
    sender = alerts(state, "json://user:hunter2@127.0.0.1:1/x")
    sender.raise_alert(ALERT)
    outcome = sender.deliver()
    assert len(outcome.failures) == 1
    assert "hunter2" not in str(outcome) + str(state.recent_alerts(1))


def test_an_address_that_is_none_is_named_without_being_shown(state: State) -> None:
    sender = alerts(state, "nonsense://hunter2@x")
    sender.raise_alert(ALERT)
    with pytest.raises(AlertSettingsError, match="SIEIS_ALERT_URLS") as error:
        sender.deliver()
    assert "hunter2" not in str(error.value)


def test_without_addresses_alerts_are_kept_and_never_sent_late(state: State, receiver: Receiver) -> None:
    assert alerts(state).raise_alert(ALERT)
    assert state.recent_alerts(1)[0].alert == ALERT
    assert alerts(state, receiver.url).deliver().delivered == 0
    assert receiver.received == []


def test_old_alerts_are_forgotten_but_not_those_still_waiting(state: State, receiver: Receiver) -> None:
    sender = alerts(state, receiver.url)
    sender.raise_alert(ALERT)
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    assert state.forget_alerts(tomorrow) == 0
    sender.deliver()
    assert state.forget_alerts(tomorrow) == 1
    assert state.alert_counts().kept == 0
