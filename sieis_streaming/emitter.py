"""Readings onto the topic: encoding in columns, delivery until acknowledged, following a broker that has moved.

Belongs here: the wire format going out and the producer. Not here: which reading is due when.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import polars as pl
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sieis_platform.errors import FatalError
from sieis_platform.reading import FIELDS
from sieis_platform.settings import Settings
from sieis_streaming.broker import BrokerAddress, client_config, has_moved, locate
from sieis_streaming.refusal import FORBIDDEN, BrokerUnavailableError, Handshake
from sieis_streaming.replay import Cursor

log = structlog.get_logger(__name__)

MAX_OUTSTANDING: Final = 50_000
"""Unacknowledged records at most: half of librdkafka's own queue (100,000), so that it is never full; about 15 MB."""

PRODUCER_CONFIG: Final = {"enable.idempotence": True, "compression.type": "lz4"}
"""How readings go to Kafka, idempotent so that librdkafka's own retries make no duplicates; `sieis setup` tries it."""

_LINGER_MS: Final = 5  # librdkafka's default; batches fill at thousands a second, and it adds 5 ms to a lone reading
_LOOK_SECONDS: Final = 0.2  # how often it is asked whether the embedded broker has moved
_POLL_SECONDS: Final = 0.1

# The same record would be refused again, or the topic is not there for us: a person must act.
_PERMANENT: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)


class DeliveryError(FatalError):
    """The broker refuses the records for good."""


def encode(readings: pl.DataFrame) -> pl.DataFrame:
    """Columns `key` and `value`: each reading as the topic's JSON; values that are null or not finite are left out.

    Numbers are the shortest text that reads back as the same float32; the timestamp is cut to microseconds.
    """
    parts: list[pl.Expr] = [pl.lit('{"mote_id":'), pl.col("mote_id").cast(pl.String)]
    for field in FIELDS:
        number = pl.when(pl.col(field).is_finite()).then(pl.col(field)).cast(pl.String)
        parts.append(pl.concat_str(pl.lit(f',"{field}":'), number).fill_null(""))
    moment = pl.from_epoch(pl.col("timestamp").floordiv(1_000), time_unit="us").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    parts += [pl.lit(',"timestamp":"'), moment, pl.lit('Z"}')]
    return readings.select(key=pl.col("mote_id").cast(pl.String), value=pl.concat_str(parts))


class _Batch:
    """Readings sent together: how many the broker has not answered for, and those it has not taken."""

    __slots__ = ("cursor", "failed", "open", "size")

    def __init__(self, size: int, cursor: Cursor) -> None:
        self.size, self.open, self.cursor = size, size, cursor
        self.failed: list[dict[str, Any]] = []


class Emitter:
    """Sends frames of readings and knows up to where all of them are acknowledged.

    At least once: what was not acknowledged is sent again, to the broker that is there then. One thread at a time.
    """

    def __init__(
        self,
        settings: Settings,
        stop: threading.Event,
        *,
        patience_seconds: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Find the broker and connect.

        `stop` ends every wait. With `patience_seconds`, so long without any acknowledgement is an error; without, it
        waits for ever. `options` override those of librdkafka.
        Raises: BrokerUnavailableError.
        """
        self._settings, self._stop, self._patience = settings, stop, patience_seconds
        self._options = dict(options or {})
        self._topic = settings.kafka_topic
        self._batches: deque[_Batch] = deque()
        self._refused: KafkaError | None = None
        self._handshake = Handshake()
        self._broken = False
        self._last_progress = self._last_look = time.monotonic()
        self.sent = 0
        self.delivered = 0
        self.cursor: Cursor | None = None
        self.address = locate(settings, timeout=30.0 if patience_seconds is None else patience_seconds, stop=stop)
        self._producer = self._connect(self.address)

    @property
    def outstanding(self) -> int:
        """Records sent and not acknowledged."""
        return self.sent - self.delivered

    def send(self, readings: pl.DataFrame) -> bool:
        """Send `readings` (in order, not empty); waits while too many are outstanding. False: stopped before that.

        Raises: as `serve`.
        """
        while self.outstanding and self.outstanding + len(readings) > MAX_OUTSTANDING:
            if self._stop.is_set():
                return False
            self.serve(_POLL_SECONDS)
        if not self.outstanding:
            self._last_progress = time.monotonic()
        encoded = encode(readings)
        last = readings[-1, "timestamp"], readings[-1, "mote_id"]
        batch = _Batch(len(readings), Cursor(*last))
        self._batches.append(batch)
        self.sent += batch.size
        keys, values = encoded["key"].to_list(), encoded["value"].to_list()
        self._produce(batch, [{"key": key, "value": value} for key, value in zip(keys, values, strict=True)])
        return True

    def serve(self, seconds: float = 0.0) -> None:
        """Take delivery reports for up to `seconds`, send again what failed, follow the broker.

        Raises: DeliveryError, BrokerRefusesError, and BrokerUnavailableError once the patience is at an end.
        """
        self._poll(seconds)
        self._handshake.check(self._producer)
        if self._refused is not None:
            if self._refused.code() in FORBIDDEN:
                raise self._handshake.failure(self._refused, f"the broker takes no readings on {self._topic}")
            raise DeliveryError(f"the broker refuses readings on {self._topic}: {self._refused.str()}")
        now = time.monotonic()
        if now - self._last_look >= _LOOK_SECONDS:
            self._last_look = now
            if self._broken or has_moved(self._settings, self.address):
                self._reconnect()
        for batch in self._batches:
            if batch.failed:
                messages, batch.failed = batch.failed, []
                self._produce(batch, messages)
        while self._batches and not self._batches[0].open:
            self.cursor = self._batches.popleft().cursor
        if self._patience is not None and self.outstanding and now - self._last_progress > self._patience:
            raise BrokerUnavailableError(
                f"{self.outstanding} readings without acknowledgement for {self._patience:.0f} s; is the broker there?"
                f"{self._handshake.reason}"
            )

    def _poll(self, seconds: float) -> None:
        """Take delivery reports; a producer that has failed for good is replaced, unless the next would fail too."""
        try:
            self._producer.poll(seconds)
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if cause.code() in FORBIDDEN or cause.code() == KafkaError._UNSUPPORTED_FEATURE:
                self._refused = cause
            self._broken = True

    def flush(self, seconds: float) -> bool:
        """Wait up to `seconds` until everything is acknowledged; whether it is. Raises: as `serve`."""
        deadline = time.monotonic() + seconds
        while self._batches and time.monotonic() < deadline:
            self.serve(_POLL_SECONDS if self.outstanding else 0.0)
        return not self._batches

    def close(self) -> None:
        """Drop the connection with whatever is not acknowledged."""
        self._producer.purge()
        self._producer.close()

    def _connect(self, address: BrokerAddress) -> Producer:
        # The embedded broker takes idempotent batches too, but gains nothing by packing.
        packed = {"compression.type": "none"} if address.embedded else {}
        return Producer(
            {
                **client_config(self._settings, address, self._handshake),
                **PRODUCER_CONFIG,
                "linger.ms": _LINGER_MS,
                **packed,
                **self._options,
            }
        )

    def _reconnect(self) -> None:
        """Give up the connection: all its reports come back as failed, and the next round sends them on the new one."""
        try:
            address = locate(self._settings, timeout=0, stop=self._stop)
        except BrokerUnavailableError:
            return  # looked at again shortly
        log.info("following the broker", bootstrap=address.bootstrap, outstanding=self.outstanding)
        old = self._producer
        old.purge()
        while len(old):
            old.poll(_POLL_SECONDS)
        old.close()
        self.address, self._broken = address, False
        self._producer = self._connect(address)

    def _produce(self, batch: _Batch, messages: list[dict[str, Any]]) -> None:
        taken = self._producer.produce_batch(self._topic, messages, on_delivery=partial(self._report, batch))
        if taken == len(messages):
            return
        for message in messages:  # not taken: librdkafka's queue is full after all, and another round takes them
            error = message.pop("_error", None)
            if error is not None:
                self._failed(batch, error, message)

    def _report(self, batch: _Batch, error: KafkaError | None, message: Message) -> None:
        if error is None:
            batch.open -= 1
            self.delivered += 1
            self._handshake.answered()
            self._last_progress = time.monotonic()
            return
        self._failed(batch, error, {"key": message.key(), "value": message.value()})

    def _failed(self, batch: _Batch, error: KafkaError, message: dict[str, Any]) -> None:
        if error.code() in _PERMANENT or error.code() in FORBIDDEN:
            self._refused = error
        self._broken = self._broken or error.fatal()
        batch.failed.append(message)
