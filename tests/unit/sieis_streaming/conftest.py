"""Real messages: a broker for the whole session, and a topic of its own for each test.

Belongs here: what several tests of the stream share.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from sieis_platform.settings import Settings
from sieis_streaming.broker import BrokerAddress, EmbeddedBroker, client_config, locate
from tests.broker import EMBEDDED_PARTITIONS

_numbers = itertools.count()


class Record(NamedTuple):
    """What is produced; the record time is the producer's clock where none is given."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, str | bytes | None]] = ()
    record_ms: int | None = None


class Topic:
    """One topic of the session's broker, and `settings` in which it is the topic of the readings."""

    def __init__(self, settings: Settings, address: BrokerAddress) -> None:
        self.settings = settings
        config = client_config(settings, address)
        self._producer = Producer(config | {"linger.ms": 0})
        self._consumer = Consumer(config | {"group.id": "reader", "fetch.wait.max.ms": 5, "enable.auto.commit": False})
        self._next = dict.fromkeys(range(EMBEDDED_PARTITIONS), 0)
        parts = [TopicPartition(settings.kafka_topic, partition, 0) for partition in range(EMBEDDED_PARTITIONS)]
        self._producer.list_topics(settings.kafka_topic, timeout=5)  # makes it
        self._consumer.assign(parts)

    def send(self, *records: Record, partition: int = 0) -> None:
        """Produce and wait for the acknowledgement; the order is kept."""
        for record in records:
            at = {} if record.record_ms is None else {"timestamp": record.record_ms}
            self._producer.produce(
                self.settings.kafka_topic,
                record.value,
                record.key,
                partition,
                headers=list(record.headers),
                **at,
            )
        assert not self._producer.flush(10)

    def through(self, *records: Record, partition: int = 0) -> list[Message]:
        """The messages that come out of the broker for `records`, in their order."""
        self.send(*records, partition=partition)
        return self.read(len(records))

    def read(self, count: int) -> list[Message]:
        """The next `count` messages."""
        messages: list[Message] = []
        deadline = time.monotonic() + 10
        while len(messages) < count:
            assert time.monotonic() < deadline, f"{len(messages)} of {count} messages came"
            for message in self._consumer.consume(count - len(messages), 0.05):
                assert message.error() is None, message.error()
                messages.append(message)
        return messages

    def ends(self) -> tuple[int, int]:
        """First offset that the broker has of partition 0, and the one after the last."""
        return self._consumer.get_watermark_offsets(TopicPartition(self.settings.kafka_topic, 0), timeout=5)

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture(scope="session")
def stream_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a data directory whose broker runs."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("stream"),
        kafka_session_timeout_seconds=4,
        _env_file=None,  # pyright: ignore[reportCallIssue]
    )
    with EmbeddedBroker(settings):
        yield settings


@pytest.fixture
def topic(stream_settings: Settings) -> Iterator[Topic]:
    """A topic, a dead letter topic and a consumer group that nobody else uses."""
    number = next(_numbers)
    settings = stream_settings.model_copy(
        update={
            "kafka_topic": f"readings.{number}",
            "kafka_dlq_topic": f"readings.{number}.dlq",
            "kafka_group": f"group.{number}",
        }
    )
    made = Topic(settings, locate(settings))
    yield made
    made.close()
