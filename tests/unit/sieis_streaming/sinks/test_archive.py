"""The archive sink on a real table and real messages: the flush protocol, step by step, and each way it can fail."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import structlog
from confluent_kafka import Message

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive, ArchiveUnavailableError, Commit
from sieis_streaming.broker import TopicMissingError
from sieis_streaming.dead_letters import DeadLetterDeliveryError
from sieis_streaming.decode import Decoded, decode
from sieis_streaming.link import BrokerLink
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.sinks.archive import ArchiveSink
from sieis_streaming.sinks.base import (
    IncarnationChangedError,
    LogTruncatedError,
    OffsetRange,
    PositionBeyondEndError,
    PositionMovedError,
)
from tests.unit.sieis_streaming.conftest import Record, Topic


class Link(BrokerLink):
    """The real link, whose topic can be told to be missing, or to have been made again."""

    now = "the same"

    def incarnation(self) -> str:
        if self.now == "missing":
            raise TopicMissingError("it is not there")
        return "another" if self.now == "another" else super().incarnation()


class FailingArchive(Archive):
    """The real archive; `before` and `after` may raise around the commit."""

    before: Callable[[], None] = staticmethod(lambda: None)
    after: Callable[[], None] = staticmethod(lambda: None)

    def append(self, commit: Commit) -> int:
        self.before()
        version = super().append(commit)
        self.after()
        return version


class Bench:
    """A sink between a real broker and a real table."""

    def __init__(self, topic: Topic, folder: Path, **settings: object) -> None:
        self.topic = topic
        self.settings = topic.settings.model_copy(update={"archive_uri": str(folder / "archive"), **settings})
        self.link = Link(self.settings)
        self.link.connect(threading.Event(), 5)
        self.archive = FailingArchive(self.settings.archive_uri)
        self.metrics = ConsumerMetrics()
        self.sink = self.another()
        self.app = f"{self.settings.kafka_topic}/{self.link.incarnation()}"

    def another(self) -> ArchiveSink:
        """A sink of another process: it shares nothing but the table and the broker."""
        return ArchiveSink(self.archive, self.link, self.settings, self.metrics)

    def poll(self, *values: bytes | None, partition: int = 0) -> Decoded:
        return decode(self.topic.through(*(Record(value) for value in values), partition=partition), 0)

    def stored(self) -> list[tuple[int, int]]:
        """(partition, offset) of every archived row."""
        rows = self.archive.scan_all().select("source_partition", "source_offset").collect()
        return sorted(rows.rows())

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"sink": "archive", **labels}) or 0.0

    def assert_clean(self) -> None:
        assert audit_archive(self.archive).findings == []


@pytest.fixture
def bench(topic: Topic, tmp_path: Path) -> Bench:
    return Bench(topic, tmp_path)


def value(number: int, mote: int = 1) -> bytes:
    return b'{"mote_id": %d, "timestamp": "2026-02-19T%02d:%02d:%02dZ", "light": %d}' % (
        mote,
        number // 3600,
        number // 60 % 60,
        number % 60,
        number,
    )


def values(count: int) -> list[bytes]:
    return [value(number) for number in range(count)]


# -- taking over -----------------------------------------------------------------------------------------------------
def test_the_first_owner_reads_from_the_beginning_the_next_where_the_table_stands(bench: Bench) -> None:
    assert bench.sink.assign({0: OffsetRange(0, 0), 1: OffsetRange(0, 9)}) == {0: 0, 1: 0}
    bench.sink.add(bench.poll(*values(3)))
    assert bench.sink.flush() == {0: 3}
    assert bench.another().assign({0: OffsetRange(0, 3), 1: OffsetRange(0, 9)}) == {0: 3, 1: 0}


def test_what_the_broker_no_longer_has_is_accounted_as_lost(bench: Bench) -> None:
    assert bench.sink.assign({0: OffsetRange(5, 5), 1: OffsetRange(0, 0)}) == {0: 5, 1: 0}
    assert bench.sink.due(), "a loss is written down at once"
    assert bench.sink.flush() == {0: 5}  # though nothing was read
    assert bench.metric("sieis_records_lost_total") == 5
    (entry,) = bench.archive.ledger()
    assert (entry.start, entry.end, entry.stored, entry.lost) == (0, 5, 0, 5)
    bench.assert_clean()


def test_a_gap_seen_by_several_owners_before_one_of_them_flushes_counts_once(bench: Bench) -> None:
    gap = {0: OffsetRange(5, 5)}
    bench.sink.assign(gap)
    bench.sink.revoke([0])
    bench.sink.assign(gap)
    other = bench.another()
    other.assign(gap)
    other.flush()
    with pytest.raises(PositionMovedError):
        bench.sink.flush()
    assert bench.sink.assign(gap) == {0: 5}
    assert bench.sink.flush() == {}
    assert bench.metric("sieis_records_lost_total") == 5
    bench.assert_clean()


def test_a_gap_between_the_table_and_the_brokers_first_record_is_lost_too(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(2)))
    bench.sink.flush()
    late = bench.another()
    bench.topic.through(*(Record(value(number)) for number in range(2, 4)))
    assert late.assign({0: OffsetRange(4, 4)}) == {0: 4}
    late.add(bench.poll(value(4)))
    assert late.flush() == {0: 5}
    entry = bench.archive.ledger()[-1]
    assert (entry.start, entry.end, entry.stored, entry.lost) == (2, 5, 1, 2)
    assert bench.stored() == [(0, 0), (0, 1), (0, 4)]
    bench.assert_clean()


def test_a_table_ahead_of_the_topic_stops_everything_and_says_what_to_do(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(3)))
    bench.sink.flush()
    with pytest.raises(PositionBeyondEndError, match="Delete and create the topic again"):
        bench.another().assign({0: OffsetRange(0, 2)})
    assert issubclass(PositionBeyondEndError, FatalError)


def test_an_assignment_that_is_refused_has_told_nothing(bench: Bench) -> None:
    """It is asked for again, and what was lost would be told twice."""
    bench.sink.assign({0: OffsetRange(0, 0), 1: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(value(1), value(2), partition=1))
    bench.sink.flush()
    bench.sink.revoke([0, 1])
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(PositionBeyondEndError) as raised:
            bench.sink.assign({0: OffsetRange(3, 9), 1: OffsetRange(0, 1)})
        assert (raised.value.partition, raised.value.position) == (1, 2)
        assert logs == []
        assert bench.sink.assign({0: OffsetRange(3, 9), 1: OffsetRange(0, 2)}) == {0: 3, 1: 2}
    assert [line["lost_records"] for line in logs if "they are lost" in line["event"]] == [3]
    bench.sink.flush()
    assert bench.metric("sieis_records_lost_total") == 3
    bench.assert_clean()


# -- flushing --------------------------------------------------------------------------------------------------------
def test_every_position_of_a_flush_has_one_fate(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0), 1: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(value(1), value(1), b"poison", value(2), None))
    bench.sink.add(bench.poll(value(1, mote=2), partition=1))
    assert bench.sink.flush() == {0: 5, 1: 1}
    assert bench.stored() == [(0, 0), (0, 3), (1, 0)]
    fates = {e.app[-1]: (e.stored, e.duplicates, e.dead, e.lost) for e in bench.archive.ledger()}
    assert fates == {"0": (2, 1, 2, 0), "1": (1, 0, 0, 0)}
    assert len({entry.version for entry in bench.archive.ledger()}) == 1
    assert bench.metric("sieis_records_written_total") == 3
    assert bench.metric("sieis_duplicates_total") == 1
    assert bench.metric("sieis_dead_letters_total", reason="not_json") == 1
    assert bench.metric("sieis_dead_letters_total", reason="empty") == 1
    bench.assert_clean()


def test_nothing_read_is_nothing_written(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    before = bench.archive.version()
    assert bench.sink.flush() == {}
    assert not bench.sink.due()
    assert bench.archive.version() == before


def test_a_poll_of_dead_letters_alone_moves_the_position(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(b"x", b"y"))
    assert bench.sink.flush() == {0: 2}
    assert bench.archive.position(f"{bench.app}/0") == 2
    bench.assert_clean()


def test_an_identical_reading_in_a_later_flush_is_a_duplicate_a_changed_one_is_not(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    for one in (value(1), value(1), value(1).replace(b'"light": 1', b'"light": 9')):
        bench.sink.add(bench.poll(one))
        bench.sink.flush()
    assert bench.stored() == [(0, 0), (0, 2)]
    assert [entry.duplicates for entry in bench.archive.ledger()] == [0, 1, 0]
    bench.assert_clean()


def test_what_answers_a_fetch_before_the_assignment_is_passed_over(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    polled = bench.poll(value(1), b"x", value(2))
    bench.sink.add(polled)
    assert bench.sink.flush() == {0: 3}
    bench.sink.revoke([0])
    assert bench.sink.assign({0: OffsetRange(0, 3)}) == {0: 3}
    bench.sink.add(polled)
    assert bench.sink.flush() == {}
    assert bench.stored() == [(0, 0), (0, 2)]
    bench.assert_clean()


@pytest.mark.parametrize("flushed", [True, False], ids=["flushed", "buffered"])
@pytest.mark.parametrize("again", [value(3), b"y"], ids=["reading", "dead letter"])
def test_a_position_that_comes_again_stops_everything_and_says_where_to_read_on(
    bench: Bench, flushed: bool, again: bytes
) -> None:
    """The broker has lost what was read already, and given its position to another record."""
    bench.sink.assign({0: OffsetRange(0, 0)})
    first = bench.poll(value(1), b"x", value(2))
    bench.sink.add(first)
    if flushed:
        bench.sink.flush()
    late = bench.poll(again)
    moved = Decoded(
        late.rows.with_columns(source_offset=pl.lit(1, pl.Int64)),
        [replace(letter, message=first.dead[0].message) for letter in late.dead],
    )
    with pytest.raises(LogTruncatedError, match=r"position 1 .* 'The broker lost archived records' in docs/runbook.md"):
        bench.sink.add(moved)
    assert issubclass(LogTruncatedError, FatalError)


def test_messages_of_a_partition_that_is_not_ours_are_passed_over(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(value(1), b"x", partition=1))
    assert bench.sink.flush() == {}
    assert bench.archive.scan_all().collect().is_empty()


# -- when ------------------------------------------------------------------------------------------------------------
def test_it_is_due_by_size(topic: Topic, tmp_path: Path) -> None:
    bench = Bench(topic, tmp_path, archive_flush_rows=3, archive_flush_seconds=3600)
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(2)))
    assert not bench.sink.due()
    bench.sink.add(bench.poll(value(2)))
    assert bench.sink.due()
    bench.sink.flush()
    assert not bench.sink.due()


def test_dead_letters_count_with_the_rows(topic: Topic, tmp_path: Path) -> None:
    bench = Bench(topic, tmp_path, archive_flush_rows=4, archive_flush_seconds=3600)
    bench.sink.assign({0: OffsetRange(0, 0), 1: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(value(1), b"x", b"y"))
    assert not bench.sink.due()
    bench.sink.add(bench.poll(b"z", partition=1))
    assert bench.sink.due()
    bench.sink.revoke([1])
    assert not bench.sink.due()
    bench.sink.add(bench.poll(value(2)))
    assert bench.sink.due()
    bench.sink.flush()
    bench.sink.add(bench.poll(b"a", b"b", b"c"))
    assert not bench.sink.due(), "those that were flushed count no longer"


def test_a_few_large_dead_letters_are_due_too(topic: Topic, tmp_path: Path) -> None:
    bench = Bench(topic, tmp_path, archive_flush_seconds=3600)
    bench.sink.assign({0: OffsetRange(0, 0)})
    large = bench.poll(b"x" * 900_000, None)
    each = large.dead[0].size
    assert 900_000 < each < 902_000
    letters = [replace(large.dead[0], message=_At(offset, large.dead[0].message)) for offset in range(70)]
    bench.sink.add(Decoded(large.rows, letters))
    assert not bench.sink.due()
    bench.sink.add(
        Decoded(
            large.rows,
            [replace(letter, message=_At(70 + n, large.dead[0].message)) for n, letter in enumerate(letters[:5])],
        )
    )
    assert bench.sink.due()


class _At:
    """A message as if it lay at another offset."""

    def __init__(self, offset: int, message: Message) -> None:
        self._offset, self._message = offset, message

    def offset(self) -> int:
        return self._offset

    def __getattr__(self, name: str) -> object:
        return getattr(self._message, name)


def test_it_is_due_by_age_dead_letters_alone_too(topic: Topic, tmp_path: Path) -> None:
    bench = Bench(topic, tmp_path, archive_flush_seconds=1e-6)
    bench.sink.assign({0: OffsetRange(0, 0)})
    assert not bench.sink.due()
    bench.sink.add(bench.poll(b"x"))
    assert bench.sink.due()
    bench.sink.flush()
    assert not bench.sink.due()


def test_what_was_revoked_is_no_longer_due(topic: Topic, tmp_path: Path) -> None:
    bench = Bench(topic, tmp_path, archive_flush_seconds=1e-6)
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(value(1)))
    bench.sink.revoke([0])
    assert not bench.sink.due()
    assert bench.sink.flush() == {}


# -- failing ---------------------------------------------------------------------------------------------------------
def test_dead_letters_that_are_not_acknowledged_hold_the_commit_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(value(1), b"x"))

    def refuse(*_: object) -> None:
        raise DeadLetterDeliveryError("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(bench.link.publisher, "publish", refuse)
        for _ in range(2):
            with pytest.raises(DeadLetterDeliveryError):
                bench.sink.flush()
    assert bench.archive.position(f"{bench.app}/0") is None
    assert bench.sink.flush() == {0: 2}
    bench.assert_clean()


def test_a_commit_that_failed_can_be_tried_again_and_remembers_nothing(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(2)))

    def unavailable() -> None:
        raise ArchiveUnavailableError("the disk is full")

    bench.archive.before = unavailable
    with pytest.raises(ArchiveUnavailableError):
        bench.sink.flush()
    bench.sink.add(bench.poll(value(7)))
    bench.archive.before = FailingArchive.before
    assert bench.sink.flush() == {0: 3}
    (entry,) = bench.archive.ledger()
    assert (entry.stored, entry.duplicates) == (3, 0)
    bench.assert_clean()


def test_a_commit_whose_answer_was_lost_is_noticed_and_not_repeated(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(2)))

    def unavailable() -> None:
        raise ArchiveUnavailableError("no answer")

    bench.archive.after = unavailable
    with pytest.raises(ArchiveUnavailableError):
        bench.sink.flush()
    bench.archive.after = FailingArchive.after
    with pytest.raises(PositionMovedError):
        bench.sink.flush()
    bench.sink.revoke([0])
    assert bench.sink.assign({0: OffsetRange(0, 2)}) == {0: 2}
    assert bench.stored() == [(0, 0), (0, 1)]
    bench.assert_clean()


def test_of_two_owners_the_stale_one_writes_nothing_not_even_other_partitions(bench: Bench) -> None:
    zombie = bench.another()
    for sink in (zombie, bench.sink):
        sink.assign({0: OffsetRange(0, 0), 1: OffsetRange(0, 0)})
    polled, other = bench.poll(*values(3)), bench.poll(value(9, mote=2), partition=1)
    bench.sink.add(polled)
    bench.sink.flush()
    zombie.add(polled)
    zombie.add(other)
    with pytest.raises(PositionMovedError):
        zombie.flush()
    assert bench.stored() == [(0, 0), (0, 1), (0, 2)]
    zombie.revoke([0, 1])
    assert zombie.assign({0: OffsetRange(0, 3), 1: OffsetRange(0, 1)}) == {0: 3, 1: 0}
    zombie.add(polled)  # the broker's answer to an older fetch
    zombie.add(other)
    assert zombie.flush() == {1: 1}
    assert bench.stored() == [(0, 0), (0, 1), (0, 2), (1, 0)]
    bench.assert_clean()


def test_a_topic_made_again_is_not_written_under_the_old_name(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(2)))
    bench.link.now = "another"
    with pytest.raises(IncarnationChangedError, match="made again"):
        bench.sink.flush()
    assert bench.archive.position(f"{bench.app}/0") is None
    bench.sink.revoke([0])
    assert bench.sink.assign({0: OffsetRange(0, 2)}) == {0: 0}
    bench.sink.add(bench.poll(*values(2)))
    bench.sink.flush()
    assert bench.archive.position(f"{bench.settings.kafka_topic}/another/0") == 4


@pytest.mark.parametrize("gone", ["missing", "another"])
def test_what_was_certainly_read_of_a_topic_that_is_gone_is_stored_under_its_name_and_the_rest_told_lost(
    bench: Bench, gone: str
) -> None:
    bench.sink.assign({0: OffsetRange(0, 0), 1: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(2), b"x"))
    bench.sink.confirm()
    bench.sink.add(bench.poll(value(2), b"y", value(3)))
    bench.sink.add(bench.poll(value(4, mote=2), partition=1))
    bench.link.now = gone
    for _ in range(2):
        with pytest.raises(IncarnationChangedError if gone == "another" else TopicMissingError):
            bench.sink.flush()
    assert bench.stored() == [(0, 0), (0, 1)]
    assert bench.archive.position(f"{bench.app}/0") == 3
    assert bench.archive.position(f"{bench.app}/1") is None
    assert bench.metric("sieis_dead_letters_total", reason="not_json") == 1
    assert bench.metric("sieis_records_lost_total") == 0
    with structlog.testing.capture_logs() as logs:
        bench.sink.revoke([0, 1])
    assert bench.metric("sieis_records_lost_total") == 4
    told = [line for line in logs if "they are lost" in line["event"]]
    assert [(line["log_level"], line["first"], line["last"]) for line in told] == [("error", 3, 5), ("error", 0, 0)]
    bench.link.now = "another"
    bench.sink.assign({0: OffsetRange(0, 2)})
    bench.sink.revoke([0])
    assert bench.metric("sieis_records_lost_total") == 4
    bench.assert_clean()


def test_what_is_certain_of_a_topic_that_is_gone_waits_for_the_archive(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(2)))

    def unavailable() -> None:
        raise ArchiveUnavailableError("no answer")

    bench.archive.before = unavailable
    with pytest.raises(ArchiveUnavailableError):
        bench.sink.flush()  # asked the broker first: what it holds is certain
    bench.link.now = "another"
    with pytest.raises(ArchiveUnavailableError):
        bench.sink.flush()
    bench.archive.before = FailingArchive.before
    with pytest.raises(IncarnationChangedError):
        bench.sink.flush()
    assert bench.stored() == [(0, 0), (0, 1)]
    bench.sink.revoke([0])
    assert bench.metric("sieis_records_lost_total") == 0
    bench.assert_clean()


def test_a_topic_that_was_only_thought_missing_is_read_on(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(2)))
    bench.link.now = "missing"
    with pytest.raises(TopicMissingError):
        bench.sink.flush()
    bench.link.now = "the same"
    bench.sink.add(bench.poll(value(2)))
    assert bench.sink.flush() == {0: 3}
    bench.sink.add(bench.poll(value(3)))
    bench.sink.revoke([0])
    assert bench.metric("sieis_records_lost_total") == 0
    bench.assert_clean()


def test_a_revoked_partition_takes_only_its_own_rows_with_it(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(0, 0), 1: OffsetRange(0, 0)})
    bench.sink.add(bench.poll(*values(2), b"x"))
    bench.sink.add(bench.poll(value(5, mote=2), partition=1))
    bench.sink.revoke([0])
    assert bench.sink.flush() == {1: 1}
    assert bench.stored() == [(1, 0)]
    assert bench.metric("sieis_dead_letters_total", reason="not_json") == 0
    bench.assert_clean()


def test_settings_decide_the_age(stream_settings: Settings) -> None:
    assert stream_settings.flush_seconds == 30
    assert stream_settings.model_copy(update={"kafka_bootstrap": "kafka:9092"}).flush_seconds == 600
