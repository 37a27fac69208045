"""A producer that sends nothing but nonsense: the consumer keeps it all, and its memory stays what it is."""

import random
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from sieis_streaming.broker import client_config, locate
from tests.faults.harness import Platform, eventually, platform, wait_until_archived
from tools.services.instance import Instance

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600)]

LETTERS: Final = 500_000
MOST_BYTES: Final = 1 << 30


def test_a_flood_of_dead_letters_is_kept_to_the_last_in_bounded_memory(kafka: Instance, tmp_path: Path) -> None:
    # A flush by age comes after the drill: what is stored before the stop was due by its size.
    with platform(tmp_path / "var", kafka_bootstrap=kafka.address, archive_flush_seconds=3_600) as running:
        incarnation = running.start_broker()
        sent = _send(running)
        assert sum(sent.values()) == LETTERS
        consumer = running.start("consume")
        eventually(
            lambda: all(
                running.metric("sieis_records_read_total", sink=sink) == LETTERS for sink in ("hot", "archive")
            ),
            "all records read by both groups",
            300,
        )
        peak = _peak_bytes(consumer)
        running.stop(consumer)
        wait_until_archived(running.settings, sent, incarnation, 10)
        assert peak < MOST_BYTES, f"{peak / 2**20:.0f} MB"
        assert sum(account["dead"] for account in running.verify()["accounts"]) == LETTERS
        positions = _kept_positions(running)
        assert len(positions) == LETTERS, "a letter is there twice, or not at all"
        topic = f"{running.settings.kafka_topic}/{incarnation}"
        assert set(positions) == {f"{topic}/{part}/{offset}" for part, end in sent.items() for offset in range(end)}


def _send(running: Platform) -> dict[int, int]:
    """Records of 1 kB without meaning; per partition how many."""
    settings = running.settings
    producer = Producer(
        client_config(settings, locate(settings))
        | {
            "linger.ms": 20,
            "enable.idempotence": True,
            "queue.buffering.max.messages": LETTERS,
            "compression.type": "lz4",
        }
    )
    sent: dict[int, int] = {}
    noise = random.Random(1)

    def delivered(error: object, message: object) -> None:
        assert error is None
        partition = message.partition()  # pyright: ignore[reportAttributeAccessIssue]
        sent[partition] = sent.get(partition, 0) + 1

    for number in range(LETTERS):
        text = noise.randbytes(500).hex().encode()  # nothing that a compression makes small
        producer.produce(settings.kafka_topic, text, str(number % 97), on_delivery=delivered)
        if number % 1_000 == 0:
            producer.poll(0)
    assert not producer.flush(60)
    return sent


def _peak_bytes(process: "subprocess.Popen[bytes]") -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) * 1024


def _kept_positions(running: Platform) -> list[str]:
    """Of every record on the topic of the dead letters, where the original was."""
    settings = running.settings
    config = client_config(settings, locate(settings)) | {"group.id": "looking", "enable.auto.commit": False}
    reader = Consumer(config)
    positions: list[str] = []
    try:
        part = TopicPartition(settings.kafka_dlq_topic, 0, 0)
        _low, high = reader.get_watermark_offsets(part, timeout=10)
        reader.assign([part])
        while True:
            for message in reader.consume(10_000, 1.0):
                assert message.error() is None, message.error()
                positions.append(dict(message.headers() or [])["sieis.position"].decode())
                if (message.offset() or 0) + 1 >= high:
                    return positions
    finally:
        reader.close()
