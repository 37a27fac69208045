"""The embedded broker (librdkafka's own, in this process) and how clients find it or Kafka.

Belongs here: hosting, the published address, common client options, the incarnation of a topic.
Not here: what is produced or consumed.
"""

import contextlib
import datetime as dt
import fcntl
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.settings import Settings
from sieis_streaming.refusal import BrokerUnavailableError, Handshake
from sieis_streaming.tls import tls_config

log = structlog.get_logger(__name__)

_METADATA_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 0.5  # loopback answers or refuses in far less
_LOOK_SECONDS: Final = 0.05  # how often the address file is looked at while waiting
_ATTEMPTS: Final = 20  # clusters made in search of an unused address; the second one nearly always is
_REPEATS_SECONDS: Final = 10.0  # the same line of librdkafka is not logged again within this time
_URL_SAFE: Final = str.maketrans("+/", "-_")
_NO_TOPIC_ID: Final = frozenset({"None", "", "A" * 22})  # a UUID of zeros in base64: the broker's answer had no id
_REMEMBERED: Final = 1_000  # earlier addresses kept (one a start), and lines of librdkafka


class BrokerRunningError(FatalError):
    """A broker already serves this data directory."""


class BrokerError(FatalError):
    """The broker cannot be hosted, or the settings do not suffice to reach it."""


class TopicMissingError(RetriableError):
    """A topic is not there: not made yet, or deleted and about to be made again."""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What the embedded broker says of itself in its address file."""

    bootstrap: str
    cluster_id: str
    pid: int
    started_at: dt.datetime


@dataclass(frozen=True)
class BrokerAddress:
    """Where the broker is: `host:port` list, whether it is the embedded one, and then its cluster id."""

    bootstrap: str
    embedded: bool
    cluster_id: str | None = None


class EmbeddedBroker:
    """Hosts the broker of one data directory in this process; memory only.

    `start` publishes the address, `stop` takes it back; as a context manager it does both. A broker killed with -9
    leaves its file behind: the lock beside it tells a stale file from a live one. `make` makes a candidate cluster.
    """

    def __init__(self, settings: Settings, make: Callable[[], Producer] | None = None) -> None:
        self._settings = settings
        self._make = make or _make_cluster
        self._host: Producer | None = None
        self._lock: IO[bytes] | None = None
        self.published: Published | None = None

    def start(self) -> Published:
        """Start, create the two topics, publish the address.

        Raises: BrokerRunningError where one serves this data directory already, BrokerError where none can be made.
        """
        path = self._settings.broker_file
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(path)
        try:
            past = _past(path)
            self._host, self.published = _unused_cluster(self._make, past)
            for topic in (self._settings.kafka_topic, self._settings.kafka_dlq_topic):
                _touch(self._host, topic)
            _write(_past_file(path), msgspec.json.encode([*past, self.published][-_REMEMBERED:]))
            _write(path, msgspec.json.format(msgspec.json.encode(self.published), indent=2))
        except BaseException:
            self.stop()
            raise
        log.info("embedded broker started", bootstrap=self.published.bootstrap, cluster_id=self.published.cluster_id)
        return self.published

    def stop(self) -> None:
        """Take the address back and drop the broker with all it holds; a second call does nothing."""
        published, self.published = self.published, None
        if published is not None and _read(self._settings.broker_file) == published:
            self._settings.broker_file.unlink(missing_ok=True)
        host, self._host = self._host, None
        if host is not None:
            host.close()
        if self._lock is not None:
            self._lock.close()  # gives the lock back
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def locate(settings: Settings, timeout: float = 10.0, stop: threading.Event | None = None) -> BrokerAddress:
    """The address of the broker; waits up to `timeout` seconds for the embedded one to be there and accept connections.

    `stop`, once set, ends the wait. Kafka's address comes from the settings and is not tried.
    Raises: BrokerUnavailableError.
    """
    if not settings.embedded_broker:
        return BrokerAddress(settings.kafka_bootstrap, embedded=False)
    stop = stop or threading.Event()
    deadline = time.monotonic() + timeout
    while True:
        published = _read(settings.broker_file)
        if published is not None and _accepts(published.bootstrap):
            return BrokerAddress(published.bootstrap, embedded=True, cluster_id=published.cluster_id)
        if time.monotonic() >= deadline or stop.wait(_LOOK_SECONDS):
            raise BrokerUnavailableError(
                f"no embedded broker serves {settings.data_dir}; start one with `sieis broker`, or all with `sieis up`"
            )


def has_moved(settings: Settings, address: BrokerAddress) -> bool:
    """Whether the embedded broker has published another address since (a restart); about 20 µs, never true on Kafka."""
    if not address.embedded:
        return False
    published = _read(settings.broker_file)
    return published is not None and published.cluster_id != address.cluster_id


def client_config(settings: Settings, address: BrokerAddress, handshake: Handshake | None = None) -> dict[str, Any]:
    """librdkafka options common to every client of `address`; its log goes to structlog instead of stderr.

    `handshake` takes the client's errors (unset: they are logged). Override by merging:
    `{**client_config(...), "error_cb": mine}`. Holds the password, where there is one.
    Raises: BrokerError, TlsFilesError where the settings lack what their security protocol needs.
    """
    config: dict[str, Any] = {
        "bootstrap.servers": address.bootstrap,
        "client.id": "sieis",
        "log.connection.close": False,  # idle connections come and go
        "logger": _LibrdkafkaLog(logging.DEBUG if address.embedded else None),
        "error_cb": handshake or Handshake(),
    }
    if not address.embedded:
        config |= _security(settings)
    else:
        # On loopback a refused connection means "restarted elsewhere": find out at once (default 0.1 to 10 s).
        config |= {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 250}
    return config


def _security(settings: Settings) -> dict[str, str]:
    """librdkafka's TLS and SASL options; nothing is assumed that the settings do not say."""
    protocol = settings.kafka_security_protocol
    if protocol == "plaintext":
        return {}
    config = {"security.protocol": protocol}
    if protocol.startswith("sasl"):
        if not settings.kafka_sasl_username or settings.kafka_sasl_password is None:
            raise BrokerError(
                f"SIEIS_KAFKA_SECURITY_PROTOCOL={protocol} needs SIEIS_KAFKA_SASL_USERNAME and _SASL_PASSWORD"
            )
        config |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.kafka_sasl_password.get_secret_value(),
        }
    return config | tls_config(settings) if protocol.endswith("ssl") else config


def incarnation(
    client: AdminClient | Producer | Consumer,
    settings: Settings,
    topic: str,
    timeout: float = _METADATA_SECONDS,
    handshake: Handshake | None = None,
) -> str:
    """What tells a recreated topic (offsets start at 0 again) from a replay: Kafka's topic id, else the cluster id.

    On Kafka only an AdminClient can ask; for any other client one is made for the call. `handshake` is what takes the
    errors of `client`.
    Raises: BrokerUnavailableError where the broker does not answer, BrokerRefusesError where it will not,
    TopicMissingError where the topic does not exist, BrokerError where the broker knows no topic ids.
    """
    handshake = handshake or Handshake()
    try:
        if settings.embedded_broker:
            found = client.list_topics(topic, timeout=timeout).cluster_id
            if not found:
                raise BrokerUnavailableError("the embedded broker did not tell its cluster id")
            return found
        if not isinstance(client, AdminClient):
            client = AdminClient(client_config(settings, locate(settings), handshake))
        asked = client.describe_topics(TopicCollection([topic]), request_timeout=timeout)
        # librdkafka writes the id with "+" and "/", Kafka's own tools with "-" and "_"; "/" parts what a position is.
        found = str(asked[topic].result().topic_id).translate(_URL_SAFE)
    except KafkaException as error:
        cause: KafkaError = error.args[0]
        if cause.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            raise TopicMissingError(
                f"topic {topic} does not exist on the broker; make it with `sieis setup`"
            ) from error
        raise handshake.failure(cause, f"the broker did not describe topic {topic}", client) from error
    handshake.answered()
    if found in _NO_TOPIC_ID:
        raise BrokerError(
            f"the broker tells no id of topic {topic}: a topic deleted and made again could not be told from a replay. "
            "Update the broker: Kafka has topic ids since 2.8, Redpanda since 25.3"
        )
    return found


class _LibrdkafkaLog:
    """Takes librdkafka's log lines (it calls `log(level, format, facility, client, text)`) to structlog.

    The embedded broker comes and goes by design, so that its connection lines are worth no more than `at_most`.

    A line that only repeats one of the last _REPEATS_SECONDS is counted, not logged: while no broker answers,
    librdkafka starts again from the bootstrap addresses without a pause (its issue 5546), and each refused connection
    is a line: 18 a second and client were measured.
    """

    def __init__(self, at_most: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_most = at_most
        self._clock = clock
        self._said: dict[tuple[str, str, str], tuple[float, int]] = {}  # line -> when logged, repeats since

    def log(self, level: int, _format: str, facility: str, client: str, text: str) -> None:
        level = level if self._at_most is None else min(level, self._at_most)
        line = (facility, client, text.partition(" (after ")[0])  # without how long the attempt took
        now = self._clock()
        at, repeats = self._said.get(line, (-math.inf, 0))
        if now - at < _REPEATS_SECONDS:
            self._said[line] = at, repeats + 1
            return
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said[line] = now, 0
        more = {"repeats": repeats} if repeats else {}
        log.log(level, "librdkafka", facility=facility, client=client, text=text, **more)


def _take_lock(path: Path) -> IO[bytes]:
    lock = path.with_suffix(".lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        published = _read(path)
        where = f" (process {published.pid}, {published.bootstrap})" if published else ""
        raise BrokerRunningError(
            f"a broker already serves {path.parent}{where}; stop that one or set SIEIS_DATA_DIR to another folder"
        ) from None
    return lock


def _make_cluster() -> Producer:
    return Producer({"bootstrap.servers": "embedded:1", "test.mock.num.brokers": 1, "log_level": 0})


def _unused_cluster(make: Callable[[], Producer], past: list[Published]) -> tuple[Producer, Published]:
    """A cluster under an address and an id never used in this data directory.

    A client that outlives the broker would take a new one on the old port for the one it knew, and go on at offsets
    that mean something else there. The id is made from a heap address: without address randomisation it comes back.
    """
    ports, ids = {one.bootstrap for one in past[-100:]}, {one.cluster_id for one in past}
    refused: list[Producer] = []  # kept until the end, so that neither port nor id comes again
    try:
        for _ in range(_ATTEMPTS):
            host = make()
            refused.append(host)
            metadata = host.list_topics(timeout=_METADATA_SECONDS)
            bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
            cluster_id = metadata.cluster_id or ""
            if bootstrap not in ports and cluster_id not in ids:
                refused.remove(host)
                now = dt.datetime.now(dt.UTC)
                return host, Published(bootstrap=bootstrap, cluster_id=cluster_id, pid=os.getpid(), started_at=now)
    except KafkaException as error:
        raise BrokerError(f"the embedded broker did not start: {error.args[0].str()}") from error
    finally:
        for host in refused:
            host.close()
    raise BrokerError(f"the system gave {_ATTEMPTS} ports this data directory has used before; try again")


def _touch(client: Producer, topic: str) -> None:
    """Asking for a topic creates it."""
    try:
        found = client.list_topics(topic, timeout=_METADATA_SECONDS).topics[topic]
    except KafkaException as error:
        raise BrokerError(f"topic {topic} was not created: {error.args[0].str()}") from error
    if found.error is not None:
        raise BrokerError(f"topic {topic} was not created: {found.error.str()}")


def _accepts(bootstrap: str) -> bool:
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
        return True
    return False


def _read(path: Path) -> Published | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Published)
    except (FileNotFoundError, msgspec.MsgspecError):  # a foreign file is replaced at the next start
        return None


def _past_file(path: Path) -> Path:
    return path.with_suffix(".past.json")


def _past(path: Path) -> list[Published]:
    try:
        kept = msgspec.json.decode(_past_file(path).read_bytes(), type=list[Published])
    except (FileNotFoundError, msgspec.MsgspecError):
        kept = []
    last = _read(path)
    return [*kept, last] if last is not None and last not in kept else kept


def _write(path: Path, content: bytes) -> None:
    """Atomic: a reader sees the whole file or none."""
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_bytes(content)
    draft.replace(path)
