"""Topics on a real Kafka: made once, compared, grown on request; what the broker refuses is told."""

import time
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # pyright: ignore[reportPrivateImportUsage]
from pydantic import SecretStr

from sieis_platform.settings import Settings
from sieis_streaming.admin import TopicError
from sieis_streaming.broker import (
    BrokerError,
    TopicMissingError,
    client_config,
    incarnation,
    locate,
)
from sieis_streaming.refusal import BrokerRefusesError, BrokerUnavailableError
from sieis_streaming.topics import ensure_topics
from tests.faults.harness import eventually
from tools.services.group import Services

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with Services.start(["kafka"]) as services:
        yield services["kafka"].address


@pytest.fixture
def settings(bootstrap: str) -> Settings:
    name = f"t{uuid.uuid4().hex[:12]}"
    return Settings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        kafka_bootstrap=bootstrap,
        kafka_topic=name,
        kafka_dlq_topic=f"{name}.dlq",
    )


def admin_of(settings: Settings) -> AdminClient:
    return AdminClient(client_config(settings, locate(settings)))


def config_of(settings: Settings, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = admin_of(settings)  # its answers end with it
    entries = admin.describe_configs([resource])[resource].result(20)
    return {name: entry.value for name, entry in entries.items()}


def test_topics_are_made_as_the_settings_say_and_once(settings: Settings) -> None:
    made = ensure_topics(settings)
    assert [(topic.name, topic.partitions, topic.made) for topic in made] == [
        (settings.kafka_topic, 6, True),
        (settings.kafka_dlq_topic, 1, True),
    ]
    config = config_of(settings, settings.kafka_topic)
    assert config["retention.ms"] == str(24 * 3_600_000)
    assert config["segment.ms"] == str(6 * 3_600_000)
    assert config["segment.bytes"] == str(100 * 1024 * 1024)
    assert config["message.timestamp.type"] == "LogAppendTime"
    letters = config_of(settings, settings.kafka_dlq_topic)
    assert int(letters["retention.ms"]) > int(config["retention.ms"])
    # A letter is a record and more.
    assert int(letters["max.message.bytes"]) > int(config["max.message.bytes"])
    again = ensure_topics(settings)
    assert [(topic.made, topic.differences) for topic in again] == [(False, [])] * 2


def test_what_differs_is_told_and_not_changed(settings: Settings) -> None:
    ensure_topics(settings)
    changed = settings.model_copy(update={"kafka_partitions": 12, "kafka_retention_hours": 48.0})
    readings, letters = ensure_topics(changed)
    assert readings.differences == [
        "partitions is 6, the settings say 12",
        "retention.ms is 86400000, the settings say 172800000",
        "segment.ms is 21600000, the settings say 43200000",
    ]
    assert letters.differences == []
    assert ensure_topics(settings)[0].differences == []


def test_partitions_grow_on_request_and_never_shrink(settings: Settings) -> None:
    ensure_topics(settings)
    more = settings.model_copy(update={"kafka_partitions": 12})
    grown = ensure_topics(more, grow=True)[0]
    assert (grown.grown_from, grown.partitions, grown.differences) == (6, 12, [])
    assert ensure_topics(settings, grow=True)[0].differences == ["partitions is 12, the settings say 6"]


def test_old_records_go_although_new_ones_come(settings: Settings) -> None:
    """The newest segment is never old while somebody writes: only a new one begun in time lets the old records go."""
    seconds = 5
    short = settings.model_copy(update={"kafka_retention_hours": seconds / 3_600, "kafka_partitions": 1})
    ensure_topics(short)
    config = client_config(short, locate(short))
    producer, looking = Producer(config), Consumer(config | {"group.id": short.kafka_topic})
    part = TopicPartition(short.kafka_topic, 0)

    def first_left(sent: list[float]) -> int:
        producer.produce(short.kafka_topic, b"{}", partition=0)
        assert not producer.flush(20)
        sent.append(time.monotonic())
        return looking.get_watermark_offsets(part, timeout=20)[0]

    sent: list[float] = []
    try:
        eventually(lambda: first_left(sent) > 0, "the first record deleted", 60 + seconds + 40)
        low, high = looking.get_watermark_offsets(part, timeout=20)
    finally:
        looking.close()
    assert sent[-1] - sent[0] > seconds
    assert 0 < low < high == len(sent), "what is new must stay"


def test_more_copies_than_brokers_are_refused_for_good(settings: Settings) -> None:
    with pytest.raises(TopicError, match="3 time"):
        ensure_topics(settings.model_copy(update={"kafka_replication": 3}))


def test_a_broker_that_is_not_there_may_come_later(settings: Settings) -> None:
    with pytest.raises(BrokerUnavailableError):
        ensure_topics(settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"}))


def test_the_incarnation_is_another_after_the_topic_was_made_again_and_never_holds_a_slash(settings: Settings) -> None:
    admin = admin_of(settings)
    with pytest.raises(TopicMissingError, match="sieis setup"):
        incarnation(admin, settings, settings.kafka_topic)
    # An id has a slash in the broker library's writing about every third time.
    seen: set[str] = set()
    for number in range(20):
        one = settings.model_copy(update={"kafka_topic": f"{settings.kafka_topic}.{number}", "kafka_partitions": 1})
        ensure_topics(one)
        seen.add(incarnation(admin, one, one.kafka_topic))
    assert len(seen) == 20
    assert not any(character in one for one in seen for character in "/+")


def test_tls_and_passwords_reach_the_client_and_no_message(settings: Settings) -> None:
    secured = settings.model_copy(
        update={
            "kafka_security_protocol": "sasl_plaintext",
            "kafka_sasl_username": "sieis",
            "kafka_sasl_password": SecretStr("not-to-be-told"),
        }
    )
    config = client_config(secured, locate(secured))
    assert config["security.protocol"] == "sasl_plaintext"
    assert (config["sasl.mechanism"], config["sasl.username"]) == ("SCRAM-SHA-512", "sieis")
    # This listener speaks plain text only.
    with pytest.raises(BrokerRefusesError, match="SIEIS_KAFKA_SECURITY_PROTOCOL") as raised:
        ensure_topics(secured)
    assert "not-to-be-told" not in str(raised.value)
    assert "not-to-be-told" not in repr(secured)
    with pytest.raises(BrokerError, match="SIEIS_KAFKA_SASL_USERNAME"):
        client_config(secured.model_copy(update={"kafka_sasl_username": ""}), locate(secured))
