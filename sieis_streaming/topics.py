"""The topics as the settings want them: made where missing, compared where they are there, grown on request.

Belongs here: their partitions, copies and retention. Not here: who writes or reads them.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage] - the documented place of these four
    NewPartitions,  # pyright: ignore[reportPrivateImportUsage]
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings
from sieis_streaming.broker import BrokerUnavailableError, TopicMissingError, client_config, locate

_ANSWER_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.1
_HOUR_MS: Final = 3_600_000
_DLQ_PARTITIONS: Final = 1  # few records, read as a whole
_DLQ_RETENTION_MS: Final = 30 * 24 * _HOUR_MS  # a person must have the time to look at them
# A dead letter is a record and our headers: the largest that the topic of the readings takes (1 MB by default, perhaps
# packed better by its producer than by us) must find room, or the archive waits before it for ever.
_DLQ_MESSAGE_BYTES: Final = 4 * 1024 * 1024

# What will be answered the same next time.
_PERMANENT: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
    }
)


class TopicError(FatalError):
    """The broker refuses to make or change a topic."""


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
    """
    common = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}
    if settings.kafka_replication >= 3:
        common["min.insync.replicas"] = "2"
    readings = {
        "retention.ms": str(round(settings.kafka_retention_hours * _HOUR_MS)),
        "segment.bytes": str(settings.kafka_segment_bytes),
    }
    return [
        Wanted(settings.kafka_topic, settings.kafka_partitions, settings.kafka_replication, common | readings),
        Wanted(
            settings.kafka_dlq_topic,
            _DLQ_PARTITIONS,
            settings.kafka_replication,
            common | {"retention.ms": str(_DLQ_RETENTION_MS), "max.message.bytes": str(_DLQ_MESSAGE_BYTES)},
        ),
    ]


def ensure_topics(settings: Settings, *, grow: bool = False) -> list[TopicReport]:
    """Make the topics that are missing and compare the others with the settings; a second call changes nothing.

    With `grow`, a topic with fewer partitions gets more. That moves keys: from then on the readings of a mote go to
    another partition than before, so that while old records are still unread, two consumers may hold one mote's
    readings and store them out of order. Nothing is lost or repeated: positions are kept by partition, and of the same
    key the archive keeps both. Grow when the lag is small.

    Raises: BrokerUnavailableError, TopicError, BrokerError (settings).
    """
    admin = AdminClient(client_config(settings, locate(settings)))
    return [_ensure(admin, topic, grow) for topic in wanted(settings)]


def _ensure(admin: AdminClient, topic: Wanted, grow: bool) -> TopicReport:
    made = _made(admin, topic)
    partitions, replication = _shape(admin, topic.name)
    if made:
        return TopicReport(topic.name, partitions, made=True)
    grown_from = None
    if grow and partitions < topic.partitions:
        futures = admin.create_partitions(
            [NewPartitions(topic.name, topic.partitions)], request_timeout=_ANSWER_SECONDS
        )
        _result(futures[topic.name], f"more partitions for topic {topic.name}")
        grown_from, partitions = partitions, topic.partitions
    differences = _differences(
        {"partitions": str(topic.partitions), "replication": str(topic.replication), **topic.config},
        {"partitions": str(partitions), "replication": str(replication), **_config(admin, topic.name)},
    )
    return TopicReport(topic.name, partitions, grown_from=grown_from, differences=differences)


def _made(admin: AdminClient, topic: Wanted) -> bool:
    new = NewTopic(topic.name, topic.partitions, topic.replication, config=dict(topic.config))
    future = admin.create_topics([new], request_timeout=_ANSWER_SECONDS)[topic.name]
    try:
        _result(future, f"topic {topic.name}")
    except _ExistsError:
        return False
    return True


def _shape(admin: AdminClient, name: str) -> tuple[int, int]:
    """Partitions and copies; waits for a topic that was just made, which a broker learns of a moment later."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        asked = admin.describe_topics(TopicCollection([name]), request_timeout=_ANSWER_SECONDS)
        try:
            partitions = _result(asked[name], f"the description of topic {name}").partitions
        except TopicMissingError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)
        else:
            return len(partitions), min(len(partition.replicas) for partition in partitions)


def _config(admin: AdminClient, name: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, name)
    asked = admin.describe_configs([resource], request_timeout=_ANSWER_SECONDS)
    entries = _result(asked[resource], f"the configuration of topic {name}")
    return {key: entry.value for key, entry in entries.items()}


def _differences(want: Mapping[str, str], have: Mapping[str, str | None]) -> list[str]:
    """What the broker does not know of (another make of server) is told as such."""
    return [
        f"{name} is {have.get(name) or 'unknown to the broker'}, the settings say {value}"
        for name, value in want.items()
        if have.get(name) != value
    ]


class _ExistsError(Exception):
    """The topic is there."""


def _result(future: "Future[Any]", what: str) -> Any:
    try:
        return future.result(2 * _ANSWER_SECONDS)
    except TimeoutError as error:
        raise BrokerUnavailableError(f"the broker did not answer for {what}") from error
    except KafkaException as error:
        cause: KafkaError = error.args[0]
        if cause.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            raise _ExistsError from error
        if cause.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise TopicMissingError(f"the broker does not know {what}") from error
        kind = TopicError if cause.code() in _PERMANENT else BrokerUnavailableError
        raise kind(f"the broker refuses {what}: {cause.str()}") from error
