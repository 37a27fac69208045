"""Dead letters: records without meaning, kept on their own topic with the reason, and sent again when mended.

Belongs here: writing, listing and replaying them. Not here: why a record is one (decode).
"""

import contextlib
import datetime as dt
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from sieis_platform.errors import FatalError, RetriableError
from sieis_streaming.decode import DeadLetter
from sieis_streaming.refusal import FORBIDDEN, Handshake

# Longest wait for the broker to acknowledge _CHUNK messages; librdkafka retries inside it.
DELIVERY_SECONDS: Final = 30.0
# A flush may hold twenty times as many, and a slow broker takes them all in time, or says so early. Well below what
# the producer's queue holds (100,000).
_CHUNK: Final = 10_000
# Longest silence while reading a topic to its end before the broker counts as gone.
READ_SECONDS: Final = 10.0

# Whatever was read must be sent on, with our headers. librdkafka refuses more than 1 MB unless told otherwise, and
# counts before it compresses; a broker counts after. 100 MB is what librdkafka receives at most.
# Idempotent: what librdkafka sends again for a lost answer is kept once, in its order.
PRODUCER_CONFIG: Final = {
    "enable.idempotence": True,
    "acks": "all",
    "message.max.bytes": 100_000_000,
    "compression.type": "zstd",
}

_REPLAY_OF = "sieis.replay_of"
_REPLAYED = "sieis.replayed"
_UNKNOWN: Final = dt.datetime.min.replace(tzinfo=dt.UTC)

Headers = list[tuple[str, str | bytes | None]]
_Record = tuple[str, bytes | None, bytes | None, Headers]  # topic, key, value, headers
Status = Literal["open", "replayed", "came_back"]


class DeadLetterDeliveryError(RetriableError):
    """The broker did not acknowledge a message in time; nothing that depends on it may be committed."""


class DeadLetterReadError(RetriableError):
    """The dead letter topic could not be read to its end."""


class DeadLetterNotFoundError(FatalError):
    """No dead letter has this position."""


@dataclass(frozen=True, order=True)
class Position:
    """Where a record was on the broker; written `topic/incarnation/partition/offset`."""

    topic: str
    incarnation: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.incarnation}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """The position written as `text`. Raises: DeadLetterNotFoundError where it is none."""
        parts = text.split("/")
        if len(parts) != 4 or not (parts[2].isdecimal() and parts[3].isdecimal()):
            raise DeadLetterNotFoundError(
                f"{text!r} is not a position (topic/incarnation/partition/offset); see `sieis dlq list`"
            )
        return cls(parts[0], parts[1], int(parts[2]), int(parts[3]))


@dataclass(frozen=True)
class KeptLetter:
    """One dead letter as it lies on the topic."""

    position: Position
    reason: str
    detail: str
    record_time: dt.datetime | None
    dead_since: dt.datetime | None
    key: bytes | None
    value: bytes | None
    replay_of: str | None
    status: Status = "open"
    headers: tuple[tuple[str, str | bytes | None], ...] = field(default=())


class DeadLetterPublisher:
    """Writes dead letters and replays; every publish waits for all its acknowledgements.

    `connect` makes a producer: at once, and again after one has failed for good.
    """

    def __init__(self, connect: Callable[[], Producer], dlq_topic: str) -> None:
        self._connect = connect
        self._producer = connect()
        self._topic = dlq_topic

    def publish(self, letters: Iterable[DeadLetter], topic: str, incarnation: str) -> None:
        """Write `letters` and wait until all are acknowledged.

        Raises: DeadLetterDeliveryError, BrokerRefusesError.
        """
        now = dt.datetime.now(dt.UTC).isoformat()
        self._deliver(
            (self._topic, letter.message.key(), letter.message.value(), _headers(letter, topic, incarnation, now))
            for letter in letters
        )

    def replay(self, letters: Sequence[KeptLetter], topic: str) -> None:
        """Send the original bytes to `topic` again, then mark each as replayed.

        Raises: DeadLetterDeliveryError, BrokerRefusesError.

        Killed between the two, a replay is repeated: identical readings are then dropped as duplicates.
        """
        self._deliver(
            (topic, letter.key, letter.value, [*letter.headers, (_REPLAY_OF, str(letter.position).encode())])
            for letter in letters
        )
        self._deliver(
            (self._topic, str(letter.position).encode(), None, [(_REPLAYED, str(letter.position).encode())])
            for letter in letters
        )

    def _deliver(self, records: Iterable[_Record]) -> None:
        records = iter(records)
        while chunk := list(itertools.islice(records, _CHUNK)):
            self._deliver_chunk(chunk)

    def _deliver_chunk(self, records: Sequence[_Record]) -> None:
        failures: list[KafkaError] = []
        pending = 0

        def delivered(error: KafkaError | None, _message: object) -> None:
            nonlocal pending
            pending -= 1
            if error is not None:
                failures.append(error)

        deadline = time.monotonic() + DELIVERY_SECONDS
        for topic, key, value, headers in records:
            while True:
                try:
                    self._producer.produce(topic, value, key, headers=headers, on_delivery=delivered)
                    pending += 1
                    break
                except BufferError:
                    self._producer.poll(0.1)
                    if time.monotonic() > deadline:
                        raise DeadLetterDeliveryError(
                            "the producer's queue stays full: the broker takes nothing"
                        ) from None
                except KafkaException as error:  # refused before it was sent
                    failures.append(error.args[0])
                    break
        self._producer.flush(max(0.0, deadline - time.monotonic()))
        if any(error.fatal() or error.code() == KafkaError._FATAL for error in failures):
            # An idempotent producer that has lost its place in a partition (its topic made again) refuses for ever.
            self._producer = self._connect()
        for error in failures:
            if error.code() in FORBIDDEN:
                raise Handshake().failure(error, "the broker takes no message that was to be sent on")
        if failures or pending:
            raise DeadLetterDeliveryError(_undelivered(failures, pending))


def _undelivered(failures: Sequence[KafkaError], pending: int) -> str:
    text = f"{len(failures) + pending} message(s) were not acknowledged within {DELIVERY_SECONDS:g} s"
    if any(error.code() == KafkaError.MSG_SIZE_TOO_LARGE for error in failures):
        return f"{text}: one is larger than its topic takes; raise `max.message.bytes` of the topic (`kafka-configs`)"
    return text + (f" ({failures[0].str()})" if failures else "")


def read_all(consumer: Consumer, dlq_topic: str) -> list[KeptLetter]:
    """Every dead letter now on the topic, once each (by position), in the order they died, with its status.

    `consumer` must belong to no group that commits. Raises: DeadLetterReadError, BrokerRefusesError.
    """
    letters: dict[Position, KeptLetter] = {}
    replayed: set[str] = set()
    for message in _read_to_end(consumer, dlq_topic):
        ours = {name: _bytes(value).decode("utf-8", "replace") for name, value in _headers_of(message)}
        if "sieis.position" in ours:
            # What else there may be on the topic must not hide the letters.
            with contextlib.suppress(DeadLetterNotFoundError):
                letter = _kept(message, ours)
                known = letters.get(letter.position, letter)
                letters[letter.position] = min(known, letter, key=_when)
        elif _REPLAYED in ours:
            replayed.add(ours[_REPLAYED])
    came_back = {letter.replay_of for letter in letters.values() if letter.replay_of}
    return [_with_status(letter, replayed, came_back) for letter in sorted(letters.values(), key=_when)]


def to_replay(letters: Iterable[KeptLetter]) -> list[KeptLetter]:
    """What a replay of everything sends: the open ones.

    Not those already replayed, nor a replay that was found bad again: such a record comes back once, not for ever.
    """
    return [letter for letter in letters if letter.status == "open"]


def _when(letter: KeptLetter) -> tuple[dt.datetime, Position]:
    """Each partition of the topic has its own order; those that died in one flush are told apart by position."""
    return letter.dead_since or _UNKNOWN, letter.position


def _with_status(letter: KeptLetter, replayed: set[str], came_back: set[str]) -> KeptLetter:
    status: Status = "open"
    if letter.replay_of:
        status = "came_back"
    elif str(letter.position) in replayed or str(letter.position) in came_back:
        status = "replayed"
    return KeptLetter(**{**letter.__dict__, "status": status})


def _headers(letter: DeadLetter, topic: str, incarnation: str, now: str) -> Headers:
    position = Position(topic, incarnation, letter.partition, letter.offset)
    return [
        *_headers_of(letter.message),
        ("sieis.position", str(position).encode()),
        ("sieis.reason", letter.reason.value.encode()),
        ("sieis.detail", letter.detail.encode()),
        ("sieis.record_ms", str(letter.message.timestamp()[1]).encode()),
        ("sieis.dead_since", now.encode()),
        # Some brokers hand an empty value back as null: which of the two it was is part of the original bytes.
        ("sieis.value", b"null" if letter.message.value() is None else b"bytes"),
    ]


def _kept(message: KafkaMessage, ours: dict[str, str]) -> KeptLetter:
    return KeptLetter(
        position=Position.parse(ours["sieis.position"]),
        reason=ours.get("sieis.reason", ""),
        detail=ours.get("sieis.detail", ""),
        record_time=_record_time(ours.get("sieis.record_ms", "")),
        dead_since=_moment(ours.get("sieis.dead_since", "")),
        key=message.key(),
        value=None if ours.get("sieis.value") == "null" else message.value() or b"",
        replay_of=ours.get(_REPLAY_OF) or None,
        headers=tuple((name, value) for name, value in _headers_of(message) if not name.startswith("sieis.")),
    )


def _record_time(milliseconds: str) -> dt.datetime | None:
    """None where the producer gave no time, or one that no calendar holds."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        if (at := int(milliseconds)) >= 0:
            return dt.datetime.fromtimestamp(at / 1e3, dt.UTC)
    return None


def _moment(text: str) -> dt.datetime | None:
    with contextlib.suppress(ValueError, OverflowError):
        return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    return None


def _headers_of(message: KafkaMessage) -> Headers:
    """Name and value of each header; a name may occur more than once."""
    given = message.headers() or []
    return list(given.items() if isinstance(given, dict) else given)


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _read_to_end(consumer: Consumer, topic: str) -> Iterable[KafkaMessage]:
    try:
        metadata = consumer.list_topics(topic, timeout=READ_SECONDS).topics[topic]
        if metadata.error is not None and metadata.error.code() in FORBIDDEN:
            raise KafkaException(metadata.error)  # else it would look like a topic without letters
        ends: dict[int, int] = {}
        for partition in metadata.partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=READ_SECONDS)
            if high > low:
                ends[partition] = high
                consumer.incremental_assign([TopicPartition(topic, partition, low)])
        last_seen = time.monotonic()
        while ends:
            for message in consumer.consume(1_000, 0.2):
                if (error := message.error()) is not None:
                    if error.code() in FORBIDDEN:
                        raise KafkaException(error)
                    continue
                last_seen = time.monotonic()
                yield message
                partition, offset = message.partition() or 0, message.offset() or 0
                if partition in ends and offset + 1 >= ends[partition]:
                    del ends[partition]
            if time.monotonic() - last_seen > READ_SECONDS:
                raise DeadLetterReadError(
                    f"{topic} could not be read to its end within {READ_SECONDS:g} s of silence; is the broker up?"
                )
    except KafkaException as error:
        cause: KafkaError = error.args[0]
        if cause.code() in FORBIDDEN:
            raise Handshake().failure(cause, f"{topic} could not be read") from error
        raise DeadLetterReadError(f"{topic} could not be read: {cause.str()}; is the broker up?") from error
