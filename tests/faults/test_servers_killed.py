"""InfluxDB, the S3 server and Kafka killed with -9 under load and started again: nothing lost, nothing twice."""

import time

import pytest

from tests.faults.full import all_stored_once, errors, goes_on
from tests.faults.harness import ROUNDS, Platform, Sender, eventually, seeded
from tools.services.instance import Instance

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600 + 60 * ROUNDS)]

OTHER = {"hot": "archive", "archive": "hot"}
KIND = {"hot": "HotStoreUnavailableError", "archive": "ArchiveUnavailableError"}


@pytest.mark.parametrize("sink", ["hot", "archive"])
def test_a_store_killed_under_load_loses_and_repeats_nothing_and_the_other_goes_on(
    full: Platform, influxdb: Instance, s3: Instance, sink: str
) -> None:
    server = {"hot": influxdb, "archive": s3}[sink]
    moments = seeded()
    incarnation = full.incarnation()
    consumer = full.start("consume")
    with Sender(full.settings) as sender:
        for _ in range(ROUNDS):
            goes_on(full, sink)
            time.sleep(moments.uniform(0.0, 0.7))  # inside a write or between two: there is nothing to wait for
            before = errors(full, sink, KIND[sink])
            server.kill()
            try:
                eventually(lambda before=before: errors(full, sink, KIND[sink]) > before, f"{sink} outage")
                goes_on(full, OTHER[sink])
            finally:
                server.start()
        goes_on(full, sink)
    all_stored_once(full, sender, incarnation)
    full.stop(consumer)


def test_kafka_killed_under_load_loses_and_repeats_nothing_in_either_store(full: Platform, kafka: Instance) -> None:
    incarnation = full.incarnation()
    consumer = full.start("consume")
    with Sender(full.settings) as sender:
        for _ in range(ROUNDS):
            goes_on(full, "hot")
            goes_on(full, "archive")
            kafka.kill()
            kafka.start()
        goes_on(full, "hot")
        goes_on(full, "archive")
    all_stored_once(full, sender, incarnation)
    full.stop(consumer)


def test_a_power_cut_loses_and_repeats_nothing(
    full: Platform, kafka: Instance, influxdb: Instance, s3: Instance
) -> None:
    incarnation = full.incarnation()
    servers = (kafka, influxdb, s3)
    moments = seeded()
    with Sender(full.settings) as sender:
        for _ in range(ROUNDS):
            consumer = full.start("consume")
            goes_on(full, "hot")
            goes_on(full, "archive")
            for one in moments.sample([consumer, *servers], 4):
                one.kill()
            consumer.wait()
            for server in servers:
                server.start()
        consumer = full.start("consume")
        goes_on(full, "hot")
        goes_on(full, "archive")
    all_stored_once(full, sender, incarnation)
    full.stop(consumer)
