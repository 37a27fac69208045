"""The topics as the settings want them: made where missing, compared where they are there, grown on request.

Belongs here: their partitions, copies and retention. Not here: who writes or reads them.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import TopicCollection, TopicPartitionInfo
from confluent_kafka.admin import (
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage] - the documented place of these four
    NewPartitions,  # pyright: ignore[reportPrivateImportUsage]
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from sieis_platform.settings import Settings
from sieis_streaming.admin import ANSWER_SECONDS, Administration, TopicExistsError
from sieis_streaming.broker import TopicMissingError

_LOOK_SECONDS: Final = 0.1
_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000
_DLQ_PARTITIONS: Final = 1  # few records, read as a whole
_DLQ_RETENTION_MS: Final = 30 * 24 * _HOUR_MS  # a person must have the time to look at them
# A dead letter is a record and our headers: the largest that the topic of the readings takes (1 MB by default, perhaps
# packed better by its producer than by us) must find room, or the archive waits before it for ever.
_DLQ_MESSAGE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class Wanted:
    """A topic as the settings want it; `config` in Kafka's names."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class TopicReport:
    """A topic that is there now: whether this call made or grew it, and how it differs from the settings."""

    name: str
    partitions: int
    made: bool = False
    grown_from: int | None = None
    differences: list[str] = field(default_factory=list)


def wanted(settings: Settings) -> list[Wanted]:
    """The topics of the readings and of the dead letters.

    The record time is the broker's (LogAppendTime): retention and the check for readings from the future must not hang
    on a producer's clock. Of three copies two must have a record before it counts as written.

    A broker deletes whole segments, a segment only when its newest record is old enough, and by default begins a new
    one after 7 days or 1 GB. 42 motes fill neither: a record would stay for 8 days. With a quarter of the retention a
    record stays for one to one and a quarter times of it.
    """
    common = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}
    if settings.kafka_replication >= 3:
        common["min.insync.replicas"] = "2"
    readings = _kept_for(round(settings.kafka_retention_hours * _HOUR_MS))
    readings["segment.bytes"] = str(settings.kafka_segment_bytes)
    return [
        Wanted(settings.kafka_topic, settings.kafka_partitions, settings.kafka_replication, common | readings),
        Wanted(
            settings.kafka_dlq_topic,
            _DLQ_PARTITIONS,
            settings.kafka_replication,
            common | _kept_for(_DLQ_RETENTION_MS) | {"max.message.bytes": str(_DLQ_MESSAGE_BYTES)},
        ),
    ]


def _kept_for(milliseconds: int) -> dict[str, str]:
    return {"retention.ms": str(milliseconds), "segment.ms": str(max(milliseconds // 4, _MINUTE_MS))}


def ensure_topics(settings: Settings, *, grow: bool = False) -> list[TopicReport]:
    """Make the topics that are missing and compare the others with the settings; a second call changes nothing.

    With `grow`, a topic with fewer partitions gets more. That moves keys: from then on the readings of a mote go to
    another partition than before, so that while old records are still unread, two consumers may hold one mote's
    readings and store them out of order. Nothing is lost or repeated: positions are kept by partition, and of the same
    key the archive keeps both. Grow when the lag is small.

    Raises: BrokerUnavailableError, BrokerRefusesError, TopicError, BrokerError and TlsFilesError (settings).
    """
    broker = Administration(settings)
    return [_ensure(broker, topic, grow) for topic in wanted(settings)]


def _ensure(broker: Administration, topic: Wanted, grow: bool) -> TopicReport:
    made = _made(broker, topic)
    partitions, replication = _shape(broker, topic.name)
    if made:
        return TopicReport(topic.name, partitions, made=True)
    grown_from = None
    if grow and partitions < topic.partitions:
        futures = broker.client.create_partitions(
            [NewPartitions(topic.name, topic.partitions)], request_timeout=ANSWER_SECONDS
        )
        broker.result(futures[topic.name], f"more partitions for topic {topic.name}")
        grown_from, partitions = partitions, topic.partitions
    differences = _differences(
        {"partitions": str(topic.partitions), "replication": str(topic.replication), **topic.config},
        {"partitions": str(partitions), "replication": str(replication), **_config(broker, topic.name)},
    )
    return TopicReport(topic.name, partitions, grown_from=grown_from, differences=differences)


def _made(broker: Administration, topic: Wanted) -> bool:
    new = NewTopic(topic.name, topic.partitions, topic.replication, config=dict(topic.config))
    future = broker.client.create_topics([new], request_timeout=ANSWER_SECONDS)[topic.name]
    try:
        broker.result(future, f"topic {topic.name}")
    except TopicExistsError:
        return False
    return True


def _shape(broker: Administration, name: str) -> tuple[int, int]:
    """Partitions and copies."""
    partitions = wait_for(broker, name)
    return len(partitions), min(len(partition.replicas) for partition in partitions)


def wait_for(broker: Administration, name: str) -> Sequence[TopicPartitionInfo]:
    """The partitions of a topic that may just have been made, which a broker learns of a moment later.

    Raises: TopicMissingError; as `Administration.result`.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        asked = broker.client.describe_topics(TopicCollection([name]), request_timeout=ANSWER_SECONDS)
        try:
            return broker.result(asked[name], f"the description of topic {name}").partitions
        except TopicMissingError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)


def _config(broker: Administration, name: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, name)
    asked = broker.client.describe_configs([resource], request_timeout=ANSWER_SECONDS)
    entries = broker.result(asked[resource], f"the configuration of topic {name}")
    return {key: entry.value for key, entry in entries.items()}


def _differences(want: Mapping[str, str], have: Mapping[str, str | None]) -> list[str]:
    """What the broker does not know of (another make of server) is told as such."""
    return [
        f"{name} is {have.get(name) or 'unknown to the broker'}, the settings say {value}"
        for name, value in want.items()
        if have.get(name) != value
    ]
