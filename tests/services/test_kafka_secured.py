"""TLS, passwords, client certificates and access rules on a real Kafka: spoken end to end, and why where refused."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

import polars as pl
import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,  # pyright: ignore[reportPrivateImportUsage] - the documented place of these
    AclBindingFilter,  # pyright: ignore[reportPrivateImportUsage]
    AclOperation,  # pyright: ignore[reportPrivateImportUsage]
    AclPermissionType,  # pyright: ignore[reportPrivateImportUsage]
    AdminClient,
    ResourcePatternType,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
    ScramCredentialInfo,  # pyright: ignore[reportPrivateImportUsage]
    ScramMechanism,  # pyright: ignore[reportPrivateImportUsage]
    UserScramCredentialUpsertion,  # pyright: ignore[reportPrivateImportUsage]
)

from sieis_cli.main import EX_FATAL
from sieis_platform.reading import FIELDS
from sieis_platform.settings import Settings
from sieis_streaming.dead_letter_desk import read_letters, replay_letters
from sieis_streaming.emitter import Emitter
from sieis_streaming.link import BrokerLink
from sieis_streaming.refusal import BrokerRefusesError
from sieis_streaming.topics import ensure_topics
from tests.faults.harness import Platform, Sender, eventually, platform, wait_until_archived, wait_until_hot
from tools.services import Instance
from tools.services.servers.kafka import secured_settings

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

Protocol = Literal["ssl", "sasl_ssl"]
WITHIN_SECONDS = 30
"""A wrong password must end a process; before, it went on for ever. A busy machine takes seconds to start one."""


def _incarnation(settings: Settings) -> str:
    link = BrokerLink(settings)
    link.connect(threading.Event(), 5)
    return link.incarnation()


def _produce(settings: Settings) -> None:
    emitter = Emitter(settings, threading.Event())
    try:
        one = dict.fromkeys(FIELDS, 1.0)
        emitter.send(pl.DataFrame([{"timestamp": time.time_ns(), "mote_id": 1, **one}]))
        assert emitter.flush(WITHIN_SECONDS)
    finally:
        emitter.close()


ASKING: Mapping[str, Callable[[Settings], object]] = {
    "setup": ensure_topics,
    "incarnation": _incarnation,
    "produce": _produce,
    "dead letters": read_letters,
}
"""All that asks the broker for something, but for `sieis consume`."""


def of(kafka: Instance, protocol: Protocol, **changed: object) -> dict[str, object]:
    """Settings, by field, of a platform on that listener."""
    found = secured_settings(kafka.place, protocol)
    return {name.removeprefix("SIEIS_").lower(): value for name, value in found.items()} | changed


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """Certificates of an authority that has signed nothing here."""
    path = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


def test_no_password_is_in_a_command_line(kafka: Instance) -> None:
    assert kafka.process is not None
    words = " ".join(kafka.process.cmdline())
    assert not [name for name, secret in kafka.credentials.items() if name != "user" and secret in words]


@pytest.mark.parametrize("protocol", get_args(Protocol))
def test_everything_speaks_tls(kafka: Instance, tmp_path: Path, protocol: Protocol) -> None:
    with platform(tmp_path / "var", **of(kafka, protocol)) as running:
        made = running.run("setup")
        assert made.returncode == 0, made.stdout + made.stderr
        assert made.stdout.count(": made, ") == 2
        consumer = running.start("consume")
        sender = Sender(running.settings)
        sender.send(b"not JSON", 1)
        _send(sender, 50)
        _produce(running.settings)
        wait_until_archived(running.settings, sender.ends(), running.incarnation())
        wait_until_hot(running.settings, 51)
        (letter,) = read_letters(running.settings)
        assert letter.value == b"not JSON"
        assert replay_letters(running.settings) == [letter]
        running.stop(consumer)
        assert sum(one["stored"] for one in running.verify()["accounts"]) == 51
        _tells_no_secret(running, kafka)


def _tells_no_secret(running: Platform, kafka: Instance, *texts: str) -> None:
    for name, secret in kafka.credentials.items():
        if name != "user":
            assert secret not in "".join((running.log.read_text() if running.log.exists() else "", *texts))


def _refused(running: Platform, kafka: Instance, command: str, *said: str) -> None:
    """`command` ends by itself, soon, for good, and says all of `said`."""
    began = time.monotonic()
    done = running.run(command)
    assert done.returncode == EX_FATAL, done.stdout + done.stderr
    assert time.monotonic() - began < WITHIN_SECONDS
    last = done.stderr[done.stderr.rindex("Error: ") :]
    for words in said:
        assert words in last
    _tells_no_secret(running, kafka, done.stdout, done.stderr)
    assert "not-the-password" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["setup", "consume"])
def test_a_wrong_password_ends_the_process(kafka: Instance, tmp_path: Path, command: str) -> None:
    with platform(tmp_path / "var", **of(kafka, "sasl_ssl", kafka_sasl_password="not-the-password")) as running:
        _refused(running, kafka, command, "refuses the login", "invalid credentials", "SIEIS_KAFKA_SASL_PASSWORD")


@pytest.mark.parametrize("asks", ASKING.values(), ids=ASKING)
@pytest.mark.parametrize(
    "case",
    [
        ("sasl_ssl", {"kafka_sasl_password": "not-the-password"}, r"login.*invalid credentials.*SIEIS_KAFKA_SASL_PASS"),
        ("sasl_ssl", {"kafka_sasl_mechanism": "PLAIN"}, r"login.*SCRAM-SHA-512.*SIEIS_KAFKA_SASL_MECHANISM"),
        ("sasl_ssl", {"kafka_ssl_ca_location": "stranger"}, r"no TLS.*verify failed.*SIEIS_KAFKA_SSL_CA_LOCATION"),
        (
            "ssl",
            {"kafka_ssl_certificate_location": None, "kafka_ssl_key_location": None},
            r"no TLS.*SSL alert.*SIEIS_KAFKA_SSL_CERTIFICATE_LOCATION",
        ),
    ],
    ids=["password", "mechanism", "authority", "no certificate"],
)
def test_whoever_asks_a_broker_that_lets_nobody_in_is_told_why(
    kafka: Instance,
    stranger: Path,
    asks: Callable[[Settings], object],
    case: tuple[Protocol, dict[str, object], str],
) -> None:
    protocol, wrong, said = case
    wrong = {name: stranger if value == "stranger" else value for name, value in wrong.items()}
    began = time.monotonic()
    with pytest.raises(BrokerRefusesError, match=said) as raised:
        asks(Settings(_env_file=None, **of(kafka, protocol, **wrong)))  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert time.monotonic() - began < WITHIN_SECONDS
    for secret in ("not-the-password", kafka.credentials["password"], kafka.credentials["key_password"]):
        assert secret not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("kafka_ssl_ca_location", "/nowhere/ca.pem", "SIEIS_KAFKA_SSL_CA_LOCATION: there is no file /nowhere/ca.pem"),
        ("kafka_ssl_key_location", "/nowhere/key.pem", "SIEIS_KAFKA_SSL_KEY_LOCATION: there is no file"),
        ("kafka_ssl_key_password", "not-the-password", "SIEIS_KAFKA_SSL_KEY_PASSWORD"),
    ],
)
def test_a_missing_file_and_a_key_s_wrong_password_are_told_at_once(
    kafka: Instance, tmp_path: Path, name: str, value: str, said: str
) -> None:
    with platform(tmp_path / "var", **of(kafka, "ssl", **{name: value})) as running:
        for command in ("setup", "consume"):
            _refused(running, kafka, command, said)


def test_a_topic_the_user_may_not_touch_is_no_outage(kafka: Instance, tmp_path: Path) -> None:
    with platform(tmp_path / "var", **of(kafka, "sasl_ssl")) as running:
        ensure_topics(running.settings)
        for topic in (running.settings.kafka_topic, running.settings.kafka_dlq_topic):
            _forbid(kafka, topic)
        for asks in ASKING.values():
            with pytest.raises(BrokerRefusesError, match=r"authorization failed.*kafka-acls"):
                asks(running.settings)
        _refused(running, kafka, "consume", "authorization failed", "kafka-acls")


@pytest.fixture(autouse=True)
def no_rules_left(kafka: Instance) -> Iterator[None]:
    yield
    everything = AclBindingFilter(
        ResourceType.ANY,
        None,  # pyright: ignore[reportArgumentType] - anything, as the documentation has it
        ResourcePatternType.ANY,
        None,  # pyright: ignore[reportArgumentType]
        None,  # pyright: ignore[reportArgumentType]
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.delete_acls([everything])[everything].result(20)


def _forbid(kafka: Instance, topic: str) -> None:
    """Let nobody but who comes in plainly touch `topic`."""
    rule = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{kafka.credentials['user']}",
        "*",
        AclOperation.ALL,
        AclPermissionType.DENY,
    )
    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.create_acls([rule])[rule].result(20)


def _set_password(kafka: Instance, user: str, password: str) -> None:
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    admin = AdminClient({"bootstrap.servers": kafka.address})
    change = UserScramCredentialUpsertion(user, scram, password.encode())
    admin.alter_user_scram_credentials([change])[user].result(20)


def test_a_password_changed_under_a_running_consumer_is_told_and_waited_for(kafka: Instance, tmp_path: Path) -> None:
    user, password = f"u{uuid.uuid4().hex}", uuid.uuid4().hex
    _set_password(kafka, user, password)
    own = of(kafka, "sasl_ssl", kafka_sasl_username=user, kafka_sasl_password=password)
    with platform(tmp_path / "var", **own) as running:
        assert running.run("setup").returncode == 0
        consumer = running.start("consume")
        sender = Sender(running.settings)
        incarnation = running.incarnation()
        _send(sender, 5)
        wait_until_archived(running.settings, sender.ends(), incarnation)
        _set_password(kafka, user, uuid.uuid4().hex)
        kafka.kill()  # connections that were let in stay open otherwise
        kafka.start()
        eventually(lambda: "lets nobody in" in running.log.read_text(), "the failed login in the log")
        assert consumer.poll() is None
        _set_password(kafka, user, password)
        _send(sender, 20)
        wait_until_archived(running.settings, sender.ends(), incarnation)
        running.stop(consumer)


def _send(sender: Sender, count: int) -> None:
    for _ in range(count):
        record = sender.unique()
        sender.send(record, record["mote_id"])
    sender.flush()
