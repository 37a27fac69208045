"""What Dagster knows of the stream is what a real consumer reports; dead letters alert, and are sent again by a job."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import msgspec
import pytest

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.dead_letters import new_dead_letters, replay_dead_letters
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.report import consumer_report
from sieis_platform.settings import Settings
from sieis_platform.state import NewAlert, State
from sieis_platform.stores.archive import Commit
from sieis_platform.stores.archive_layout import ARCHIVE_SCHEMA
from sieis_platform.stores.ledger import LedgerEntry
from sieis_platform.stores.open import open_archive
from sieis_streaming.dead_letter_desk import read_letters
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.reported import read_reported
from tests.faults.harness import Platform, Sender, eventually, platform, wait_until_archived, wait_until_hot
from tests.faults.test_kill_consumer import POISON
from tests.ticks import tick as as_the_daemon

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
    assert f"{settings.kafka_topic}/" in str(told["preview"])
    with State.open(settings) as state:
        (stored,) = state.recent_alerts(10)
    assert stored.alert.title == f"{len(POISON)} new dead letter(s)"
    assert f"{settings.kafka_topic}/" in stored.alert.text
    assert "among offsets 0 to" in stored.alert.text
    assert "sieis dlq list" in stored.alert.text
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


def test_a_consumer_that_is_down_is_said(
    running: tuple[Settings, Sender, Platform], instance: dg.DagsterInstance
) -> None:
    settings, _, _ = running
    told = tick(consumer_report, settings, instance, None).cursor
    down = settings.model_copy(update={"metrics_port": 1, "data_dir": settings.data_dir / "other"})
    silent = tick(consumer_report, down, instance, told)
    assert "no consumer answers" in (silent.skip_message or "")
    assert "sieis consume" in (silent.skip_message or "")
    with State.open(down) as state:
        assert state.recent_alerts(10) == []  # it may be back at once


def test_an_installation_whose_consumer_was_never_there_is_not_alerted(
    running: tuple[Settings, Sender, Platform], instance: dg.DagsterInstance
) -> None:
    settings, _, _ = running
    new = settings.model_copy(update={"metrics_port": 1, "data_dir": settings.data_dir / "new"})
    silent = tick(consumer_report, new, instance, None)
    assert "no consumer answers" in (silent.skip_message or "")
    assert known(silent.cursor) == {}  # of whom nothing is known, nobody waits
    tick(consumer_report, new, instance, silent.cursor)
    with State.open(new) as state:
        assert state.recent_alerts(10) == []


# -- several consumers, by their own metrics -----------------------------------------------------------------------


class Served:
    """A consumer's metrics at an address that stays the same over its ends and starts."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        self.start()

    def start(self) -> None:
        """As a new process: it counts from 0."""
        self.metrics = ConsumerMetrics()
        self.metrics.stored.labels("hot", 0).set(1)
        self._server = self.metrics.serve(self.port)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Watching(PlatformResource):
    """The platform of settings that were made by a test."""

    urls: str

    def settings(self) -> Settings:
        return super().settings().model_copy(update={"metrics_urls": self.urls, "alert_cooldown_seconds": 600.0})


class Watch:
    """The sensor, looked at again and again; the times in its cursor are moved instead of waiting."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, *consumers: Served) -> None:
        self.settings, self._instance = settings, instance
        self._platform = Watching(
            overrides=PlatformResource.of(settings).overrides, urls=",".join(one.url for one in consumers)
        )
        self._cursor: str | None = None

    def look(self) -> list[tuple[str, str]]:
        """Subject and title of the alerts so far, oldest first, those held back by the cooldown included."""
        context = dg.build_sensor_context(
            instance=self._instance, cursor=self._cursor, resources={"platform": self._platform}
        )
        self._cursor = consumer_report.evaluate_tick(context).cursor
        with State.open(self.settings) as state:
            alerts = reversed(state.recent_alerts(100))
            return [(one.alert.subject, one.alert.title) for one in alerts for _ in range(1 + one.repeats)]

    def pass_time(self, seconds: float) -> None:
        cursor = msgspec.json.decode(self._cursor or "")
        for consumer in cursor["consumers"].values():
            for name in ("silent_since", "alerted_at"):
                if consumer[name] is not None:
                    consumer[name] -= seconds
        self._cursor = msgspec.json.encode(cursor).decode()


def known(cursor: str | None) -> dict[str, object]:
    return msgspec.json.decode(cursor or "")["consumers"]


@pytest.fixture
def pair() -> Iterator[tuple[Served, Served]]:
    one, two = Served(), Served()
    yield one, two
    for served in (one, two):
        with contextlib.suppress(OSError):
            served.stop()


@pytest.fixture
def watch(tmp_path: Path, pair: tuple[Served, Served], instance: dg.DagsterInstance) -> Watch:
    return Watch(Settings(data_dir=tmp_path / "var", _env_file=None), instance, *pair)


def test_one_of_two_consumers_that_is_gone_for_good_is_alerted(watch: Watch, pair: tuple[Served, Served]) -> None:
    one, two = pair
    down = [(f"consumer/down/{two.url}", "The consumer is down")]
    assert watch.look() == []
    two.stop()
    assert watch.look() == []
    watch.pass_time(299)
    assert watch.look() == []
    watch.pass_time(1)
    assert [watch.look() for _ in range(3)] == [down] * 3  # not raised at every look
    watch.pass_time(300)
    assert watch.look() == down
    two.start()
    assert watch.look() == down
    one.stop()
    assert watch.look() == down
    watch.pass_time(300)
    assert watch.look() == [*down, (f"consumer/down/{one.url}", "The consumer is down")]


def test_a_consumer_that_stays_down_is_alerted_once_a_cooldown(watch: Watch, pair: tuple[Served, Served]) -> None:
    for served in pair:
        watch.look()
        served.stop()
    watch.look()
    watch.pass_time(300)
    assert len(watch.look()) == 2
    watch.pass_time(600)
    assert len(watch.look()) == 4
    assert len(watch.look()) == 4


# -- losses and dead letters, by the ledger ------------------------------------------------------------------------


def account(settings: Settings, *, dead: int = 0, lost: int = 0, stored: int = 1, app: str = "readings/one/0") -> None:
    """One commit of the archive that accounts for so many positions."""
    archive = open_archive(settings)
    archive.create()
    position = archive.position(app)
    start = position or 0
    entry = LedgerEntry(app=app, start=start, end=start + dead + lost + stored, stored=stored, dead=dead, lost=lost)
    archive.append(Commit(ARCHIVE_SCHEMA.to_frame(), [entry], {app: position}))


def newest_alert(settings: Settings) -> NewAlert:
    with State.open(settings) as state:
        return state.recent_alerts(1)[0].alert


def test_losses_are_told_once_whatever_the_consumers_count(watch: Watch, pair: tuple[Served, Served]) -> None:
    settings = watch.settings
    assert watch.look() == []
    account(settings, lost=500)
    account(settings)
    told = [("consumer/lost", "500 records were lost")]
    assert watch.look() == told
    assert "500 in readings/one/0 among offsets 0 to 500" in newest_alert(settings).text
    assert "sieis verify" in newest_alert(settings).text
    pair[0].stop()
    pair[0].start()  # counts from 0, as any new process
    assert watch.look() == told
    account(settings, lost=800, stored=0)
    account(settings, lost=7, stored=0, app="readings/one/1")
    for served in pair:
        served.stop()  # the ledger is there without them
    assert len(watch.look()) == 2
    with State.open(settings) as state:
        (held,) = state.recent_alerts(10)
        assert held.repeats == 1  # by the cooldown: the subject is the same
    assert len(watch.look()) == 2
    account(settings, lost=0, dead=3, app="history/file")
    assert len(watch.look()) == 2


def test_a_cursor_of_an_earlier_release_serves_and_a_bad_one_begins_anew(
    tmp_path: Path, instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path / "var", metrics_port=1, _env_file=None)
    account(settings, dead=3, lost=4)
    url = "http://127.0.0.1:1/metrics"
    consumers = {url: {"lost": 4, "silent_since": 1.0, "alerted_at": None}}
    earlier = {
        consumer_report.name: msgspec.json.encode({"told": {}, "consumers": consumers}).decode(),
        new_dead_letters.name: msgspec.json.encode({url: {"not_json": 3}}).decode(),
    }
    report = tick(consumer_report, settings, instance, earlier[consumer_report.name])
    with State.open(settings) as state:
        assert {one.alert.title for one in state.recent_alerts(9)} == {"4 records were lost", "The consumer is down"}
    assert set(known(report.cursor)) == {url}
    for sensor, cursor in ((new_dead_letters, earlier[new_dead_letters.name]), (consumer_report, "[nonsense")):
        again = tick(sensor, settings, instance, cursor)
        assert "the cursor is none of this release" in capfd.readouterr().err
        tick(sensor, settings, instance, again.cursor)
        assert "the cursor" not in capfd.readouterr().err
    with State.open(settings) as state:
        assert "3 new dead letter(s)" in {one.alert.title for one in state.recent_alerts(9)}


def test_without_an_archive_or_where_its_log_is_cleaned_up_the_sensors_say_so(
    tmp_path: Path, instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path / "var", metrics_port=1, _env_file=None)
    first = tick(new_dead_letters, settings, instance, None)
    assert "there is no archive yet" in (first.skip_message or "")
    account(settings, dead=1)
    before = tick(new_dead_letters, settings, instance, first.cursor)
    for _ in range(3):
        account(settings, dead=2)
    archive = open_archive(settings)
    archive.table().create_checkpoint()
    for version in range(4):
        (Path(archive.uri) / "_delta_log" / f"{version:020}.json").unlink()
    after = tick(new_dead_letters, settings, instance, before.cursor)
    assert [event.metadata["new"].value for event in after.asset_events] == [2]
    assert "no longer tells of versions up to 3" in capfd.readouterr().err


@pytest.mark.slow
def test_no_dead_letter_is_missed_or_told_twice_when_the_consumer_starts_anew(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A real consumer on the embedded broker, killed and started: each of its processes counts three, and no more."""
    with platform(tmp_path / "var") as one:
        incarnation = one.start_broker()
        sender = Sender(one.settings)
        cursor: str | None = None
        told: list[int] = []

        def look() -> None:
            nonlocal cursor
            data = as_the_daemon(new_dead_letters, one.settings, instance, cursor)
            cursor = data.cursor
            told.extend(int(str(event.metadata["new"].value)) for event in data.asset_events)

        def send_bad(records: int) -> None:
            for number in range(records):
                sender.send(b"no reading", number)
            sender.flush()

        for backlog in (3, 3, 2):  # what waits while it is down
            send_bad(backlog)
            consumer = one.start("consume")
            wait_until_archived(one.settings, sender.ends(), incarnation)
            look()
            look()
            send_bad(1)  # counted between the last look and its end: seen by nobody who asks for its metrics
            wait_until_archived(one.settings, sender.ends(), incarnation)
            consumer.kill()
            consumer.wait()
        look()
        look()
    assert told == [3, 1 + 3, 1 + 2, 1]
    assert newest(instance, "dead_letters")["dagster/row_count"] == sum(told) == len(sender.sent)
