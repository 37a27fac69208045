"""The consumer on a real broker: a store that fails pauses, is tried again and catches up; no store waits for another.

The sinks that record what they are given are there to inject faults; the stores' own sinks are tested with real stores.
"""

import gc
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import polars as pl
import pytest
import structlog
from confluent_kafka import Consumer, TopicPartition

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings, Sink
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.sqlite import SqliteHotStore
from sieis_streaming.broker import EmbeddedBroker, client_config, locate
from sieis_streaming.consumer import SinkConsumer, run
from sieis_streaming.decode import Decoded
from sieis_streaming.link import BrokerLink
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.sinks import base
from sieis_streaming.sinks.archive import ArchiveSink
from sieis_streaming.sinks.base import IncarnationChangedError, OffsetRange, PositionMovedError
from sieis_streaming.sinks.hot import HotSink
from tests.faults.harness import eventually, platform
from tests.unit.sieis_streaming.conftest import Record, Topic

Offset = tuple[int, int]


class RecordingSink(base.Sink):
    """Keeps what is flushed in memory, in the order it came; `fault` is asked before each flush and may raise."""

    def __init__(self, name: Sink = "archive") -> None:
        self._name: Sink = name
        self.stored: list[Offset] = []
        self.assigned: list[dict[int, OffsetRange]] = []
        self.starts: dict[int, int] = {}
        self.fault: Callable[[], None] = lambda: None
        self._buffer: list[Offset] = []

    @property
    def name(self) -> Sink:
        return self._name

    @property
    def ahead_rows(self) -> int:
        return 1_000

    def assign(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
        self.assigned.append(ranges)
        group = {
            part: low if committed is None else committed for part, (low, _high, committed, _cut) in ranges.items()
        }
        return group | self.starts

    def revoke(self, partitions: list[int]) -> None:
        self._buffer = [one for one in self._buffer if one[0] not in partitions]

    def add(self, decoded: Decoded) -> None:
        self._buffer += decoded.rows.select("source_partition", "source_offset").rows()

    def confirm(self) -> None:
        pass

    def due(self) -> bool:
        return bool(self._buffer)

    def flush(self) -> dict[int, int]:
        self.fault()
        done, self._buffer = self._buffer, []
        self.stored += done
        return {partition: offset + 1 for partition, offset in sorted(done)}

    def committed(self) -> None:
        pass


class StoreDownError(RetriableError):
    pass


class StoreBrokenError(FatalError):
    pass


def raising(error: Exception) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


def consumer(sink: base.Sink, settings: Settings, metrics: ConsumerMetrics) -> SinkConsumer:
    return SinkConsumer(sink, BrokerLink(settings), settings, metrics)


class Running:
    """Consumers in a thread, as `sieis consume` runs them; `error` is what ended them."""

    def __init__(self, consumers: Sequence[SinkConsumer]) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=([one.run for one in consumers],))
        self._thread.start()

    def _run(self, consumers: Sequence[Callable[[threading.Event], None]]) -> None:
        try:
            run(consumers, self.stop)
        except FatalError as error:
            self.error = error

    def finish(self) -> None:
        self.stop.set()
        self.join()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive(), "the consumers did not stop"


@contextmanager
def running(*consumers: SinkConsumer) -> Iterator[Running]:
    made = Running(consumers)
    try:
        yield made
    finally:
        made.finish()


def readings(first: int, count: int) -> list[Record]:
    now = time.time()
    stamps = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 7_200 + n)) for n in range(first, first + count))
    return [
        Record(b'{"mote_id": %d, "timestamp": "%s", "light": %d}' % (1 + n % 9, stamp.encode(), n))
        for n, stamp in enumerate(stamps, first)
    ]


def committed(topic: Topic, group: str) -> dict[int, int]:
    config = client_config(topic.settings, locate(topic.settings))
    looking = Consumer(config | {"group.id": f"{topic.settings.kafka_group}.{group}"})
    try:
        parts = looking.committed([TopicPartition(topic.settings.kafka_topic, part) for part in range(4)], timeout=10)
        return {part.partition: part.offset for part in parts if part.offset >= 0}
    finally:
        looking.close()


def test_a_store_that_is_down_pauses_and_everything_arrives_once_it_answers(topic: Topic) -> None:
    sink, metrics = RecordingSink(), ConsumerMetrics()
    tries: list[float] = []

    def down() -> None:
        tries.append(time.monotonic())
        raise StoreDownError("the store is down")

    sink.fault = down
    topic.send(*readings(0, 20))

    with running(consumer(sink, topic.settings, metrics)) as now:
        eventually(lambda: len(tries) >= 2, "two failed flushes", 20)
        topic.send(*readings(20, 30), partition=1)
        topic.send(*readings(50, 10))
        assert sink.stored == []
        eventually(lambda: len(tries) >= 4, "two more", 20)
        assert (metrics.registry.get_sample_value("sieis_records_read_total", {"sink": "archive"}) or 0) <= 20
        sink.fault = lambda: None
        eventually(lambda: len(sink.stored) >= 60, "all records stored", 20)
        now.finish()
        assert now.error is None
    assert sorted(sink.stored) == [(0, offset) for offset in range(30)] + [(1, offset) for offset in range(30)]
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert all(wait >= 0.05 * 2**number for number, wait in enumerate(waits[:3])), "it must be left alone ever longer"
    assert committed(topic, "archive") == {0: 30, 1: 30}
    assert len(sink.assigned) == 1, "the group was left while the store was down"


def gauge(metrics: ConsumerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"sink": "archive", **labels})


def test_the_lag_rises_while_the_store_is_down(topic: Topic) -> None:
    """A paused partition is not fetched, and only fetches tell its end by themselves."""
    sink, metrics = RecordingSink(), ConsumerMetrics()
    sink.fault = raising(StoreDownError("the store is down", retry_after_seconds=3_600))
    topic.send(*readings(0, 20))
    with running(consumer(sink, topic.settings, metrics)):
        eventually(lambda: gauge(metrics, "sieis_errors_total", kind="StoreDownError") == 1, "a failed flush", 20)
        read = gauge(metrics, "sieis_records_read_total")
        topic.send(*readings(20, 500))
        lag = lambda: gauge(metrics, "sieis_lag_records", partition="0")  # noqa: E731
        eventually(lambda: lag() == 520 - (read or 0), "what was sent meanwhile to be in the lag", 20)
        assert gauge(metrics, "sieis_end_offset", partition="0") == 520
        sink.fault = lambda: None
    assert gauge(metrics, "sieis_errors_total", kind="BrokerUnavailableError") is None


def test_nothing_is_told_of_partitions_that_were_given_away(topic: Topic) -> None:
    sinks = [RecordingSink() for _ in range(2)]
    metrics = [ConsumerMetrics() for _ in sinks]
    told = ("sieis_lag_records", "sieis_end_offset", "sieis_stored_offset")

    def of(number: int) -> dict[str, set[int]]:
        return {
            name: {part for part in range(4) if gauge(metrics[number], name, partition=str(part)) is not None}
            for name in told
        }

    def all_of(parts: set[int]) -> dict[str, set[int]]:
        return dict.fromkeys(told, parts)

    for part in range(4):
        topic.send(*readings(10 * part, 5), partition=part)
    with running(consumer(sinks[0], topic.settings, metrics[0])):
        eventually(lambda: of(0) == all_of(set(range(4))), "the first to tell of all", 20)
        with running(consumer(sinks[1], topic.settings, metrics[1])):
            eventually(lambda: gauge(metrics[1], "sieis_assigned_partitions") == 2, "the second to have its half", 30)
            eventually(lambda: gauge(metrics[0], "sieis_assigned_partitions") == 2, "the first to have its half", 30)
            theirs = set(sinks[1].assigned[-1])
            assert all(parts.isdisjoint(theirs) for parts in of(0).values())
            for part in range(4):
                topic.send(*readings(100 + 10 * part, 5), partition=part)
            eventually(lambda: of(0) == all_of(set(range(4)) - theirs), "the first to tell of its own", 20)
            eventually(lambda: of(1) == all_of(theirs), "the second to tell of its own", 20)
        assert gauge(metrics[1], "sieis_assigned_partitions") == 0
        assert of(1) == all_of(set())


def test_a_store_that_asks_to_be_left_alone_is_until_a_stop(topic: Topic) -> None:
    busy, down, metrics = RecordingSink("hot"), RecordingSink("archive"), ConsumerMetrics()
    tries: list[str] = []

    def failing(sink: str, seconds: float | None) -> Callable[[], None]:
        def fault() -> None:
            tries.append(sink)
            raise StoreDownError("not now", retry_after_seconds=seconds)

        return fault

    busy.fault, down.fault = failing("busy", 3_600), failing("down", None)
    topic.send(*readings(0, 5))
    with running(*(consumer(sink, topic.settings, metrics) for sink in (busy, down))) as now:
        eventually(lambda: "busy" in tries and tries.count("down") >= 4, "the other store to be tried again", 20)
        assert tries.count("busy") == 1
        busy.fault = down.fault = lambda: None
        now.finish()
    assert len(busy.stored) == len(down.stored) == 5


def test_moved_positions_are_taken_up_anew_from_where_the_sink_says(topic: Topic) -> None:
    sink, metrics = RecordingSink(), ConsumerMetrics()

    def moved_once() -> None:
        sink.fault = lambda: None
        sink.starts = {0: 7}  # another owner has stored the first seven
        raise PositionMovedError("another writer was here")

    sink.fault = moved_once
    topic.send(*readings(0, 10))
    with running(consumer(sink, topic.settings, metrics)):
        eventually(lambda: len(sink.stored) >= 3, "what is left of the records", 20)
        topic.send(*readings(10, 2))
        eventually(lambda: len(sink.stored) >= 5, "the records behind it", 20)
    assert sink.stored == [(0, offset) for offset in range(7, 12)]
    assert [ranges[0] for ranges in sink.assigned] == [OffsetRange(0, 10)] * 2


def test_the_next_batch_is_read_while_a_store_writes_the_last(topic: Topic) -> None:
    """And when it fails then, what was read keeps its order."""
    sink, metrics = RecordingSink(), ConsumerMetrics()
    writing, answered = threading.Event(), threading.Event()

    def slow_failure() -> None:
        writing.set()
        assert answered.wait(20)
        sink.fault = lambda: None
        raise StoreDownError("it took its time")

    sink.fault = slow_failure
    topic.send(*readings(0, 10))
    with running(consumer(sink, topic.settings, metrics)):
        try:
            assert writing.wait(20)
            topic.send(*readings(10, 5))
            eventually(
                lambda: gauge(metrics, "sieis_records_read_total") == 15, "those behind the ones being written", 20
            )
        finally:
            answered.set()
        eventually(lambda: len(sink.stored) >= 15, "all of them", 20)
    assert sink.stored == [(0, offset) for offset in range(15)]


def test_nothing_is_taken_between_a_topic_made_again_and_taking_its_partitions_over(topic: Topic) -> None:
    """What is still fetched belongs to the old topic, and would be committed as the new one's."""
    happened: list[str] = []

    class Watched(RecordingSink):
        def assign(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
            happened.append("assigned")
            return super().assign(ranges)

        def revoke(self, partitions: list[int]) -> None:
            happened.append("revoked")
            super().revoke(partitions)

        def add(self, decoded: Decoded) -> None:
            happened.append("added")
            super().add(decoded)

    sink = Watched()

    def made_again_once() -> None:
        sink.fault, sink.starts = (lambda: None), {0: 0}
        raise IncarnationChangedError("made again under us")

    sink.fault = made_again_once
    topic.send(*readings(0, 30))
    # Small polls, so that more of the old topic waits when the change is seen.
    settings = topic.settings.model_copy(update={"poll_records": 5, "poll_records_loaded": 5})
    with running(consumer(sink, settings, ConsumerMetrics())):
        eventually(lambda: len(sink.stored) >= 30, "all records", 20)
    changed = happened.index("revoked")
    assert happened[0] == "assigned"
    assert set(happened[1:changed]) == {"added"}
    assert happened[changed + 1] == "assigned"
    assert sink.stored == [(0, offset) for offset in range(30)]


def test_partitions_taken_up_anew_while_paused_are_read_on(topic: Topic) -> None:
    """A commit whose answer was lost looks so: the store fails, and then the position has moved, by ourselves."""
    sink, metrics = RecordingSink(), ConsumerMetrics()

    def down_once() -> None:
        sink.fault, sink.starts = raising(PositionMovedError("it was us")), {0: 10}
        raise StoreDownError("the answer was lost")

    sink.fault = down_once
    topic.send(*readings(0, 10))
    with running(consumer(sink, topic.settings, metrics)):
        eventually(lambda: len(sink.assigned) == 2, "the partitions taken up anew", 20)
        sink.fault = lambda: None
        topic.send(*readings(10, 2))
        eventually(lambda: len(sink.stored) >= 2, "the records behind it", 20)
    assert sink.stored == [(0, 10), (0, 11)]


class PatientSink(RecordingSink):
    """Flushes only when it is made to; `happened` is what was done with it, in order."""

    def __init__(self, name: Sink = "archive") -> None:
        super().__init__(name)
        self.happened: list[str] = []

    def assign(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
        self.happened.append("assigned")
        return super().assign(ranges)

    def revoke(self, partitions: list[int]) -> None:
        self.happened.append("revoked")
        super().revoke(partitions)

    def due(self) -> bool:
        return False

    def flush(self) -> dict[int, int]:
        if self._buffer:
            self.happened.append("flushed")
        return super().flush()

    def committed(self) -> None:
        self.happened.append("committed")


def test_partitions_are_flushed_and_committed_before_another_gets_them(topic: Topic) -> None:
    """The embedded broker takes no commit during a rebalance; that Kafka does is seen in tests/faults/test_kafka.py."""
    before: list[list[str]] = []

    class Second(PatientSink):
        def assign(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
            before.append(list(first.happened))
            return super().assign(ranges)

    first, second, metrics = PatientSink(), Second(), ConsumerMetrics()
    for part in range(4):
        topic.send(*readings(10 * part, 5), partition=part)
    with running(consumer(first, topic.settings, metrics)):
        eventually(lambda: gauge(metrics, "sieis_records_read_total") == 20, "all records read", 20)
        assert first.happened == ["assigned"]
        assert committed(topic, "archive") == {}
        with running(consumer(second, topic.settings, ConsumerMetrics())):
            # At least: on a busy machine the group forms once more.
            eventually(lambda: len(second.assigned) >= 1, "the second to have its half", 30)
            eventually(lambda: len(first.assigned) >= 2, "the first to have its half", 30)
    assert before[0][:4] == ["assigned", "flushed", "committed", "revoked"]
    assert sorted(first.stored[:20]) == [(part, offset) for part in range(4) for offset in range(5)]


def test_of_partitions_that_were_lost_nothing_is_flushed(tmp_path: Path) -> None:
    """The broker is gone for longer than the session: by then another may own them."""
    settings = Settings(data_dir=tmp_path, kafka_session_timeout_seconds=1, _env_file=None)  # pyright: ignore[reportCallIssue]
    sink, metrics = PatientSink(), ConsumerMetrics()
    with EmbeddedBroker(settings) as broker:
        topic = Topic(settings, locate(settings))
        topic.send(*readings(0, 5))
        topic.close()
        with running(consumer(sink, settings, metrics)) as now:
            eventually(lambda: gauge(metrics, "sieis_records_read_total") == 5, "all records read", 20)
            broker.stop()
            eventually(lambda: "revoked" in sink.happened, "the partitions lost", 30)
            now.finish()
    assert set(sink.happened) == {"assigned", "revoked"}
    assert sink.stored == []


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_store_that_hangs(topic: Topic) -> None:
    """Whether the flush was begun before the stop or by it, and however much was read ahead."""
    for sink in (RecordingSink(), PatientSink()):
        metrics, hangs, answered = ConsumerMetrics(), threading.Event(), threading.Event()

        def hang(hangs: threading.Event = hangs, answered: threading.Event = answered) -> None:
            hangs.set()
            assert answered.wait(60)

        sink.fault = hang
        topic.send(*readings(0, 10))
        one = consumer(sink, topic.settings, metrics)
        with structlog.testing.capture_logs() as logs, running(one) as now:
            try:
                eventually(
                    lambda metrics=metrics: (gauge(metrics, "sieis_records_read_total") or 0) >= 10, "all records", 20
                )
                if not isinstance(sink, PatientSink):
                    assert hangs.wait(20)
                    topic.send(*readings(10, 2 * sink.ahead_rows))
                    eventually(
                        lambda metrics=metrics, sink=sink: (
                            (gauge(metrics, "sieis_records_read_total") or 0) >= 10 + sink.ahead_rows
                        ),
                        "as much read ahead as may be",
                        20,
                    )
                began = time.monotonic()
                now.finish()
                assert time.monotonic() - began < 10  # what a stop may take
                assert one.abandoned
                assert now.error is None
            finally:
                answered.set()
        assert any("stopped with unflushed records" in line["event"] for line in logs)
    assert committed(topic, "archive") == {}


def test_a_store_that_takes_long_costs_no_membership_and_nothing_is_read_beyond_a_batch_ahead(topic: Topic) -> None:
    sink, metrics = RecordingSink(), ConsumerMetrics()
    writing, answered = threading.Event(), threading.Event()

    def slow_once() -> None:
        sink.fault = lambda: None
        writing.set()
        assert answered.wait(60)

    sink.fault = slow_once
    topic.send(*readings(0, 10))
    settings = topic.settings.model_copy(update={"poll_records": 100, "poll_records_loaded": 100})
    read = lambda: gauge(metrics, "sieis_records_read_total") or 0  # noqa: E731
    with running(consumer(sink, settings, metrics)):
        try:
            assert writing.wait(20)
            topic.send(*readings(10, 3 * sink.ahead_rows))
            # Told while its partitions are paused: then it is polled on.
            end = lambda: gauge(metrics, "sieis_lag_records", partition="0")  # noqa: E731
            eventually(lambda: read() >= 10 + sink.ahead_rows, "a batch read ahead", 20)
            topic.send(*readings(5_000, 7))
            eventually(lambda: end() == 10 + 3 * sink.ahead_rows + 7 - read(), "the lag told", 30)
            assert read() < 10 + sink.ahead_rows + 200
        finally:
            answered.set()
        eventually(lambda: len(sink.stored) == 10 + 3 * sink.ahead_rows + 7, "all stored", 20)
    assert sink.stored == [(0, offset) for offset in range(10 + 3 * sink.ahead_rows + 7)]
    assert len(sink.assigned) == 1


def test_what_the_retention_took_from_either_store_while_nobody_read_is_told(topic: Topic, tmp_path: Path) -> None:
    """The embedded broker keeps 5 MB of a partition."""
    settings = topic.settings.model_copy(update={"archive_flush_seconds": 0.1})
    topic.send(*readings(0, 10))
    metrics = ConsumerMetrics()

    def both() -> list[SinkConsumer]:
        link = BrokerLink(settings)
        archive = ArchiveSink(Archive(str(tmp_path / "archive")), link, settings, metrics)
        hot = HotSink(SqliteHotStore(tmp_path / "hot.sqlite"), metrics)
        return [SinkConsumer(archive, link, settings, metrics), consumer(hot, settings, metrics)]

    with running(*both()):
        for group in ("archive", "hot"):
            eventually(lambda group=group: committed(topic, group) == {0: 10}, f"all read by {group}", 20)
    large = [Record(b"x" * 500_000)] * 20
    topic.send(*large)
    low, high = topic.ends()
    assert low > 10
    with running(*both()):
        for group in ("archive", "hot"):
            eventually(lambda group=group: committed(topic, group) == {0: high}, f"all read by {group}", 20)
    for sink in ("archive", "hot"):
        assert metrics.registry.get_sample_value("sieis_records_lost_total", {"sink": sink}) == low - 10
    assert audit_archive(Archive(str(tmp_path / "archive"))).findings == []


def test_a_sink_that_fails_for_good_ends_the_run_and_the_other_stops_gracefully(topic: Topic) -> None:
    broken, healthy, metrics = RecordingSink("archive"), RecordingSink("hot"), ConsumerMetrics()
    broken.fault = lambda: None if len(healthy.stored) < 5 else raising(StoreBrokenError("the store is broken"))()
    topic.send(*readings(0, 5))
    with running(*(consumer(sink, topic.settings, metrics) for sink in (broken, healthy))) as now:
        eventually(lambda: len(healthy.stored) == 5, "the healthy store to have all", 20)
        topic.send(*readings(5, 1))
        now.join()
        assert isinstance(now.error, StoreBrokenError)
    assert now.stop.is_set()
    assert committed(topic, "hot")[0] == len(healthy.stored) >= 5


def test_garbage_is_looked_for_rarely_while_it_runs_and_as_before_afterwards() -> None:
    before, seen = gc.get_threshold(), []

    def consume(_stop: threading.Event) -> None:
        seen.append((gc.get_threshold()[0], gc.get_freeze_count() > 0))

    run([consume], threading.Event())
    assert seen == [(100_000, True)]
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_an_outage_of_the_hot_store_never_stops_the_archive_and_is_made_up_for(topic: Topic, tmp_path: Path) -> None:
    settings = topic.settings.model_copy(update={"archive_flush_seconds": 0.1})
    metrics = ConsumerMetrics()
    hot = SqliteHotStore(tmp_path / "hot.sqlite", lock_seconds=0.1)
    archive, link = Archive(str(tmp_path / "archive")), BrokerLink(settings)
    sink = ArchiveSink(archive, link, settings, metrics)
    first = pl.DataFrame([(99, time.time_ns(), *[1.0] * 4)], schema=READING_SCHEMA, orient="row")
    hot.write_readings(first)  # makes the file that is then locked

    def archived() -> int:
        app = f"{settings.kafka_topic}/{link.address.cluster_id}"
        table = archive.table()
        return sum(archive.position(f"{app}/{partition}", table) or 0 for partition in range(4))

    with (
        running(SinkConsumer(sink, link, settings, metrics), consumer(HotSink(hot, metrics), settings, metrics)) as now,
        closing(sqlite3.connect(tmp_path / "hot.sqlite", isolation_level=None)) as shell,
    ):
        shell.execute("BEGIN EXCLUSIVE")
        topic.send(*readings(0, 40))
        topic.send(*readings(40, 40), partition=3)
        eventually(lambda: archive.exists() and archived() == 80, "the archive to go on by itself", 20)
        kind = {"sink": "hot", "kind": "HotStoreUnavailableError"}
        eventually(
            lambda: (metrics.registry.get_sample_value("sieis_errors_total", kind) or 0) > 0,
            "the hot store to fail",
            20,
        )
        assert hot.count_readings() == 1
        shell.execute("COMMIT")
        eventually(lambda: hot.count_readings() == 81, "the hot store to catch up", 20)
        now.finish()
        assert now.error is None
    hot.close()
    assert audit_archive(archive).findings == []
    assert committed(topic, "hot") == {0: 40, 3: 40}


@pytest.mark.timeout(60)
def test_sigterm_under_load_flushes_everything_and_ends_well_in_time(topic: Topic) -> None:
    """The age of a flush is an hour: what is stored at the end was flushed by the stop."""
    settings = topic.settings
    with platform(
        settings.data_dir,
        archive_flush_seconds=3600,
        archive_uri=settings.data_dir / "archive-of-sigterm",
        kafka_topic=settings.kafka_topic,
        kafka_group=settings.kafka_group,
        kafka_dlq_topic=settings.kafka_dlq_topic,
    ) as process:
        started = process.start("consume", "--sink", "archive")
        sending = threading.Event()

        def load() -> None:
            number = 0
            while not sending.wait(0.02):
                topic.send(*readings(number, 50))
                number += 50

        sender = threading.Thread(target=load)
        sender.start()
        try:
            eventually(lambda: process.metric("sieis_records_read_total", sink="archive") >= 500, "records read", 30)
            process.stop(started, seconds=10)
        finally:
            sending.set()
            sender.join()
        (account, *_others) = process.verify()["accounts"]
        assert account["stored"] == account["end"] >= 500
        assert committed(topic, "archive")[0] == account["end"]


@pytest.mark.parametrize(("position", "ends"), [(5, False), (6, True)])
def test_a_store_ahead_of_the_topic_is_looked_at_again_before_it_stops_everything(
    topic: Topic, position: int, ends: bool
) -> None:
    """A process frozen between its two looks compares an old end of the topic with what another stored since."""

    class Frozen(RecordingSink):
        def assign(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
            starts = super().assign(ranges)
            if len(self.assigned) == 1:
                raise base.PositionBeyondEndError("the broker lost archived records", 0, position)
            return starts

    sink, metrics = Frozen(), ConsumerMetrics()
    topic.send(*readings(0, 5))
    with running(consumer(sink, topic.settings, metrics)) as now:
        if ends:
            eventually(lambda: now.error is not None, "the end", 20)
            assert isinstance(now.error, base.PositionBeyondEndError)
            now.error = None
        else:
            eventually(lambda: len(sink.stored) == 5, "all stored", 20)
    assert len(sink.assigned) == (1 if ends else 2)
