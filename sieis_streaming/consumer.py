"""The consumer: one thread a sink, each a member of its own group, so that no store waits for the other.

Belongs here: polling, pausing, backing off, rebalances, graceful stop. Not here: what a flush does (sinks).
"""

import contextlib
import gc
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from sieis_platform.errors import FatalError, RetriableError, SieisError
from sieis_platform.settings import Settings
from sieis_streaming.broker import TopicMissingError, locate
from sieis_streaming.decode import decode
from sieis_streaming.flusher import Flusher
from sieis_streaming.link import BrokerLink
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.places import Places
from sieis_streaming.refusal import FORBIDDEN, BrokerUnavailableError
from sieis_streaming.sinks.base import (
    IncarnationChangedError,
    LogTruncatedError,
    PositionBeyondEndError,
    PositionMovedError,
    Sink,
)

log = structlog.get_logger(__name__)

# A stop must be over within 10 s: the last flush may take and be tried again for this long, the rest is for closing.
_STOP_FLUSH_SECONDS: Final = 7.0
_STOP_LOOK_SECONDS: Final = 0.1
# A store that has not taken a flush in this time beyond a batch read ahead is not merely busy: then its partitions are
# paused and polled on. Not at once, as what librdkafka has fetched of a paused partition is fetched again.
_FULL_SECONDS: Final = 2.0
_LAG_EVERY_SECONDS: Final = 1.0
# librdkafka learns the ends of partitions from fetches, and what is paused is not fetched: then the broker is asked,
# with so much time for all partitions together, as polling waits for it.
_LAG_PAUSED_EVERY_SECONDS: Final = 5.0
_LAG_PAUSED_ANSWER_SECONDS: Final = 1.0
_LOCATE_SECONDS: Final = 1.0
# A topic made again gives no callback. One metadata request in this time is nothing to a broker; what was read of the
# new topic meanwhile is read again from its first record.
_INCARNATION_EVERY_SECONDS: Final = 5.0
_BACKOFF_FIRST_SECONDS: Final = 0.1
_BACKOFF_MOST_SECONDS: Final = 5.0
# A store that asks to be left alone is, but not for so long that nobody remembers.
_RETRY_AFTER_MOST_SECONDS: Final = 60.0
# What librdkafka says where the broker has nothing at a position, or has cut its log below it.
_NO_PLACE: Final = (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION)
# Above what two polls hold (each message is one object to the cycle collector).
_COLLECT_AFTER_OBJECTS: Final = 100_000
_COLLECT_EVERY_SECONDS: Final = 2.0  # at 100,000 records/s about 40 MB of sent requests; a look takes some milliseconds


class ConsumerError(FatalError):
    """This consumer cannot go on for good (a fenced instance)."""


class StoreHangsError(FatalError):
    """A store is still busy with a flush when a stop must be over: the process ends without it."""


class PositionGoneError(RetriableError):
    """The broker deleted records before they were read: take the partitions up anew."""


class _Backoff:
    """Exponential, with full jitter between half and whole of the step."""

    def __init__(self) -> None:
        self._step = _BACKOFF_FIRST_SECONDS
        self._until = 0.0

    def failed(self, error: RetriableError) -> float:
        seconds = self._step * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards nothing
        if error.retry_after_seconds is not None:
            seconds += min(error.retry_after_seconds, _RETRY_AFTER_MOST_SECONDS)
        self._step = min(self._step * 2, _BACKOFF_MOST_SECONDS)
        self._until = time.monotonic() + seconds
        return seconds

    def succeeded(self) -> None:
        self._step, self._until = _BACKOFF_FIRST_SECONDS, 0.0

    def waiting(self) -> bool:
        return time.monotonic() < self._until


class SinkConsumer:
    """Feeds one sink from its own consumer group until stopped."""

    def __init__(self, sink: Sink, link: BrokerLink, settings: Settings, metrics: ConsumerMetrics) -> None:
        self._sink = sink
        self._link = link
        self._settings = settings
        self._metrics = metrics
        self._consumer: Consumer | None = None
        self._owned: list[int] = []
        self._pending: list[int] = []
        self._paused = False
        self._backoff = _Backoff()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"{sink.name}-flush")
        self._flusher = Flusher(sink, self._writer)
        self._failure: FatalError | None = None
        self._lag_at = 0.0
        self._incarnation = ""
        self._look_again_at = 0.0
        self._poll_records = settings.poll_records
        self._stop = threading.Event()
        self._stop_by: float | None = None
        self._starts: dict[int, int] = {}
        self._placeless: dict[int, str] = {}
        self._places = Places(settings, self._link)
        #: Whether a stop has left a flush behind in its thread, which ends when the store answers or gives up.
        self.abandoned = False

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set, then flush, commit and leave the group.

        Raises: FatalError.
        """
        self._stop = stop
        try:
            while not stop.is_set():
                if not self._open(stop):
                    continue
                try:
                    while not stop.is_set() and not self._link.moved():
                        self._step()
                    self._drain(stop)
                except StoreHangsError as error:
                    self._tell_unflushed(str(error))
                finally:
                    self._close()
        finally:
            self._writer.shutdown(wait=not self.abandoned)

    # -- one connection ------------------------------------------------------------------------------------------
    def _open(self, stop: threading.Event) -> bool:
        try:
            self._link.connect(stop, _LOCATE_SECONDS)
        except BrokerUnavailableError as error:
            if not stop.is_set():
                self._count(error)
            return False
        self._consumer = self._link.consumer(self._sink.name)
        self._consumer.subscribe(
            [self._settings.kafka_topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        self._backoff.succeeded()
        log.info("consuming", sink=self._sink.name, broker=self._link.address.bootstrap)
        return True

    def _drain(self, stop: threading.Event) -> None:
        """Store what is buffered before the connection goes: at a stop within its time, at a move until done.

        After a move the old broker's memory is gone: these rows are nowhere but here. Dead letters go to the new.
        """
        if not stop.is_set():
            log.warning("the embedded broker restarted: flushing what the old one gave", sink=self._sink.name)
        reason = ""
        while True:
            if self._stop_left() <= 0:
                self._tell_unflushed(reason)
                return
            try:
                if self._link.moved():
                    self._link.connect_publisher(locate(self._settings, _LOCATE_SECONDS, stop))
                self._flush_now(quiet=self._link.moved())
            except (PositionMovedError, IncarnationChangedError) as error:
                self._count(error)
                return
            except RetriableError as error:
                self._count(error)
                reason = str(error)
                wait_seconds = self._backoff.failed(error)
                if not stop.is_set():
                    stop.wait(wait_seconds)
                else:
                    # Nothing can end this wait early: stop is set already. The end of a stop waits for no store.
                    time.sleep(min(wait_seconds, max(0.0, self._stop_left())))
            else:
                return

    def _stop_left(self) -> float:
        """Seconds that a store may still take; without end while nobody wants to stop."""
        if not self._stop.is_set():
            return math.inf
        if self._stop_by is None:
            self._stop_by = time.monotonic() + _STOP_FLUSH_SECONDS
        return self._stop_by - time.monotonic()

    def _hold(self, done: Callable[[float], object]) -> None:
        """Wait for the sink's thread: `done` waits up to so many seconds and says whether it has ended.

        Raises: StoreHangsError where a stop can wait no longer; from then on the sink is that thread's.
        """
        while not done(_STOP_LOOK_SECONDS):
            if self._stop_left() <= 0:
                self.abandoned = True
                raise StoreHangsError(f"the {self._sink.name} store did not answer within {_STOP_FLUSH_SECONDS:g} s")

    def _tell_unflushed(self, reason: str) -> None:
        log.error(
            "stopped with unflushed records: they are read again at the next start",
            sink=self._sink.name,
            reason=reason,
        )

    def _close(self) -> None:
        self._settle()
        consumer, self._consumer = self._consumer, None
        self._let_go(self._owned)
        self._owned, self._pending, self._paused = [], [], False
        self._metrics.assigned.labels(self._sink.name).set(0)
        if consumer is not None:
            consumer.close()

    # -- one round -----------------------------------------------------------------------------------------------
    def _step(self) -> None:
        assert self._consumer is not None  # noqa: S101 - _open made it
        if not self._may_read():
            return
        messages = self._consumer.consume(self._poll_records, self._settings.poll_seconds)
        if self._failure is not None:
            raise self._failure
        self._link.handshake.check(self._consumer)
        self._poll_records = (
            self._settings.poll_records_loaded
            if len(messages) >= self._settings.poll_records
            else self._settings.poll_records
        )
        self._take(messages)
        if self._backoff.waiting():
            self._report_lag()
            return
        if self._flusher.running and not self._flusher.ready:
            self._report_lag()
            return
        try:
            self._finish()
            if self._pending:
                self._take_over()
            self._check_incarnation()
            if self._placeless:
                self._find_place()
            if self._sink.due():
                self._flusher.start()
        except (PositionMovedError, IncarnationChangedError, PositionGoneError) as error:
            self._count(error)
            self._let_go(self._owned)
            self._pending, self._owned = self._owned, []
        except RetriableError as error:
            self._count(error, retry_seconds=round(self._backoff.failed(error), 2))
            self._pause()
        else:
            if not self._flusher.running:
                self._answered()
        self._report_lag()

    def _may_read(self) -> bool:
        """Whether to poll: not for a moment once a batch was read ahead of a flush, and then on with all paused."""
        full_seconds = self._flusher.full_seconds
        if full_seconds is not None and not self._flusher.wait(_STOP_LOOK_SECONDS):
            if full_seconds < _FULL_SECONDS:
                return False
            self._pause()
        return True

    def _finish(self) -> None:
        """Take the end of the flush that was started, if there is one. Raises: what it raised, StoreHangsError."""
        if self._flusher.running:
            self._commit(self._ended())
            self._answered()

    def _ended(self) -> dict[int, int]:
        """The offsets of the flush that was started, once it has ended. Raises: what it raised, StoreHangsError."""
        self._hold(self._flusher.wait)
        return self._flusher.finish()

    def _flush_now(self, *, quiet: bool = False) -> None:
        """Store all that was read, here and now. Raises: as a sink's flush, StoreHangsError."""
        self._commit(self._ended(), quiet=quiet)
        self._flusher.start()
        self._commit(self._ended(), quiet=quiet)

    def _settle(self) -> None:
        """Wait for the flush under way: what comes next takes its rows from the sink, whatever became of them."""
        if self.abandoned:
            return
        try:
            self._ended()  # not told to Kafka: the partitions may be another's by now
        except RetriableError as error:
            self._count(error)
        except FatalError as error:
            self._failure = error

    def _answered(self) -> None:
        self._backoff.succeeded()
        self._resume()

    def _take(self, messages: list[KafkaMessage]) -> None:
        if not messages:
            return
        good = [message for message in messages if message.error() is None]
        if len(good) < len(messages):
            for message in messages:
                if (error := message.error()) is not None:
                    self._broker_error(error, message)
        # Until the sink has taken the partitions over, what comes is of the assignment before: perhaps of a topic that
        # is no more, under whose successor it would be committed. It is read again from where the sink says.
        if good and not self._pending:
            self._metrics.records_read.labels(self._sink.name).inc(len(good))
            self._flusher.add(decode(good, self._settings.max_skew_seconds))

    def _broker_error(self, error: KafkaError, message: KafkaMessage) -> None:
        if error.code() in _NO_PLACE:
            self._placeless[message.partition() or 0] = error.str()
            return
        self._metrics.errors.labels(self._sink.name, "broker").inc()
        if error.code() in FORBIDDEN:
            raise self._link.failure(
                KafkaException(error), f"the broker refuses the consumer of the {self._sink.name} store"
            )
        if error.fatal():
            raise ConsumerError(f"the consumer of the {self._sink.name} store cannot go on: {error.str()}")
        log.warning(
            "broker error, librdkafka goes on by itself", sink=self._sink.name, error=error.str(), code=error.name()
        )

    # -- partitions ----------------------------------------------------------------------------------------------
    def _take_over(self) -> None:
        """Ask the sink where to read on, and start fetching there."""
        assert self._consumer is not None  # noqa: S101 - _open made it
        topic, pending = self._settings.kafka_topic, self._pending
        incarnation = self._link.incarnation()  # first: were it made again now, the check would notice
        self._incarnation = incarnation
        starts = None
        while starts is None:
            answer = self._writer.submit(self._sink.assign, self._places.ranges(self._consumer, incarnation, pending))
            self._hold(lambda seconds, answer=answer: wait([answer], seconds).done)
            try:
                starts = answer.result()
            except PositionBeyondEndError as error:
                # A process that was frozen between the two looks compares its old end with what others stored since.
                if self._places.ends(self._consumer, error.partition)[1] < error.position:
                    raise
        parts = [TopicPartition(topic, partition, start) for partition, start in starts.items()]
        self._consumer.assign(parts)
        # librdkafka keeps a partition paused beyond its assignment: whoever lost it while a store was down and got it
        # back would never read it again.
        self._consumer.resume(parts)
        self._owned, self._pending, self._paused = pending, [], False
        self._starts, self._placeless = starts, {}
        self._look_again_at = time.monotonic() + _INCARNATION_EVERY_SECONDS
        self._metrics.assigned.labels(self._sink.name).set(len(pending))
        log.info("partitions assigned", sink=self._sink.name, partitions=pending, offsets=starts)

    def _check_incarnation(self) -> None:
        """Once in a while, see whether the topic was deleted, and perhaps made again, under us.

        Then what was read of it is nowhere but here, and stored before anything else.

        Raises: IncarnationChangedError, TopicMissingError; as a sink's flush.
        """
        if self._link.address.embedded or not self._owned:
            return
        # A topic made again has nothing at the old one's positions either.
        if time.monotonic() < self._look_again_at and not self._placeless:
            return
        try:
            current = self._link.incarnation()
        except TopicMissingError:
            self._flush_now(quiet=True)
            raise
        if current == self._incarnation:
            self._sink.confirm()
        else:
            self._flush_now(quiet=True)
            raise IncarnationChangedError(
                f"{self._settings.kafka_topic} was {self._incarnation} and is now {current}: made again under us"
            )
        self._look_again_at = time.monotonic() + _INCARNATION_EVERY_SECONDS

    def _find_place(self) -> None:
        """The broker has nothing where we read on: deleted before it was read, or lost after it was.

        What was read is stored first, as the broker may have it no longer. Then the sink is to find the gap, and only
        where there is one: else new records have got, or will get, positions that were read already.

        Raises: PositionGoneError, LogTruncatedError, BrokerUnavailableError; as a sink's flush.
        """
        assert self._consumer is not None  # noqa: S101 - _open made it
        self._flush_now()
        topic = self._settings.kafka_topic
        for part in self._consumer.position([TopicPartition(topic, partition) for partition in self._placeless]):
            position = part.offset if part.offset >= 0 else self._starts[part.partition]
            low, high = self._places.ends(self._consumer, part.partition)
            if position >= low:
                raise LogTruncatedError(
                    f"{topic} [{part.partition}] was read up to {position}, and now ends at {high} "
                    f"({self._placeless[part.partition]}): the broker lost records that were read already, and gives "
                    "their positions to others, which are not archived. See 'The broker lost archived records' in "
                    "docs/runbook.md before you start this again"
                )
        raise PositionGoneError(f"the broker deleted records of {topic} before they were read: {self._placeless}")

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Nothing is fetched until the sink has said from where: that may take a store that is down right now.
        consumer.assign([])
        self._link.handshake.answered()
        self._forget(self._owned)
        self._placeless = {}
        self._metrics.assigned.labels(self._sink.name).set(0)
        self._pending, self._owned = sorted(part.partition for part in partitions), []

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            if not self.abandoned:
                self._flush_now()
        except RetriableError as error:
            # Unflushed rows are dropped below; the positions have not moved, the next owner reads them.
            self._count(error)
        except FatalError as error:
            self._failure = error
        self._drop(partitions)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log.warning("partitions lost: the session ended without us", sink=self._sink.name)
        self._drop(partitions)

    def _drop(self, partitions: list[TopicPartition]) -> None:
        self._settle()
        gone = [part.partition for part in partitions]
        self._let_go(gone)
        self._owned = [partition for partition in self._owned if partition not in gone]
        self._pending = [partition for partition in self._pending if partition not in gone]
        self._metrics.assigned.labels(self._sink.name).set(len(self._owned))

    def _let_go(self, partitions: Sequence[int]) -> None:
        if not self.abandoned:
            self._sink.revoke(list(partitions))
        self._forget(partitions)
        for partition in partitions:
            self._placeless.pop(partition, None)

    def _commit(self, offsets: dict[int, int], *, quiet: bool = False) -> None:
        """Tell Kafka: a hint for the archive group, the position of the hot group (whose repeats are harmless)."""
        if not offsets:
            return
        assert self._consumer is not None  # noqa: S101 - _open made it
        topic = self._settings.kafka_topic
        for partition, end in offsets.items():
            self._metrics.stored.labels(self._sink.name, partition).set(end)
        places = self._places.stored(self._consumer, offsets)
        if not quiet:
            try:
                self._consumer.commit(
                    offsets=[
                        TopicPartition(topic, partition, place.offset, self._incarnation, place.epoch)
                        for partition, place in places.items()
                    ],
                    asynchronous=False,
                )
            except KafkaException as error:
                self._metrics.errors.labels(self._sink.name, "commit").inc()
                log.warning(
                    "offsets not committed: some records will be read again", sink=self._sink.name, error=str(error)
                )
        self._sink.committed()

    def _pause(self) -> None:
        if not self._paused and self._consumer is not None:
            self._consumer.pause(self._consumer.assignment())
            self._paused = True

    def _resume(self) -> None:
        if self._paused and self._consumer is not None:
            self._consumer.resume(self._consumer.assignment())
            self._paused = False
            self._lag_at = time.monotonic() + _LAG_EVERY_SECONDS  # by then the first fetch has told the ends
            log.info("the store answers again", sink=self._sink.name)

    # -- what is seen from outside -------------------------------------------------------------------------------
    def _count(self, error: SieisError, **more: object) -> None:
        self._metrics.errors.labels(self._sink.name, type(error).__name__).inc()
        log.warning("will be tried again", sink=self._sink.name, kind=type(error).__name__, error=str(error), **more)

    def _forget(self, partitions: Sequence[int]) -> None:
        """Say nothing more of partitions that are not ours: what this process last saw of them is true no longer."""
        for gauge in (self._metrics.lag, self._metrics.end, self._metrics.stored):
            for partition in partitions:
                gauge.remove(self._sink.name, partition)

    def _report_lag(self) -> None:
        if time.monotonic() < self._lag_at or self._consumer is None or not self._owned:
            return
        topic = self._settings.kafka_topic
        parts = self._consumer.position([TopicPartition(topic, partition) for partition in self._owned])
        try:
            highs = self._ends(parts) if self._paused else self._fetched_ends(parts)
        except BrokerUnavailableError as error:
            self._count(error)
            highs = []
        for part, high in zip(parts, highs, strict=False):
            if high >= 0 and part.offset >= 0:
                self._metrics.lag.labels(self._sink.name, part.partition).set(max(0, high - part.offset))
                self._metrics.end.labels(self._sink.name, part.partition).set(high)
        self._lag_at = time.monotonic() + (_LAG_PAUSED_EVERY_SECONDS if self._paused else _LAG_EVERY_SECONDS)

    def _fetched_ends(self, parts: Sequence[TopicPartition]) -> list[int]:
        """The ends as the last fetches told them; negative where none has."""
        assert self._consumer is not None  # noqa: S101 - the caller looked
        return [self._consumer.get_watermark_offsets(part, cached=True)[1] for part in parts]

    def _ends(self, parts: Sequence[TopicPartition]) -> list[int]:
        """The ends as the broker tells them now: of as many of `parts` as it does in time.

        Raises: BrokerUnavailableError.
        """
        assert self._consumer is not None  # noqa: S101 - the caller looked
        deadline = time.monotonic() + _LAG_PAUSED_ANSWER_SECONDS
        highs: list[int] = []
        for part in parts:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                highs.append(self._consumer.get_watermark_offsets(part, timeout=left)[1])
            except KafkaException as error:
                raise self._link.failure(
                    error,
                    "the lag shown is that of before: the broker did not tell the end of "
                    f"{part.topic} [{part.partition}]",
                ) from error
        return highs


def run(consumers: Sequence[Callable[[threading.Event], None]], stop: threading.Event) -> None:
    """Run each consumer in a thread of its own until `stop` is set or one of them fails.

    Raises: whatever the first to fail raised, after the others have stopped gracefully.
    """
    with _rare_collections(), ThreadPoolExecutor(len(consumers), thread_name_prefix="sink") as threads:
        futures = [threads.submit(consumer, stop) for consumer in consumers]
        done: set[Future[None]] = set()
        while not done:
            done, _ = wait(futures, timeout=_COLLECT_EVERY_SECONDS, return_when=FIRST_COMPLETED)
            gc.collect()
        stop.set()
    for future in [*done, *futures]:
        future.result()


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for garbage in cycles once in so many objects, and not among what was there before.

    By default it is looked for every 700 objects: while a poll of 20,000 messages, none of which can be in a cycle, is
    put together, that takes twice the time of the poll itself. `run` looks for it by the clock instead: each request to
    a store leaves a cycle that holds its body, some megabytes.
    """
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, *before[1:])
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
