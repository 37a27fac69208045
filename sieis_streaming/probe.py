"""Whether a broker can do what SIEIS relies on, tried on a topic made for it: there are more makes than Kafka.

Belongs here: what is tried, and what it says of a broker that cannot. Not here: the topics that stay (topics.py).
"""

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import (
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage] - the documented place of these three
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from sieis_platform.settings import Settings
from sieis_streaming.admin import ANSWER_SECONDS, LEAST_VERSIONS, UNSUPPORTED, Administration, UnsuitableBrokerError
from sieis_streaming.broker import client_config, incarnation, locate
from sieis_streaming.dead_letters import PRODUCER_CONFIG, Headers
from sieis_streaming.emitter import PRODUCER_CONFIG as READINGS_CONFIG
from sieis_streaming.refusal import BrokerUnavailableError
from sieis_streaming.topics import wait_for

_CONFIG: Final[Mapping[str, str]] = {"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000"}
_LONG_AGO_MS: Final = 1_000_000_000_000  # 2001: no broker's clock
_HEADERS: Final[Headers] = [("sieis.probe", b"\x00\xff")]
_WAYS: Final[Mapping[str, Mapping[str, Any]]] = {
    "idempotent batches packed with lz4 (the readings)": READINGS_CONFIG,
    "batches packed with zstd (the dead letters)": PRODUCER_CONFIG,
}


def probe(settings: Settings) -> None:
    """Make a topic, write to it as the simulator and the consumer do, read that back, and remove the topic.

    Raises: UnsuitableBrokerError, and BrokerError where it tells no topic ids; BrokerRefusesError, also where the user
    may not make such a topic; BrokerUnavailableError, TopicError.
    """
    broker = Administration(settings)
    with _topic(broker, settings) as topic:
        wait_for(broker, topic)
        incarnation(broker.client, settings, topic, ANSWER_SECONDS, broker.handshake)
        _tells_config(broker, topic)
        for way, config in _WAYS.items():
            _write(settings, topic, way, config)
        for message in _read(settings, topic, len(_WAYS)):
            _judge(message)


@contextlib.contextmanager
def _topic(broker: Administration, settings: Settings) -> Iterator[str]:
    name = f"{settings.kafka_topic}.probe-{uuid.uuid4().hex[:12]}"
    new = NewTopic(name, 1, settings.kafka_replication, config=dict(_CONFIG))
    made = broker.client.create_topics([new], request_timeout=ANSWER_SECONDS)
    broker.result(made[name], f"topic {name}, on which it is tried out")
    try:
        yield name
    finally:
        gone = broker.client.delete_topics([name], request_timeout=ANSWER_SECONDS)
        broker.result(gone[name], f"to delete topic {name}")


def _tells_config(broker: Administration, topic: str) -> None:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    asked = broker.client.describe_configs([resource], request_timeout=ANSWER_SECONDS)
    told = broker.result(asked[resource], "to tell a topic's configuration")
    if unknown := sorted(_CONFIG.keys() - told.keys()):
        raise UnsuitableBrokerError(f"the broker does not know {' and '.join(unknown)} of a topic; {LEAST_VERSIONS}")


def _write(settings: Settings, topic: str, way: str, config: Mapping[str, Any]) -> None:
    producer = Producer(client_config(settings, locate(settings)) | dict(config))
    reports: list[KafkaError | None] = []
    error: KafkaError | None = None
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        producer.produce(
            topic,
            b"value",
            b"key",
            headers=_HEADERS,
            timestamp=_LONG_AGO_MS,
            on_delivery=lambda error, _: reports.append(error),
        )
        while not reports and time.monotonic() < deadline:
            producer.poll(0.1)  # not `flush`: where the producer fails for good, only this raises it cleanly
        error = reports[0] if reports else None
    except KafkaException as failed:
        error = failed.args[0]
    finally:
        producer.purge()
        producer.close()
    if error is not None and (error.fatal() or error.code() in UNSUPPORTED):
        raise UnsuitableBrokerError(f"the broker does not take {way}: {error.str()}; {LEAST_VERSIONS}")
    if error is not None or not reports:
        reason = error.str() if error is not None else "no acknowledgement in time"
        raise BrokerUnavailableError(f"the broker did not take {way}: {reason}")


def _read(settings: Settings, topic: str, count: int) -> list[KafkaMessage]:
    own = {"group.id": topic, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    consumer = Consumer(client_config(settings, locate(settings)) | own)
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[KafkaMessage] = []
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(found) < count and time.monotonic() < deadline:
            found += [one for one in consumer.consume(count, 0.2) if one.error() is None]
    finally:
        consumer.close()
    if len(found) < count:
        raise BrokerUnavailableError(f"the broker gave {len(found)} of {count} records of {topic} back in time")
    return found


def _judge(message: KafkaMessage) -> None:
    """Raises: UnsuitableBrokerError where a record does not come back as it must."""
    kind, at_ms = message.timestamp()
    if kind != TIMESTAMP_LOG_APPEND_TIME or at_ms == _LONG_AGO_MS:
        raise UnsuitableBrokerError(
            "the broker keeps the producer's time although message.timestamp.type is LogAppendTime: retention and the "
            f"check for readings from the future would hang on every producer's clock; {LEAST_VERSIONS}"
        )
    if message.headers() != _HEADERS:
        raise UnsuitableBrokerError(f"the broker does not keep the headers of a record; {LEAST_VERSIONS}")
