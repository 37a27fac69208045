"""What Dagster knows of the stream is what a real consumer reports; dead letters alert, and are sent again by a job."""

import time
from collections.abc import Iterator

import dagster as dg
import msgspec
import pytest

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.dead_letters import new_dead_letters, replay_dead_letters
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.report import consumer_report
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_streaming.dead_letter_desk import read_letters
from sieis_streaming.reported import read_reported
from tests.faults.harness import Platform, Sender, eventually, platform, wait_until_archived, wait_until_hot
from tests.faults.test_kill_consumer import POISON

pytestmark = pytest.mark.timeout(180)

READINGS = 60


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Sender, Platform]]:
    """A platform whose consumer has stored some readings and met every kind of bad record."""
    with platform(tmp_path_factory.mktemp("report") / "var") as one:
        incarnation = one.start_broker()
        sender = Sender(one.settings)
        for number, value in enumerate(POISON):
            sender.send(value, number)
        for _ in range(READINGS):
            record = sender.unique()
            sender.send(record, record["mote_id"])
        sender.flush()
        one.start("consume")
        wait_until_archived(one.settings, sender.ends(), incarnation)
        wait_until_hot(one.settings, READINGS)
        settings = one.settings.model_copy(update={"metrics_port": one.metrics_port})
        # The metrics follow the stores by a moment, and lag and ends are told once a second.
        eventually(lambda: caught_up(settings, sender), f"{sender.ends()} in the metrics")
        yield settings, sender, one


def caught_up(settings: Settings, sender: Sender) -> bool:
    reported = read_reported(settings.consumer_metrics)
    return set(reported.sinks) == {"hot", "archive"} and all(
        sink.stored == sink.ends == sender.ends() and not any(sink.lag.values()) for sink in reported.sinks.values()
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


class Reporting(PlatformResource):
    """The platform of settings that were made by a test."""

    port: int

    def settings(self) -> Settings:
        return super().settings().model_copy(update={"metrics_port": self.port})


def tick(sensor: dg.SensorDefinition, settings: Settings, instance: dg.DagsterInstance, cursor: str | None):
    resource = Reporting(overrides=PlatformResource.of(settings).overrides, port=settings.metrics_port)
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"platform": resource})
    data = sensor.evaluate_tick(context)
    for event in data.asset_events:
        instance.report_runless_asset_event(event)
    return data


def newest(instance: dg.DagsterInstance, asset: str) -> dict[str, object]:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None, asset
    assert event.asset_materialization is not None
    return {name: entry.value for name, entry in event.asset_materialization.metadata.items()}


def test_topic_and_stores_are_told_once_as_the_consumer_reports(
    running: tuple[Settings, Sender, Platform], instance: dg.DagsterInstance
) -> None:
    settings, sender, _ = running
    ends = {str(partition): end for partition, end in sender.ends().items()}
    first = tick(consumer_report, settings, instance, None)
    assert {event.asset_key.to_user_string() for event in first.asset_events} == {
        *("sensor_readings", "hot_store", "archive")
    }
    hot, archive, topic = (newest(instance, asset) for asset in ("hot_store", "archive", "sensor_readings"))
    assert topic["end_offsets"] == hot["stored_offsets"] == archive["stored_offsets"] == ends
    assert hot["dagster/row_count"] == archive["dagster/row_count"] == READINGS
    assert topic["dagster/row_count"] == READINGS + len(POISON)
    assert hot["lag"] == archive["lag"] == topic["lag_hot"] == 0
    assert isinstance(archive["version"], int)
    assert archive["last"] == hot["last"] == topic["last"] != "never"
    assert str(hot["first"]) <= str(hot["last"])
    assert "mote_id" in str(hot["preview"])
    assert {"dagster/column_lineage"} <= hot.keys() & archive.keys()
    again = tick(consumer_report, settings, instance, first.cursor)
    assert (again.asset_events, again.run_requests) == ([], [])


def test_new_dead_letters_alert_once_and_are_sent_again_by_the_job(
    running: tuple[Settings, Sender, Platform], instance: dg.DagsterInstance
) -> None:
    settings, _, _ = running
    first = tick(new_dead_letters, settings, instance, None)
    told = newest(instance, "dead_letters")
    assert told["new"] == told["dagster/row_count"] == len(POISON)
    with State.open(settings) as state:
        (stored,) = state.recent_alerts(10)
    assert stored.alert.title == f"{len(POISON)} new dead letter(s)"
    assert "not_json" in stored.alert.text
    second = tick(new_dead_letters, settings, instance, first.cursor)
    assert second.asset_events == []

    job = build_definitions(settings).resolve_job_def(replay_dead_letters.name)
    assert job.execute_in_process(instance=instance).success
    eventually(
        lambda: sum(letter.status == "came_back" for letter in read_letters(settings)) == len(POISON),
        "what is still bad came back",
    )
    assert {letter.status for letter in read_letters(settings)} == {"replayed", "came_back"}
    eventually(lambda: bool(tick(new_dead_letters, settings, instance, second.cursor).asset_events), "they died again")
    observed = instance.fetch_observations(dg.AssetKey("dead_letters"), limit=1).records[0].asset_observation
    assert observed is not None
    assert observed.metadata["replayed"].value == len(POISON)


def test_a_consumer_that_is_down_is_said_and_after_a_while_alerted(
    running: tuple[Settings, Sender, Platform], instance: dg.DagsterInstance
) -> None:
    settings, _, _ = running
    told = tick(consumer_report, settings, instance, None).cursor
    down = settings.model_copy(update={"metrics_port": 1, "data_dir": settings.data_dir / "other"})
    silent = tick(consumer_report, down, instance, told)
    assert "no consumer answers" in (silent.skip_message or "")
    assert "sieis consume" in (silent.skip_message or "")
    assert "no consumer answers" in (tick(new_dead_letters, down, instance, None).skip_message or "")
    cursor = msgspec.json.decode(silent.cursor or "")
    cursor["down_since"] = time.time() - 301
    tick(consumer_report, down, instance, msgspec.json.encode(cursor).decode())
    with State.open(down) as state:
        assert [stored.alert.subject for stored in state.recent_alerts(10)] == ["consumer/down"]


def test_an_installation_whose_consumer_was_never_there_is_not_alerted(
    running: tuple[Settings, Sender, Platform], instance: dg.DagsterInstance
) -> None:
    settings, _, _ = running
    new = settings.model_copy(update={"metrics_port": 1, "data_dir": settings.data_dir / "new"})
    cursor = msgspec.json.encode({"down_since": time.time() - 10_000}).decode()
    assert "no consumer answers" in (tick(consumer_report, new, instance, cursor).skip_message or "")
    with State.open(new) as state:
        assert state.recent_alerts(10) == []
