"""The broker has nothing any more where a consumer reads: its retention was faster, its log was cut, its topic deleted.

Belongs here: that nothing of it is silent, and that what was read already is stored.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import polars as pl
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from polars.testing import assert_frame_equal

from sieis_platform.stores.open import open_hot
from sieis_streaming.broker import client_config, locate
from sieis_streaming.topics import ensure_topics
from tests.faults.full import errors
from tests.faults.harness import (
    COMPARED,
    Platform,
    Sender,
    archived,
    eventually,
    frame,
    platform,
    wait_until_archived,
    wait_until_hot,
)
from tools.services.instance import Instance

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600)]

KEPT: Final = 20
"""Records of a partition that the retention leaves."""


def _admin(running: Platform) -> AdminClient:
    return AdminClient(client_config(running.settings, locate(running.settings)))


def _told(running: Platform, text: str) -> list[str]:
    lines = [line for line in running.log.read_text().splitlines() if text in line]
    assert all('"level": "error"' in line for line in lines)
    return lines


@pytest.mark.parametrize("consumer_is", ["waiting", "stopped"])
def test_a_hot_outage_beyond_the_retention_is_in_metric_and_log(
    full: Platform, influxdb: Instance, consumer_is: str
) -> None:
    incarnation = full.incarnation()
    # Else two polls hold all that is sent, and nothing is lost.
    small = {"poll_records": 500, "poll_records_loaded": 500, "influx_batch_rows": 500}
    consumer = full.start("consume", **small)
    sender = Sender(full.settings)
    sender.send_unique(600)
    wait_until_hot(full.settings, 600)
    if consumer_is == "stopped":
        full.stop(consumer)
    influxdb.kill()
    try:
        sender.send_unique(12_000)
        if consumer_is == "waiting":
            eventually(lambda: errors(full, "hot", "HotStoreUnavailableError") > 0, "the outage noticed")
            wait_until_archived(full.settings, sender.ends(), incarnation)  # the archive goes on meanwhile
        parts = [
            TopicPartition(full.settings.kafka_topic, partition, end - KEPT) for partition, end in sender.ends().items()
        ]
        admin = _admin(full)  # kept: its answers go with it
        for future in admin.delete_records(parts).values():
            future.result(20)
        if consumer_is == "stopped":
            consumer = full.start("consume", **small)
    finally:
        influxdb.start()
    for partition, end in sender.ends().items():
        eventually(
            lambda partition=partition, end=end: (
                full.metric("sieis_stored_offset", sink="hot", partition=str(partition)) == end
            ),
            f"partition {partition} in the hot store up to {end}",
        )
    hot = open_hot(full.settings)
    try:
        lost = len(sender.sent) - hot.count_readings()
    finally:
        hot.close()
    assert lost > 0, "the retention overtook nothing"
    assert full.metric("sieis_records_lost_total", sink="hot") == lost
    told = _told(full, "the hot store lacks them")
    assert told
    assert all("rebuild_hot_store" in line for line in told)
    full.stop(consumer)


@pytest.fixture
def running(kafka: Instance, tmp_path: Path) -> Iterator[Platform]:
    with platform(
        tmp_path / "var", kafka_bootstrap=kafka.address, kafka_session_timeout_seconds=3, kafka_partitions=1
    ) as made:
        yield made


def _cut_in_half(kafka: Instance, topic: str) -> None:
    """What an unclean end leaves of a log without copies: acknowledged records that never reached the disk are gone."""
    (folder,) = kafka.place.folder.rglob(f"{topic}-0")
    for file in folder.iterdir():
        if file.suffix == ".log":
            with file.open("r+b") as log:
                log.truncate(file.stat().st_size // 2)
        elif file.name != "partition.metadata":
            file.unlink()  # made anew from the log


@pytest.mark.parametrize("consumer_is", ["running", "put out of its group", "stopped"])
@pytest.mark.parametrize("filled", [0, 900], ids=["cut", "cut and filled again"])
def test_a_log_cut_below_what_was_read_stops_the_archive_and_says_what_to_do(
    running: Platform, kafka: Instance, filled: int, consumer_is: str
) -> None:
    incarnation = running.start_broker()
    consumer = running.start("consume", "--sink", "archive")
    sender = Sender(running.settings, linger_ms=0)
    for _ in range(6):
        sender.send_unique(100)  # a batch each: a log is cut between two
    wait_until_archived(running.settings, sender.ends(), incarnation)
    eventually(lambda: _committed(running, "archive") == 600, "told to Kafka")
    assert archived(running.settings).height == 600
    if consumer_is == "stopped":
        running.stop(consumer)
    else:
        consumer.send_signal(signal.SIGSTOP)
    kafka.kill()
    _cut_in_half(kafka, running.settings.kafka_topic)
    kafka.start()
    if filled:
        again = Sender(running.settings)
        again._count = 600
        again.send_unique(filled)
        assert max(again.ends().values()) > 600 > min(offset for _partition, offset in again.sent), (
            "no position used again"
        )
    if consumer_is == "put out of its group":
        time.sleep(5)  # beyond its session: nothing is to be seen of that from outside
    if consumer_is == "stopped":
        consumer = running.start("consume", "--sink", "archive")
    else:
        consumer.send_signal(signal.SIGCONT)
    _ends_for_good(running, consumer)
    assert "The broker lost archived records" in running.log.read_text()
    assert archived(running.settings).height == 600
    _ends_for_good(running, running.start("consume", "--sink", "archive"))  # nor does it go on after a restart


def _ends_for_good(running: Platform, consumer: "subprocess.Popen[bytes]") -> None:
    eventually(lambda: consumer.poll() is not None, "the consumer ended")
    assert consumer.returncode == 1, running.log.read_text()[-4_000:]


def _committed(running: Platform, group: str) -> int | None:
    settings = running.settings
    config = client_config(settings, locate(settings)) | {"group.id": f"{settings.kafka_group}.{group}"}
    looking = Consumer(config)
    try:
        (part,) = looking.committed([TopicPartition(settings.kafka_topic, 0)], timeout=10)
        return part.offset
    finally:
        looking.close()


def test_the_hot_store_reads_a_log_that_was_cut_and_filled_again_anew(running: Platform, kafka: Instance) -> None:
    running.start_broker()
    consumer = running.start("consume", "--sink", "hot")
    sender = Sender(running.settings, linger_ms=0)
    for _ in range(6):
        sender.send_unique(100)
    wait_until_hot(running.settings, 600)
    consumer.send_signal(signal.SIGSTOP)
    kafka.kill()
    _cut_in_half(kafka, running.settings.kafka_topic)
    kafka.start()
    again = Sender(running.settings)
    again._count = 600
    again.send_unique(900)
    consumer.send_signal(signal.SIGCONT)
    wait_until_hot(running.settings, 1_500)
    assert running.metric("sieis_records_lost_total", sink="hot") == 0
    running.stop(consumer)


@pytest.mark.parametrize("made_again", [True, False], ids=["made again", "missing"])
def test_what_was_read_of_a_topic_before_it_was_deleted_is_archived_under_its_name(
    running: Platform, made_again: bool
) -> None:
    incarnation = running.start_broker()
    consumer = running.start("consume", archive_flush_seconds=3_600)
    sender = Sender(running.settings)
    sender.send_unique(600)
    eventually(lambda: running.metric("sieis_records_read_total", sink="archive") == 600, "all read")
    time.sleep(6)  # beyond the next look at the topic's id, of which nothing is to be seen
    assert archived_rows(running) == 0, "something was flushed before the topic was deleted"
    admin, topic = _admin(running), running.settings.kafka_topic
    admin.delete_topics([topic])[topic].result(20)
    again = None
    if made_again:
        eventually(lambda: topic not in admin.list_topics(timeout=5).topics, "the topic deleted")
        ensure_topics(running.settings)
        again = Sender(running.settings)
        again._count = 600
        again.send_unique(300)
    wait_until_archived(running.settings, sender.ends(), incarnation)
    if again is not None:
        eventually(lambda: running.metric("sieis_records_read_total", sink="archive") >= 900, "the new topic read")
        second = running.incarnation()
        running.stop(consumer)
        wait_until_archived(running.settings, again.ends(), second, 5)
        rows = archived(running.settings).filter(pl.col("source") == f"stream:{second}")
        assert_frame_equal(rows.select(COMPARED).sort(COMPARED[:2]), frame(again.sent))
    rows = archived(running.settings).filter(pl.col("source") == f"stream:{incarnation}")
    assert_frame_equal(rows.select(COMPARED).sort(COMPARED[:2]), frame(sender.sent))
    assert running.metric("sieis_records_lost_total", sink="archive") == 0
    assert sum(account["lost"] for account in running.verify()["accounts"]) == 0


def archived_rows(running: Platform) -> int:
    return archived(running.settings).height
