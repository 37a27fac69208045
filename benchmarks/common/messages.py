"""Readings as Kafka messages: made in columns, sent as fast as one process can.

Belongs here: which readings a benchmark sends. Not here: how they are told apart afterwards, or measured.
"""

import json
import time
from typing import Final

import numpy as np
import polars as pl
from confluent_kafka import Consumer, Producer, TopicPartition

from sieis_platform.errors import FatalError
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.timeline import DAY_NS
from sieis_streaming.broker import client_config, locate
from sieis_streaming.emitter import encode

MOTES: Final = 42
_BATCH: Final = 100_000
_QUEUED: Final = 400_000  # messages: below librdkafka's limit as set here, so that it never refuses one
_WAIT_SECONDS: Final = 60.0


class UnsentError(FatalError):
    """The broker does not hold the messages it was sent."""


def yesterday_ns() -> int:
    """Begin of yesterday, UTC: a day of which every reading may have come, and which every store still keeps."""
    return (time.time_ns() // DAY_NS - 1) * DAY_NS


def readings(first: int, count: int, *, start_ns: int, step_ns: int) -> pl.DataFrame:
    """Readings number `first` to `first + count` - 1 (READING_SCHEMA), `step_ns` apart, the motes in turn.

    The values scatter like those of a building, with the decimals of the Intel motes: neither JSON nor a store may gain
    by their being all the same.
    """
    random = np.random.default_rng(first)
    numbers = np.arange(first, first + count, dtype=np.int64)
    return pl.DataFrame(
        {
            "mote_id": numbers % MOTES + 1,
            "timestamp": start_ns + numbers * step_ns,
            "temperature": random.normal(21, 3, count).round(4),
            "humidity": random.normal(40, 5, count).round(4),
            "light": np.abs(random.normal(200, 90, count)).round(2),
            "voltage": random.normal(2.7, 0.1, count).round(5),
        }
    ).cast(READING_SCHEMA)


def reading(mote_id: int, timestamp_ns: int) -> tuple[str, bytes]:
    """Key and value of one reading, whole microseconds."""
    seconds, rest = divmod(timestamp_ns, 1_000_000_000)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1_000:06d}Z"
    values = {"temperature": 22.5, "humidity": 45.3, "light": 250.0, "voltage": 2.8}
    return str(mote_id), json.dumps({"mote_id": mote_id, **values, "timestamp": moment}).encode()


def fill(settings: Settings, count: int, *, start_ns: int, step_ns: int) -> None:
    """Send `count` readings to the topic of `settings` and see that it holds them all.

    Raises: UnsentError; what locating the broker raises.
    """
    address = locate(settings)
    options = {
        "linger.ms": 20,
        "batch.size": 1_000_000,
        "queue.buffering.max.messages": 2 * _QUEUED,
        "queue.buffering.max.kbytes": 1_048_576,
        **({} if address.embedded else {"compression.type": "lz4"}),  # as the simulator does
    }
    producer = Producer(client_config(settings, address) | options)
    for first in range(0, count, _BATCH):
        frame = encode(readings(first, min(_BATCH, count - first), start_ns=start_ns, step_ns=step_ns))
        keys, values = frame["key"].to_list(), frame["value"].to_list()
        messages = [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)]
        if producer.produce_batch(settings.kafka_topic, messages) < len(messages):
            raise UnsentError(f"librdkafka took fewer than {len(messages)} messages: {messages[-1].get('_error')}")
        while len(producer) > _QUEUED:
            producer.poll(0.05)
    left = producer.flush(_WAIT_SECONDS)
    held = _held(settings)
    if left or held != count:
        raise UnsentError(f"{settings.kafka_topic} holds {held:,} of {count:,} messages, {left:,} are unacknowledged")


def _held(settings: Settings) -> int:
    consumer = Consumer(client_config(settings, locate(settings)) | {"group.id": "benchmark"})
    try:
        partitions = consumer.list_topics(settings.kafka_topic, _WAIT_SECONDS).topics[settings.kafka_topic].partitions
        ends = [
            consumer.get_watermark_offsets(TopicPartition(settings.kafka_topic, partition), _WAIT_SECONDS)
            for partition in partitions
        ]
    finally:
        consumer.close()
    return sum(high - low for low, high in ends)
