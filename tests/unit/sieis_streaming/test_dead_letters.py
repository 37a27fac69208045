"""Dead letters on a real broker: kept to the byte, listed once, sent again, and back once at most."""

import datetime as dt
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from sieis_platform.errors import RetriableError
from sieis_platform.settings import Settings
from sieis_streaming import dead_letters
from sieis_streaming.broker import client_config, locate
from sieis_streaming.dead_letters import (
    PRODUCER_CONFIG,
    DeadLetterDeliveryError,
    DeadLetterNotFoundError,
    DeadLetterPublisher,
    DeadLetterReadError,
    KeptLetter,
    Position,
    read_all,
    to_replay,
)
from sieis_streaming.decode import DeadLetter, Reason, decode
from tests.unit.sieis_streaming.conftest import Record, Topic

INCARNATION = "one"
RECORD_MS = 1_771_545_599_123

Kept = Callable[[], list[KeptLetter]]


@pytest.fixture
def publisher(topic: Topic) -> DeadLetterPublisher:
    producer = Producer(client_config(topic.settings, locate(topic.settings)) | {"linger.ms": 0})
    producer.list_topics(topic.settings.kafka_dlq_topic, timeout=5)  # makes it
    return DeadLetterPublisher(lambda: producer, topic.settings.kafka_dlq_topic)


def new_reader(settings: Settings) -> Consumer:
    config = client_config(settings, locate(settings))
    return Consumer(config | {"group.id": "reader", "enable.auto.commit": False, "fetch.wait.max.ms": 5})


@pytest.fixture
def kept(topic: Topic) -> Kept:
    """All dead letters now on the topic."""

    def read() -> list[KeptLetter]:
        consumer = new_reader(topic.settings)
        try:
            return read_all(consumer, topic.settings.kafka_dlq_topic)
        finally:
            consumer.close()

    return read


def die(topic: Topic, publisher: DeadLetterPublisher, *records: Record) -> list[DeadLetter]:
    """Send records through the broker and publish those without meaning."""
    dead = decode(topic.through(*records), 300).dead
    publisher.publish(dead, topic.settings.kafka_topic, INCARNATION)
    return dead


def position(topic: Topic, offset: int) -> Position:
    return Position(topic.settings.kafka_topic, INCARNATION, 0, offset)


# -- kept ------------------------------------------------------------------------------------------------------------
CONTENTS: list[tuple[bytes | None, bytes | None]] = [
    (b"\xff\x00poison\n", b"\xfe\x00"),
    (b"", b""),
    (None, None),
    (b"{", None),
    (b"", b"7"),
    (None, b"7"),
]


@pytest.mark.parametrize(("value", "key"), CONTENTS)
def test_key_and_value_are_kept_to_the_byte(
    topic: Topic, publisher: DeadLetterPublisher, kept: Kept, value: bytes | None, key: bytes | None
) -> None:
    (message,) = topic.through(Record(value, key, record_ms=RECORD_MS))
    decoded = decode([message], 300)
    publisher.publish(decoded.dead, topic.settings.kafka_topic, INCARNATION)
    (letter,) = kept()
    # What the embedded broker handed over is the original: it may give an empty value back as null.
    assert (letter.value, letter.key) == (message.value(), message.key())
    if value:
        assert letter.value == value


def test_an_empty_value_and_no_value_are_told_apart(topic: Topic, publisher: DeadLetterPublisher, kept: Kept) -> None:
    class Handed:
        """A message as Kafka hands it over; the embedded broker turns an empty value into none."""

        def __init__(self, value: bytes | None, offset: int) -> None:
            self._value, self._offset = value, offset

        def value(self) -> bytes | None:
            return self._value

        def offset(self) -> int:
            return self._offset

        def partition(self) -> int:
            return 0

        def key(self) -> None:
            return None

        def headers(self) -> None:
            return None

        def timestamp(self) -> tuple[int, int]:
            return 1, RECORD_MS

    letters = [
        DeadLetter(Reason.EMPTY, "", Handed(value, offset))  # pyright: ignore[reportArgumentType]
        for offset, value in enumerate([b"", None])
    ]
    publisher.publish(letters, topic.settings.kafka_topic, INCARNATION)
    assert {letter.position.offset: letter.value for letter in kept()} == {0: b"", 1: None}


def test_it_says_why_where_and_when(topic: Topic, publisher: DeadLetterPublisher, kept: Kept) -> None:
    before = dt.datetime.now(dt.UTC)
    die(topic, publisher, Record(b'{"mote_id": 0, "timestamp": "2026-02-19T00:00:00Z"}', record_ms=RECORD_MS))
    (letter,) = kept()
    assert letter.position == position(topic, 0)
    assert (letter.reason, letter.status, letter.replay_of) == ("not_a_reading", "open", None)
    assert "mote_id" in letter.detail
    assert letter.record_time == dt.datetime.fromtimestamp(RECORD_MS / 1e3, dt.UTC)
    assert letter.dead_since is not None
    assert before <= letter.dead_since <= dt.datetime.now(dt.UTC)


def test_headers_are_kept_as_they_were_those_of_one_name_and_without_value_too(
    topic: Topic, publisher: DeadLetterPublisher, kept: Kept
) -> None:
    headers: list[tuple[str, str | bytes | None]] = [("a", b"1"), ("b", b"\xff"), ("a", b"2"), ("c", None), ("d", b"")]
    die(topic, publisher, Record(b"x", headers=headers))
    (letter,) = kept()
    assert list(letter.headers) == headers
    publisher.replay([letter], topic.settings.kafka_topic)
    (again,) = topic.read(1)
    assert (again.headers() or [])[: len(headers)] == headers


def test_a_record_time_that_no_calendar_holds_does_not_hide_the_letters(
    topic: Topic, publisher: DeadLetterPublisher, kept: Kept
) -> None:
    die(topic, publisher, Record(b"x", record_ms=2**62), Record(b"y", record_ms=RECORD_MS))
    times = {letter.value: letter.record_time for letter in kept()}
    assert times[b"x"] is None
    assert times[b"y"] is not None


def test_foreign_messages_on_the_topic_do_not_hide_the_letters(
    topic: Topic, publisher: DeadLetterPublisher, kept: Kept
) -> None:
    producer = Producer(client_config(topic.settings, locate(topic.settings)))
    foreign: list[list[tuple[str, str | bytes | None]]] = [
        [],
        [("sieis.position", b"nowhere")],
        [("sieis.position", b"t/i/0/0"), ("sieis.record_ms", b"soon"), ("sieis.dead_since", b"\xff")],
        [("sieis.position", b"t/i/0/1"), ("sieis.dead_since", b"2026-01-01T00:00:00")],
    ]
    for headers in foreign:
        producer.produce(topic.settings.kafka_dlq_topic, b"foreign", headers=headers)
    producer.flush(10)
    die(topic, publisher, Record(b"x"))
    assert position(topic, 0) in [letter.position for letter in kept()]


def test_a_record_that_bears_our_own_headers_is_a_letter_all_the_same(
    topic: Topic, publisher: DeadLetterPublisher, kept: Kept
) -> None:
    forged: list[tuple[str, str | bytes | None]] = [("sieis.position", b"t/i/9/9"), ("sieis.replayed", b"t/i/0/0")]
    die(topic, publisher, Record(b"x", headers=forged))
    (letter,) = kept()
    assert (letter.position, letter.status) == (position(topic, 0), "open")


def test_published_twice_it_is_listed_once(topic: Topic, publisher: DeadLetterPublisher, kept: Kept) -> None:
    dead = die(topic, publisher, Record(b"x"), Record(b"y"))
    publisher.publish(dead, topic.settings.kafka_topic, INCARNATION)  # killed before the commit: published again
    assert [letter.position.offset for letter in kept()] == [0, 1]
    publisher.publish(dead, topic.settings.kafka_topic, "two")  # the same offsets of a recreated topic are others
    assert len(kept()) == 4


def test_they_are_listed_in_the_order_they_died_whatever_partition_keeps_them(
    topic: Topic, publisher: DeadLetterPublisher, kept: Kept
) -> None:
    for first in range(0, 12, 3):
        die(topic, publisher, *(Record(b"x", b"%d" % number) for number in range(first, first + 3)))
    assert [letter.position.offset for letter in kept()] == list(range(12))


def test_an_empty_topic_has_none(kept: Kept, publisher: DeadLetterPublisher) -> None:
    assert kept() == []


# -- sent again ------------------------------------------------------------------------------------------------------
def test_a_replay_sends_the_original_bytes_and_says_of_what(
    topic: Topic, publisher: DeadLetterPublisher, kept: Kept
) -> None:
    die(topic, publisher, Record(b"\xff", b"7", [("trace", b"abc")]), Record(None, b"8"))
    publisher.replay(to_replay(kept()), topic.settings.kafka_topic)
    again = {message.key(): message for message in topic.read(2)}
    assert again[b"7"].value() == b"\xff"
    assert again[b"8"].value() is None
    assert again[b"7"].headers() == [("trace", b"abc"), ("sieis.replay_of", str(position(topic, 0)).encode())]
    assert [letter.status for letter in kept()] == ["replayed", "replayed"]
    assert to_replay(kept()) == []


def test_what_is_still_bad_comes_back_once_and_not_again_unless_named(
    topic: Topic, publisher: DeadLetterPublisher, kept: Kept
) -> None:
    def send_again_and_die(letters: list[KeptLetter]) -> None:
        publisher.replay(letters, topic.settings.kafka_topic)
        dead = decode(topic.read(len(letters)), 300).dead
        publisher.publish(dead, topic.settings.kafka_topic, INCARNATION)

    die(topic, publisher, Record(b"poison", b"1"))
    send_again_and_die(to_replay(kept()))
    first, back = sorted(kept(), key=lambda letter: letter.replay_of is not None)
    assert (first.status, back.status) == ("replayed", "came_back")
    assert back.replay_of == str(first.position)
    assert back.value == b"poison"
    assert to_replay(kept()) == []

    send_again_and_die([back])  # named: whatever its status
    letters = kept()
    assert sorted(letter.status for letter in letters) == ["came_back", "came_back", "replayed"]
    (newest,) = [letter for letter in letters if letter.replay_of == str(back.position)]
    assert newest.headers == ()
    assert to_replay(letters) == []


def test_killed_between_sending_and_marking_what_came_back_tells_that_it_was_sent(
    topic: Topic, publisher: DeadLetterPublisher, kept: Kept
) -> None:
    die(topic, publisher, Record(b"poison", b"1"))
    (letter,) = kept()
    topic.send(Record(letter.value, letter.key, [("sieis.replay_of", str(letter.position).encode())]))
    publisher.publish(decode(topic.read(1), 300).dead, topic.settings.kafka_topic, INCARNATION)
    assert sorted(one.status for one in kept()) == ["came_back", "replayed"]


# -- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text", ["", "a", "a/b/c/d", "a/b/0", "a/b/0/1/2", "a/b/-1/0", "a/b/0/1.5", "../../etc/passwd"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(DeadLetterNotFoundError, match="sieis dlq list"):
        Position.parse(text)


def test_a_position_survives_being_written() -> None:
    one = Position("sensor_readings", "q-Zb_x", 5, 123_456_789_012)
    assert Position.parse(str(one)) == one


@pytest.fixture
def nowhere() -> Iterator[Producer]:
    """A producer whose broker never answers, and that gives up at once."""
    producer = Producer({"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 100, "log_level": 0})
    yield producer
    producer.purge()


def test_without_an_acknowledgement_it_is_a_retriable_error(topic: Topic, nowhere: Producer) -> None:
    dead = decode(topic.through(Record(b"x"), Record(b"y")), 300).dead
    with pytest.raises(DeadLetterDeliveryError, match="2 message"):
        DeadLetterPublisher(lambda: nowhere, topic.settings.kafka_dlq_topic).publish(dead, "t", INCARNATION)
    assert issubclass(DeadLetterDeliveryError, RetriableError)


def test_a_record_of_any_size_that_could_be_read_is_kept(topic: Topic, kept: Kept) -> None:
    config = client_config(topic.settings, locate(topic.settings))
    value = b"[" + b"1," * 1_500_000
    with_room = Producer(config | {"message.max.bytes": 5_000_000, "compression.type": "lz4"})
    with_room.produce(topic.settings.kafka_topic, value, partition=0)
    assert not with_room.flush(10)
    publisher = DeadLetterPublisher(lambda: Producer(config | PRODUCER_CONFIG), topic.settings.kafka_dlq_topic)
    publisher.publish(decode(topic.read(1), 300).dead, topic.settings.kafka_topic, INCARNATION)
    (letter,) = kept()
    assert letter.value == value


def test_many_are_sent_in_pieces_each_with_its_own_time(
    topic: Topic, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_CHUNK", 4)
    given: list[float] = []

    class Slow(Producer):
        """Takes twenty seconds of each piece's thirty."""

        def flush(self, timeout: float = -1) -> int:
            given.append(timeout)
            now = dead_letters.time.monotonic()
            monkeypatch.setattr(dead_letters.time, "monotonic", lambda: now + 20)
            return super().flush(10)

    config = client_config(topic.settings, locate(topic.settings)) | PRODUCER_CONFIG
    publisher = DeadLetterPublisher(lambda: Slow(config), topic.settings.kafka_dlq_topic)
    dead = decode(topic.through(*(Record(b"%d?" % number) for number in range(10))), 300).dead
    publisher.publish(dead, topic.settings.kafka_topic, INCARNATION)
    monkeypatch.undo()
    assert given == pytest.approx([dead_letters.DELIVERY_SECONDS] * 3, abs=1)
    assert [letter.value for letter in kept()] == [b"%d?" % number for number in range(10)]


def test_a_producer_that_failed_for_good_is_replaced(topic: Topic, kept: Kept) -> None:
    made: list[Producer] = []

    class Fenced(Producer):
        """Refuses everything from the start, as one does that has lost its place in a partition."""

        def produce(self, *_: object, **__: object) -> None:
            raise KafkaException(KafkaError(KafkaError._FATAL, "out of sequence", fatal=True))

    def connect() -> Producer:
        made.append((Fenced if not made else Producer)(client_config(topic.settings, locate(topic.settings))))
        return made[-1]

    publisher = DeadLetterPublisher(connect, topic.settings.kafka_dlq_topic)
    dead = decode(topic.through(Record(b"x")), 300).dead
    with pytest.raises(DeadLetterDeliveryError, match="out of sequence"):
        publisher.publish(dead, topic.settings.kafka_topic, INCARNATION)
    publisher.publish(dead, topic.settings.kafka_topic, INCARNATION)
    assert len(made) == 2
    assert [letter.value for letter in kept()] == [b"x"]


def test_what_is_sent_again_for_a_lost_answer_is_kept_once() -> None:
    assert PRODUCER_CONFIG["enable.idempotence"] is True


def test_a_record_too_large_for_the_topic_is_a_retriable_error_that_says_what_to_do(topic: Topic) -> None:
    config = client_config(topic.settings, locate(topic.settings)) | {"message.max.bytes": 1_000}
    dead = decode(topic.through(Record(b"x" * 2_000), Record(b"y")), 300).dead
    with pytest.raises(DeadLetterDeliveryError, match=r"1 message.*raise `max\.message\.bytes`"):
        DeadLetterPublisher(lambda: Producer(config), topic.settings.kafka_dlq_topic).publish(dead, "t", INCARNATION)


def test_a_broker_that_is_gone_cannot_be_read(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "READ_SECONDS", 0.2)
    consumer = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "x", "log_level": 0})
    try:
        with pytest.raises(DeadLetterReadError, match="is the broker up"):
            read_all(consumer, topic.settings.kafka_dlq_topic)
    finally:
        consumer.close()
