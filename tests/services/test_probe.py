"""`sieis setup` finds out whether a broker can do what is relied on: Kafka, and Kafka made to answer as others do."""

import threading
import time
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka.admin import AdminClient

from sieis_cli.main import EX_FATAL
from sieis_platform.reading import FIELDS
from sieis_platform.settings import Settings
from sieis_streaming import probe as probing
from sieis_streaming.admin import UnsuitableBrokerError
from sieis_streaming.emitter import DeliveryError, Emitter
from sieis_streaming.probe import probe
from tests.faults.harness import eventually, platform
from tests.services.older import DESCRIBE_CONFIGS, INIT_PRODUCER_ID, METADATA, older
from tools.services import Instance

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]


@pytest.fixture
def settings(kafka: Instance) -> Settings:
    return Settings(_env_file=None, kafka_bootstrap=kafka.address, kafka_topic="probed")  # pyright: ignore[reportCallIssue]


def nothing_left(kafka: Instance) -> None:
    """The probe's topic is gone; a broker hears of a deletion a moment after it was confirmed."""
    admin = AdminClient({"bootstrap.servers": kafka.address})
    eventually(
        lambda: not [name for name in admin.list_topics(timeout=20).topics if ".probe-" in name], "no probe's topic"
    )


def test_kafka_can_do_all_that_is_relied_on_and_nothing_is_left_of_the_probe(
    kafka: Instance, settings: Settings
) -> None:
    probe(settings)
    nothing_left(kafka)


def test_a_broker_without_topic_ids_is_named_with_the_versions_that_have_them(kafka: Instance, tmp_path: Path) -> None:
    with older(kafka, {METADATA: 9}) as address, platform(tmp_path / "var", kafka_bootstrap=address) as running:
        refused = running.run("setup")
        assert refused.returncode == EX_FATAL
        assert "no id of topic" in refused.stderr
        assert "Kafka has topic ids since 2.8, Redpanda since 25.3" in refused.stderr
        assert (
            running.settings.kafka_topic not in AdminClient({"bootstrap.servers": kafka.address}).list_topics().topics
        )
    nothing_left(kafka)


def test_a_broker_that_does_not_tell_configurations_is_refused(kafka: Instance, settings: Settings) -> None:
    with (
        older(kafka, {DESCRIBE_CONFIGS: -1}) as address,
        pytest.raises(UnsuitableBrokerError, match=r"configuration.*Redpanda from 25\.3"),
    ):
        probe(settings.model_copy(update={"kafka_bootstrap": address}))
    nothing_left(kafka)


def test_a_broker_without_idempotent_producers_is_refused(kafka: Instance, settings: Settings) -> None:
    with (
        older(kafka, {INIT_PRODUCER_ID: -1}) as address,
        pytest.raises(UnsuitableBrokerError, match=r"idempotent.*Redpanda from 25\.3"),
    ):
        probe(settings.model_copy(update={"kafka_bootstrap": address}))
    nothing_left(kafka)


def test_the_simulator_ends_at_a_broker_without_idempotent_producers(kafka: Instance, settings: Settings) -> None:
    with older(kafka, {INIT_PRODUCER_ID: -1}) as address:
        emitter = Emitter(settings.model_copy(update={"kafka_bootstrap": address}), threading.Event())
        try:
            emitter.send(pl.DataFrame([{"timestamp": time.time_ns(), "mote_id": 1, **dict.fromkeys(FIELDS, 1.0)}]))
            with pytest.raises(DeliveryError, match="Idempotent producer not supported"):
                emitter.flush(30)
        finally:
            emitter.close()


def test_a_broker_that_keeps_the_producer_s_time_is_refused(
    kafka: Instance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka without the setting is what a broker is that takes the setting and does nothing with it."""
    monkeypatch.setattr(probing, "_CONFIG", {"retention.ms": "-1"})
    with pytest.raises(UnsuitableBrokerError, match="producer's time"):
        probe(settings)
    nothing_left(kafka)
