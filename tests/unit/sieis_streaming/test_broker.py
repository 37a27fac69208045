"""The embedded broker: its published address, restarts, refusals and what clients see of it."""

import datetime as dt
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from unittest.mock import create_autospec

import msgspec
import pytest
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition, Uuid
from confluent_kafka.admin import AdminClient, TopicDescription

from sieis_platform.settings import Settings
from sieis_streaming.broker import (
    BrokerAddress,
    BrokerError,
    BrokerRunningError,
    BrokerUnavailableError,
    EmbeddedBroker,
    Published,
    _LibrdkafkaLog,
    client_config,
    has_moved,
    incarnation,
    locate,
)
from tests.broker import EMBEDDED_PARTITIONS
from tests.faults.harness import eventually


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, _env_file=None)


def test_publishes_an_address_that_serves_and_takes_it_back(settings: Settings) -> None:
    with EmbeddedBroker(settings) as broker:
        address = locate(settings, timeout=0)
        assert broker.published is not None
        assert (address.bootstrap, address.embedded) == (broker.published.bootstrap, True)
        assert broker.published.pid == os.getpid()
        client = Producer(client_config(settings, address))
        for topic in (settings.kafka_topic, settings.kafka_dlq_topic):
            assert len(client.list_topics(timeout=5).topics[topic].partitions) == EMBEDDED_PARTITIONS
    assert not settings.broker_file.exists()
    with pytest.raises(BrokerUnavailableError, match="sieis broker"):
        locate(settings, timeout=0)


def test_a_second_broker_of_the_same_data_is_refused_and_the_first_goes_on(settings: Settings) -> None:
    with EmbeddedBroker(settings) as first:
        with pytest.raises(BrokerRunningError, match="already serves"):
            EmbeddedBroker(settings).start()
        assert first.published is not None
        assert locate(settings, timeout=0).bootstrap == first.published.bootstrap


def test_a_restart_has_another_port_and_another_incarnation(settings: Settings) -> None:
    seen: set[str] = set()
    incarnations: set[str] = set()
    for _ in range(5):
        with EmbeddedBroker(settings):
            address = locate(settings, timeout=0)
            seen.add(address.bootstrap)
            client = Producer(client_config(settings, address))
            incarnations.add(incarnation(client, settings, settings.kafka_topic))
    assert len(seen) == len(incarnations) == 5


def test_the_address_in_a_stale_file_is_never_taken_again(settings: Settings) -> None:
    """A broker killed with -9 left its file, and the system would hand out the same port again."""
    offers = [Producer({"bootstrap.servers": "x:1", "test.mock.num.brokers": 1}) for _ in range(2)]
    brokers = [next(iter(offer.list_topics(timeout=5).brokers.values())) for offer in offers]
    taken, free = (f"{broker.host}:{broker.port}" for broker in brokers)
    stale = Published(bootstrap=taken, cluster_id="earlier", pid=1, started_at=dt.datetime.now(dt.UTC))
    settings.broker_file.write_bytes(msgspec.json.encode(stale))
    with EmbeddedBroker(settings, make=iter(offers).__next__) as broker:
        assert broker.published is not None
        assert broker.published.bootstrap == free
    with socket.socket() as probe:
        host, _, port = taken.partition(":")
        assert probe.connect_ex((host, int(port))) != 0, "the refused cluster goes on"


def test_locate_waits_for_a_broker_that_comes_later(settings: Settings) -> None:
    broker = EmbeddedBroker(settings)
    starter = threading.Timer(0.1, broker.start)
    starter.start()
    try:
        assert locate(settings, timeout=10).embedded
    finally:
        starter.join()
        broker.stop()


def test_a_wait_ends_when_told_to_stop(settings: Settings) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(BrokerUnavailableError):
        locate(settings, timeout=3_600, stop=stop)


def test_kafka_is_located_by_its_setting(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, kafka_bootstrap="kafka:9092", _env_file=None)
    address = locate(settings)
    assert address == BrokerAddress("kafka:9092", embedded=False)
    assert not has_moved(settings, address)


def test_a_broker_without_topic_ids_is_refused(tmp_path: Path) -> None:
    """No such broker is at hand: the fake answers as librdkafka does where the metadata had no id."""
    settings = Settings(_env_file=None, data_dir=tmp_path, kafka_bootstrap="127.0.0.1:9")
    described = create_autospec(TopicDescription, instance=True, topic_id=Uuid(0, 0))
    answered: Future[TopicDescription] = Future()
    answered.set_result(described)
    admin = create_autospec(AdminClient, instance=True, spec_set=True)
    admin.describe_topics.return_value = {settings.kafka_topic: answered}
    with pytest.raises(BrokerError, match="tells no id of topic sensor_readings"):
        incarnation(admin, settings, settings.kafka_topic)


def test_a_client_sees_that_the_broker_has_moved(settings: Settings) -> None:
    with EmbeddedBroker(settings):
        address = locate(settings, timeout=0)
        assert not has_moved(settings, address)
    assert not has_moved(settings, address), "gone is not moved"
    with EmbeddedBroker(settings):
        assert has_moved(settings, address)


def test_clients_keep_off_stderr(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    with EmbeddedBroker(settings):
        client = Producer(client_config(settings, locate(settings, timeout=0)))
        client.list_topics(timeout=5)
    client.poll(0.5)  # serves the log and the error callback that the broker's end gave rise to
    assert "rdkafka#" not in capfd.readouterr().err


def test_another_process_produces_and_a_killed_broker_leaves_a_file_that_is_replaced(settings: Settings) -> None:
    host = subprocess.Popen([sys.executable, "-c", _HOST, str(settings.data_dir)], stdout=subprocess.PIPE)
    try:
        assert host.stdout is not None
        host.stdout.readline()
        address = locate(settings, timeout=0)
        producer = Producer(client_config(settings, address))
        producer.produce(settings.kafka_topic, b"hello", key=b"1")
        assert producer.flush(5) == 0
        reader = Consumer({**client_config(settings, address), "group.id": "test"})
        partitions = range(EMBEDDED_PARTITIONS)
        reader.assign([TopicPartition(settings.kafka_topic, partition, OFFSET_BEGINNING) for partition in partitions])
        message = reader.poll(10)
        assert message is not None
        assert message.value() == b"hello"
        reader.close()
    finally:
        host.send_signal(signal.SIGKILL)
        host.wait()
        host.stdout.close()
    assert settings.broker_file.exists()
    with pytest.raises(BrokerUnavailableError):
        locate(settings, timeout=0)
    with EmbeddedBroker(settings):
        assert has_moved(settings, address)
        assert locate(settings, timeout=0).bootstrap != address.bootstrap


_HOST = """
import pathlib, sys, threading
from sieis_platform.settings import Settings
from sieis_streaming.broker import EmbeddedBroker
with EmbeddedBroker(Settings(data_dir=pathlib.Path(sys.argv[1]), _env_file=None)):
    print("up", flush=True)
    threading.Event().wait()
"""


@pytest.mark.slow
def test_a_broker_that_stays_away_does_not_fill_the_log(settings: Settings) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        address = BrokerAddress(f"127.0.0.1:{unused.getsockname()[1]}", embedded=False)
        refused: list[KafkaError] = []
        with structlog.testing.capture_logs() as logs:
            client = Producer(client_config(settings, address) | {"error_cb": refused.append})
            eventually(lambda: client.poll(0.1) >= 0 and len(refused) > 40, "refused again and again", 60)
    lines = [line for line in logs if line["event"] == "librdkafka"]
    assert lines
    assert len(lines) < len(refused) / 2


def test_a_line_of_the_client_library_comes_again_with_its_number_of_repeats() -> None:
    seconds = 0.0
    logger = _LibrdkafkaLog(None, clock=lambda: seconds)
    with structlog.testing.capture_logs() as logs:
        for seconds in (0.0, 0.1, 9.9, 10.0, 10.1):
            logger.log(
                logging.ERROR, "%s", "FAIL", "sieis#consumer-1", f"refused (after {seconds} ms in state CONNECT)"
            )
        logger.log(logging.ERROR, "%s", "FAIL", "sieis#consumer-2", "refused (after 0 ms in state CONNECT)")
    assert [(line["client"], line.get("repeats")) for line in logs] == [
        ("sieis#consumer-1", None),
        ("sieis#consumer-1", 2),
        ("sieis#consumer-2", None),
    ]
