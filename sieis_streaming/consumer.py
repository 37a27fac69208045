"""The consumer: one thread a sink, each a member of its own group, so that no store waits for the other.

Belongs here: polling, pausing, backing off, rebalances, graceful stop. Not here: what a flush does (sinks).
"""

import contextlib
import gc
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final

import structlog
from confluent_kafka import OFFSET_STORED, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from sieis_platform.errors import FatalError, RetriableError, SieisError
from sieis_platform.settings import Settings
from sieis_streaming.broker import locate
from sieis_streaming.decode import decode
from sieis_streaming.flusher import Flusher
from sieis_streaming.link import BrokerLink
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.refusal import FORBIDDEN, BrokerUnavailableError
from sieis_streaming.sinks.base import IncarnationChangedError, OffsetRange, PositionMovedError, Sink

log = structlog.get_logger(__name__)

# A stop must be over within 10 s: the last flush may be tried again for this long, leaving the rest to close.
_STOP_FLUSH_SECONDS: Final = 7.0
_WATERMARK_SECONDS: Final = 5.0
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
# Above what two polls hold (each message is one object to the cycle collector).
_COLLECT_AFTER_OBJECTS: Final = 100_000
_COLLECT_EVERY_SECONDS: Final = 2.0  # at 100,000 records/s about 40 MB of sent requests; a look takes some milliseconds


class ConsumerError(FatalError):
    """This consumer cannot go on for good (a fenced instance)."""


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

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set, then flush, commit and leave the group.

        Raises: FatalError.
        """
        with self._writer:
            while not stop.is_set():
                if not self._open(stop):
                    continue
                try:
                    while not stop.is_set() and not self._link.moved():
                        self._step()
                    self._drain(stop)
                finally:
                    self._close()

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
        deadline = time.monotonic() + _STOP_FLUSH_SECONDS
        if not stop.is_set():
            log.warning("the embedded broker restarted: flushing what the old one gave", sink=self._sink.name)
        while True:
            if stop.is_set() and time.monotonic() > deadline:
                log.error("stopped with unflushed records: they are read again at the next start", sink=self._sink.name)
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
                wait_seconds = self._backoff.failed(error)
                if not stop.is_set():
                    deadline = time.monotonic() + _STOP_FLUSH_SECONDS
                    stop.wait(wait_seconds)
                else:
                    # Nothing can end this wait early: stop is set already. The end of a stop waits for no store.
                    time.sleep(min(wait_seconds, max(0.0, deadline - time.monotonic())))
            else:
                return

    def _close(self) -> None:
        self._settle()
        consumer, self._consumer = self._consumer, None
        self._sink.revoke(self._owned)
        self._forget(self._owned)
        self._owned, self._pending, self._paused = [], [], False
        self._metrics.assigned.labels(self._sink.name).set(0)
        if consumer is not None:
            consumer.close()

    # -- one round -----------------------------------------------------------------------------------------------
    def _step(self) -> None:
        assert self._consumer is not None  # noqa: S101 - _open made it
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
            if self._sink.due():
                self._flusher.start()
        except (PositionMovedError, IncarnationChangedError) as error:
            self._count(error)
            self._sink.revoke(self._owned)
            self._forget(self._owned)
            self._pending, self._owned = self._owned, []
        except RetriableError as error:
            self._count(error, retry_seconds=round(self._backoff.failed(error), 2))
            self._pause()
        else:
            if not self._flusher.running:
                self._answered()
        self._report_lag()

    def _finish(self) -> None:
        """Take the end of the flush under way, if there is one. Raises: what it raised."""
        if self._flusher.running:
            self._commit(self._flusher.finish())
            self._answered()

    def _flush_now(self, *, quiet: bool = False) -> None:
        """Store all that was read, here and now. Raises: as a sink's flush."""
        self._commit(self._flusher.finish(), quiet=quiet)
        self._commit(self._sink.flush(), quiet=quiet)

    def _settle(self) -> None:
        """Wait for the flush under way: what comes next takes its rows from the sink, whatever became of them."""
        try:
            self._flusher.finish()  # not told to Kafka: the partitions may be another's by now
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
                    self._broker_error(error)
        # Until the sink has taken the partitions over, what comes is of the assignment before: perhaps of a topic that
        # is no more, under whose successor it would be committed. It is read again from where the sink says.
        if good and not self._pending:
            self._metrics.records_read.labels(self._sink.name).inc(len(good))
            self._flusher.add(decode(good, self._settings.max_skew_seconds))

    def _broker_error(self, error: KafkaError) -> None:
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
        self._incarnation = self._link.incarnation()  # first: were it made again now, the check would notice
        try:
            ranges = {
                partition: OffsetRange(
                    *self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_WATERMARK_SECONDS)
                )
                for partition in pending
            }
        except KafkaException as error:
            raise self._link.failure(error, f"the broker did not tell the ends of {topic}") from error
        starts = self._sink.assign(ranges) or self._starts_of_group(ranges)
        parts = [TopicPartition(topic, partition, starts.get(partition, OFFSET_STORED)) for partition in pending]
        self._consumer.assign(parts)
        # librdkafka keeps a partition paused beyond its assignment: whoever lost it while a store was down and got it
        # back would never read it again.
        self._consumer.resume(parts)
        self._owned, self._pending, self._paused = pending, [], False
        self._look_again_at = time.monotonic() + _INCARNATION_EVERY_SECONDS
        self._metrics.assigned.labels(self._sink.name).set(len(pending))
        log.info("partitions assigned", sink=self._sink.name, partitions=pending, offsets=starts or "of the group")

    def _starts_of_group(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
        """The first record of each partition whose committed offset belongs to a topic deleted since.

        A commit carries the incarnation as its metadata: offsets may outlive their topic.
        """
        assert self._consumer is not None  # noqa: S101 - _open made it
        topic = self._settings.kafka_topic
        try:
            committed = self._consumer.committed(
                [TopicPartition(topic, partition) for partition in ranges], timeout=_WATERMARK_SECONDS
            )
        except KafkaException as error:
            raise self._link.failure(error, "the broker did not tell the group's offsets") from error
        return {
            part.partition: ranges[part.partition].low
            for part in committed
            if part.offset >= 0 and part.metadata and part.metadata != self._incarnation
        }

    def _check_incarnation(self) -> None:
        """Raises: IncarnationChangedError, once in a while, where the topic was deleted and made again under us."""
        if self._link.address.embedded or not self._owned or time.monotonic() < self._look_again_at:
            return
        current = self._link.incarnation()
        if current != self._incarnation:
            raise IncarnationChangedError(
                f"{self._settings.kafka_topic} was {self._incarnation} and is now {current}: made again under us"
            )
        self._look_again_at = time.monotonic() + _INCARNATION_EVERY_SECONDS

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Nothing is fetched until the sink has said from where: that may take a store that is down right now.
        consumer.assign([])
        self._link.handshake.answered()
        self._forget(self._owned)
        self._metrics.assigned.labels(self._sink.name).set(0)
        self._pending, self._owned = sorted(part.partition for part in partitions), []

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
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
        self._sink.revoke(gone)
        self._forget(gone)
        self._owned = [partition for partition in self._owned if partition not in gone]
        self._pending = [partition for partition in self._pending if partition not in gone]
        self._metrics.assigned.labels(self._sink.name).set(len(self._owned))

    def _commit(self, offsets: dict[int, int], *, quiet: bool = False) -> None:
        """Tell Kafka: a hint for the archive group, the position of the hot group (whose repeats are harmless)."""
        if not offsets:
            return
        assert self._consumer is not None  # noqa: S101 - _open made it
        topic = self._settings.kafka_topic
        for partition, end in offsets.items():
            self._metrics.stored.labels(self._sink.name, partition).set(end)
        if not quiet:
            try:
                self._consumer.commit(
                    offsets=[
                        TopicPartition(topic, partition, end, metadata=self._incarnation)
                        for partition, end in offsets.items()
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
