"""One consumer's connection to the broker: where it is, which incarnation of the topic, and where dead letters go.

Belongs here: what changes when the embedded broker restarts under a running consumer. Not here: polling.
"""

import threading
import time
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from sieis_platform.settings import Settings, Sink
from sieis_streaming.broker import BrokerAddress, client_config, has_moved, incarnation, locate
from sieis_streaming.dead_letters import PRODUCER_CONFIG, DeadLetterPublisher
from sieis_streaming.refusal import BrokerRefusesError, BrokerUnavailableError, Handshake

# A message the broker has not acknowledged within this time fails; the flush that needs it is then tried again.
_DELIVERY_MS = 10_000
# To learn whether a log was cut: a connection, its epoch and one fetch of each partition; some 0.1 s.
_CUT_SECONDS: Final = 10.0
# The code is the same when the retention has just overtaken the position, which is no cut.
_TRUNCATED: Final = KafkaError(KafkaError._LOG_TRUNCATION).str()


class BrokerLink:
    """The broker as one sink's consumer sees it. Connects on `connect`, not before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._address: BrokerAddress | None = None
        self._admin: AdminClient | None = None
        self._publisher: DeadLetterPublisher | None = None
        self.handshake = Handshake()

    def connect(self, stop: threading.Event, timeout: float) -> None:
        """Find the broker. Raises: BrokerUnavailableError."""
        self._address = locate(self._settings, timeout, stop)
        self._admin = None
        self.connect_publisher(self._address)

    def connect_publisher(self, address: BrokerAddress) -> None:
        """Send dead letters to `address`, which may be a newer broker than the one read from."""
        config = self._config(address) | PRODUCER_CONFIG | {"delivery.timeout.ms": _DELIVERY_MS}
        self._publisher = DeadLetterPublisher(lambda: Producer(config), self._settings.kafka_dlq_topic)

    @property
    def address(self) -> BrokerAddress:
        """Address of the broker that is read from."""
        if self._address is None:
            raise RuntimeError("connect first")
        return self._address

    @property
    def publisher(self) -> DeadLetterPublisher:
        """Where dead letters go."""
        if self._publisher is None:
            raise RuntimeError("connect first")
        return self._publisher

    def moved(self) -> bool:
        """Whether the embedded broker has restarted elsewhere."""
        return has_moved(self._settings, self.address)

    def incarnation(self) -> str:
        """Incarnation of the topic that is read from.

        Raises: BrokerUnavailableError, BrokerRefusesError, TopicMissingError.
        """
        if self.address.cluster_id is not None:
            # The embedded broker never reuses an address: whoever is connected to this one reads this incarnation. And
            # a flush must not wait for a broker that is gone for good.
            return self.address.cluster_id
        admin = self._admin  # of this call: a sink's flush asks from a thread of its own
        if admin is None:
            admin = self._admin = AdminClient(self._config(self.address))
        try:
            return incarnation(admin, self._settings, self._settings.kafka_topic, handshake=self.handshake)
        except BrokerUnavailableError:
            # Of several brokers it asks the one that was the controller when it connected, and where that one died it
            # waits for its return, connecting thousands of times a second. A new client asks any of them who it is.
            self._admin = None
            raise

    def failure(self, error: KafkaException, what: str) -> BrokerRefusesError | BrokerUnavailableError:
        """The error to raise where `what` ("the broker did not ...") came of `error`."""
        return self.handshake.failure(error.args[0], what)

    def cut(self, places: dict[int, tuple[int, int]]) -> set[int]:
        """The partitions whose log was cut, and perhaps filled anew, below these (offset, leader's epoch when read).

        librdkafka has the broker compare epochs only where a client learns of a partition: this takes a client of its
        own, and until each partition has told that, a record, or its end. Raises: BrokerUnavailableError.
        """
        config = self._config(self.address) | {
            "group.id": f"{self._settings.kafka_group}.looking",  # never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "queued.min.messages": 1,
            "fetch.wait.max.ms": 10,
        }
        topic, found = self._settings.kafka_topic, set()
        silent = set(places)
        looking = Consumer(config)
        try:
            looking.assign(
                [TopicPartition(topic, part, offset, leader_epoch=epoch) for part, (offset, epoch) in places.items()]
            )
            deadline = time.monotonic() + _CUT_SECONDS
            while silent:
                if time.monotonic() > deadline:
                    raise BrokerUnavailableError(f"the broker did not tell whether {topic} was cut: {sorted(silent)}")
                message = looking.poll(0.1)
                if message is None or (partition := message.partition()) not in silent:
                    continue
                error = message.error()
                if error is not None and error.code() not in (KafkaError._AUTO_OFFSET_RESET, KafkaError._PARTITION_EOF):
                    continue
                if error is not None and _TRUNCATED in error.str():
                    found.add(partition)
                silent.discard(partition)
                looking.pause([TopicPartition(topic, partition)])  # else it is fetched on, before those still silent
        finally:
            looking.close()
        return found

    def consumer(self, sink: Sink) -> Consumer:
        """A member of the group of `sink`, not yet subscribed."""
        settings = self._settings
        session_ms = int(settings.session_timeout_seconds * 1_000)
        return Consumer(
            self._config(self.address)
            | {
                "group.id": f"{settings.kafka_group}.{sink}",
                # Where the broker has nothing at a position (its retention was faster, or it lost records), the hot
                # store reads all there is, which repeats nothing; the archive must find out which of the two it was.
                "auto.offset.reset": "earliest" if sink == "hot" else "error",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "session.timeout.ms": session_ms,
                "heartbeat.interval.ms": max(100, session_ms // 10),
                "partition.assignment.strategy": "range",
                # Bounds what librdkafka holds ahead of us, per consumer, whatever the lag.
                "queued.max.messages.kbytes": 65_536,
                "fetch.wait.max.ms": 50,
                # How long a full queue is left alone: by default a second, in which it is worked off three times over.
                "fetch.queue.backoff.ms": 20,
                "topic.metadata.refresh.interval.ms": 5_000,
            }
        )

    def _config(self, address: BrokerAddress) -> dict[str, Any]:
        return client_config(self._settings, address, self.handshake)
