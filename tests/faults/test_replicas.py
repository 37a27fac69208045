"""A Kafka of three brokers and topics of three copies: a broker may die, and nobody waits for its return."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka.admin import AdminClient, PartitionMetadata

from sieis_streaming.broker import client_config, locate
from sieis_streaming.topics import ensure_topics
from tests.faults.full import all_stored_once, goes_on, prepared
from tests.faults.harness import (
    ROUNDS,
    Platform,
    Sender,
    eventually,
    platform,
    wait_until_archived,
    wait_until_hot,
)
from tools.services.group import Services
from tools.services.instance import Instance

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600 + 60 * ROUNDS)]

COPIES: Final = 3
STILL_SECONDS: Final = 5
FAILOVER_SECONDS: Final = 120
"""The brokers' session is 4 s; the rest is for JVMs on busy cores."""


@pytest.fixture(scope="module")
def brokers() -> Iterator[Services]:
    with Services.start_brokers(COPIES) as made:
        yield made


@pytest.fixture
def running(brokers: Services, influxdb: Instance, s3: Instance, tmp_path: Path) -> Iterator[Platform]:
    bootstrap = ",".join(broker.address for broker in brokers.values())
    cluster = {"kafka_bootstrap": bootstrap, "kafka_replication": COPIES}
    with platform(tmp_path / "var", **prepared([influxdb, s3], tmp_path / "setup", **cluster)) as made:
        yield made


class Copies:
    """What the cluster says of the topic of the readings."""

    def __init__(self, running: Platform) -> None:
        self._topic = running.settings.kafka_topic
        self._admin = AdminClient(client_config(running.settings, locate(running.settings)))

    def leaders(self) -> set[int]:
        """The brokers that lead a partition."""
        return {partition.leader for partition in self._partitions()}

    def in_step(self) -> list[int]:
        """How many copies of each partition have all of it."""
        return [len(partition.isrs) for partition in self._partitions()]

    def _partitions(self) -> list[PartitionMetadata]:
        # Any broker answers this; descriptions of topics wait for a controller while a new one is voted for.
        return list(self._admin.list_topics(self._topic, timeout=30).topics[self._topic].partitions.values())


def _each_partition_goes_on(sender: Sender) -> None:
    """Wait until more is acknowledged in every partition that gets any."""
    before = sender.ends()
    eventually(
        lambda: all(end > before[partition] for partition, end in sender.ends().items()),
        "more acknowledged in every partition",
        FAILOVER_SECONDS,
    )


def _stands_still_at(sender: Sender) -> int:
    """Wait until nothing has been acknowledged for some seconds, in which thousands are sent; how many are."""
    seen, since = len(sender.sent), time.monotonic()

    def stands() -> bool:
        nonlocal seen, since
        if len(sender.sent) != seen:
            seen, since = len(sender.sent), time.monotonic()
        return time.monotonic() - since > STILL_SECONDS

    eventually(stands, f"nothing acknowledged for {STILL_SECONDS} s")
    return seen


def test_setup_makes_topics_of_three_copies_that_must_be_in_two_places(running: Platform) -> None:
    again = ensure_topics(running.settings)
    assert [report.differences for report in again] == [[], []], "min.insync.replicas=2 and three copies among them"
    assert Copies(running).in_step() == [COPIES] * 6


def test_each_broker_killed_in_turn_loses_and_repeats_nothing_and_the_stream_goes_on_without_it(
    running: Platform, brokers: Services
) -> None:
    copies, incarnation = Copies(running), running.incarnation()
    consumer = running.start("consume")
    with Sender(running.settings) as sender:
        for number in range(max(COPIES, ROUNDS)):
            goes_on(running, "archive")
            node = 1 + number % COPIES
            eventually(lambda node=node: node in copies.leaders(), f"broker {node} leads", FAILOVER_SECONDS)
            broker = brokers[f"kafka-{node}"]
            broker.kill()
            try:
                others = set(range(1, COPIES + 1)) - {node}
                eventually(lambda others=others: copies.leaders() <= others, "led by others", FAILOVER_SECONDS)
                _each_partition_goes_on(sender)
                # What was acknowledged without it is stored without it.
                wait_until_archived(running.settings, sender.ends(), incarnation, FAILOVER_SECONDS)
                wait_until_hot(running.settings, len(sender.sent), FAILOVER_SECONDS)
            finally:
                broker.start()
            eventually(lambda: copies.in_step() == [COPIES] * 6, "all copies in step again", FAILOVER_SECONDS)
    all_stored_once(running, sender, incarnation)
    running.stop(consumer)


def test_with_one_broker_left_nothing_counts_as_sent_and_all_of_it_is_stored_once_when_they_are_back(
    running: Platform, brokers: Services
) -> None:
    """A majority votes: one broker alone neither takes records nor elects. What was acknowledged had two copies."""
    copies, incarnation = Copies(running), running.incarnation()
    consumer = running.start("consume")
    with Sender(running.settings) as sender:
        goes_on(running, "archive")
        gone = [brokers["kafka-2"], brokers["kafka-3"]]
        for broker in gone:
            broker.kill()
        try:
            acknowledged = _stands_still_at(sender)
        finally:
            with ThreadPoolExecutor(len(gone)) as pool:  # neither answers before the other is there to vote
                list(pool.map(Instance.start, gone))
        eventually(lambda: len(sender.sent) >= acknowledged + 5_000, "acknowledged again", FAILOVER_SECONDS)
        eventually(lambda: copies.in_step() == [COPIES] * 6, "all copies in step again", FAILOVER_SECONDS)
    all_stored_once(running, sender, incarnation)
    running.stop(consumer)
