"""The hot sink on a real store and real messages: at once, once each, and nothing forgotten when the store fails."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import structlog

from sieis_platform.reading import FIELDS
from sieis_platform.stores.hot import HotStore, HotStoreUnavailableError, WriteOutcome
from sieis_platform.stores.sqlite import SqliteHotStore
from sieis_platform.timeline import DAY_NS
from sieis_streaming.decode import Decoded, decode
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.sinks.base import OffsetRange
from sieis_streaming.sinks.hot import HotSink
from tests.unit.sieis_streaming.conftest import Record, Topic

NOW = time.time_ns() // DAY_NS * DAY_NS


class Bench:
    def __init__(self, topic: Topic, folder: Path) -> None:
        self.topic = topic
        self.path = folder / "hot.sqlite"
        self.store = SqliteHotStore(self.path, lock_seconds=0.05)
        self.metrics = ConsumerMetrics()
        self.sink = HotSink(self.store, self.metrics)

    def poll(self, *values: bytes | None, partition: int = 0) -> Decoded:
        return decode(self.topic.through(*(Record(value) for value in values), partition=partition), 0)

    def stored(self) -> list[tuple]:
        return self.store.readings(0, 1 << 62).select("mote_id", "timestamp", "light").rows()

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"sink": "hot", **labels}) or 0.0


@pytest.fixture
def bench(topic: Topic, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(topic, tmp_path)
    yield made
    made.store.close()


def value(mote: int, light: float, days_ago: int = 0) -> bytes:
    day = time.strftime("%Y-%m-%d", time.gmtime((NOW - days_ago * DAY_NS) / 1e9))
    return b'{"mote_id": %d, "timestamp": "%sT00:00:00Z", "light": %f}' % (mote, day.encode(), light)


def test_it_reads_on_where_the_group_stands_and_where_it_never_was_from_the_first_record(bench: Bench) -> None:
    assert bench.sink.assign({0: OffsetRange(3, 9, 5), 1: OffsetRange(3, 9), 2: OffsetRange(3, 9, 9)}) == {
        0: 5,
        1: 3,
        2: 9,
    }
    assert not bench.sink.due()


def test_what_the_group_never_read_before_the_broker_deleted_it_is_counted_once_and_told(
    bench: Bench,
) -> None:
    with structlog.testing.capture_logs() as logs:
        assert bench.sink.assign({0: OffsetRange(8, 9, 5), 1: OffsetRange(0, 9, 0)}) == {0: 8, 1: 0}
        assert bench.sink.due(), "a loss is written down at once"
        assert bench.metric("sieis_records_lost_total") == 0
        assert bench.sink.flush() == {0: 8}  # though nothing was read
    assert bench.metric("sieis_records_lost_total") == 3
    (told,) = [line for line in logs if "no longer has" in line["event"]]
    assert "rebuild_hot_store" in told["event"]
    assert (told["log_level"], told["partition"], told["first"], told["last"]) == ("error", 0, 5, 7)
    assert bench.sink.flush() == {}
    assert bench.metric("sieis_records_lost_total") == 3


def test_a_loss_that_nobody_wrote_down_is_the_next_owners(bench: Bench) -> None:
    bench.sink.assign({0: OffsetRange(8, 9, 5)})
    bench.sink.revoke([0])
    assert bench.sink.flush() == {}
    assert bench.metric("sieis_records_lost_total") == 0


def test_a_group_behind_the_last_record_reads_all_there_is(bench: Bench) -> None:
    assert bench.sink.assign({0: OffsetRange(2, 9, 12)}) == {0: 2}
    assert not bench.sink.due()


def test_a_gap_while_it_runs_is_counted_with_its_flush(bench: Bench) -> None:
    """The retention overtook partitions that were paused while the store was down."""
    bench.sink.assign({0: OffsetRange(0, 0)})
    polls = [bench.poll(value(1, n), b"x") for n in range(5)]
    bench.sink.add(polls[0])
    bench.sink.flush()
    bench.sink.add(polls[2])
    bench.sink.add(polls[4])
    assert bench.metric("sieis_records_lost_total") == 0
    assert bench.sink.flush() == {0: 10}
    assert bench.metric("sieis_records_lost_total") == 4
    bench.sink.add(polls[0])  # read anew from the first record: no gap
    bench.sink.add(polls[1])
    bench.sink.flush()
    assert bench.metric("sieis_records_lost_total") == 4


def test_each_poll_is_due_at_once_and_nothing_never(bench: Bench) -> None:
    assert not bench.sink.due()
    assert bench.sink.flush() == {}
    bench.sink.add(bench.poll(value(1, 1)))
    assert bench.sink.due()
    assert bench.sink.flush() == {0: 1}
    assert not bench.sink.due()
    assert bench.stored() == [(1, NOW, 1.0)]


def test_where_a_write_has_a_price_a_full_batch_is_due_or_what_has_waited_long_enough(bench: Bench) -> None:
    patient = HotSink(bench.store, bench.metrics, batch_rows=2, batch_seconds=60)
    patient.add(bench.poll(value(1, 1)))
    assert not patient.due()
    patient.add(bench.poll(value(2, 2)))
    assert patient.due()
    assert patient.flush() == {0: 2}
    patient.add(bench.poll(value(3, 3)))
    assert not patient.due()
    assert patient.flush() == {0: 3}, "a stop or a rebalance waits for no batch"

    hasty = HotSink(bench.store, bench.metrics, batch_rows=2, batch_seconds=0)
    assert not hasty.due()
    hasty.add(bench.poll(value(1, 1)))
    assert hasty.due()


def test_what_the_store_refuses_is_counted_apart(bench: Bench) -> None:
    store = create_autospec(HotStore, instance=True)
    store.write_readings.return_value = WriteOutcome(written=1, beyond_retention=0, refused=2)
    sink = HotSink(store, bench.metrics)
    sink.add(bench.poll(value(1, 1), value(2, 2), value(3, 3)))
    assert sink.flush() == {0: 3}
    assert bench.metric("sieis_refused_total") == 2
    assert bench.metric("sieis_records_written_total") == 1


def test_of_conflicting_readings_the_last_one_sent_stays(bench: Bench) -> None:
    bench.sink.add(bench.poll(value(1, 1), value(1, 2)))
    bench.sink.add(bench.poll(value(1, 3), value(2, 7)))
    assert bench.sink.flush() == {0: 4}
    assert bench.stored() == [(1, NOW, 3.0), (2, NOW, 7.0)]


def test_a_repeated_poll_changes_nothing(bench: Bench) -> None:
    polled = bench.poll(value(1, 1), value(2, 2))
    for _ in range(2):
        bench.sink.add(polled)
        assert bench.sink.flush() == {0: 2}
    assert bench.store.count_readings() == 2


def test_dead_letters_are_passed_and_counted_and_their_offsets_move_on(bench: Bench) -> None:
    bench.sink.add(bench.poll(value(1, 1), b"x"))
    bench.sink.add(bench.poll(b"", partition=1))
    assert bench.sink.flush() == {0: 2, 1: 1}
    assert bench.metric("sieis_dead_letters_total", reason="not_json") == 1
    assert bench.metric("sieis_dead_letters_total", reason="empty") == 1
    assert bench.metric("sieis_records_written_total") == 1


def test_readings_beyond_the_retention_are_counted_and_passed(bench: Bench) -> None:
    bench.sink.add(bench.poll(value(1, 1, days_ago=31), value(1, 2, days_ago=29)))
    assert bench.sink.flush() == {0: 2}
    assert bench.store.count_readings() == 1
    assert bench.metric("sieis_beyond_retention_total") == 1
    assert bench.metric("sieis_records_written_total") == 1


def test_what_a_locked_store_refused_is_written_when_it_answers_again(bench: Bench) -> None:
    bench.sink.add(bench.poll(value(1, 1)))
    bench.sink.flush()
    with closing(sqlite3.connect(bench.path, isolation_level=None)) as shell:
        shell.execute("BEGIN EXCLUSIVE")
        bench.sink.add(bench.poll(value(2, 2), value(3, 3), value(1, 9)))
        with pytest.raises(HotStoreUnavailableError, match="locked"):
            bench.sink.flush()
        assert bench.sink.due()
        assert bench.metric("sieis_records_written_total") == 1
    assert bench.sink.flush() == {0: 4}
    assert bench.stored() == [(1, NOW, 9.0), (2, NOW, 2.0), (3, NOW, 3.0)]
    assert not bench.sink.due()


def test_what_was_revoked_is_not_written(bench: Bench) -> None:
    bench.sink.add(bench.poll(value(1, 1), b"x"))
    bench.sink.revoke([0])
    assert not bench.sink.due()
    assert bench.sink.flush() == {}
    assert bench.store.count_readings() == 0


def test_nulls_stay_nulls(bench: Bench) -> None:
    bench.sink.add(bench.poll(value(1, 1).replace(b"1.000000", b"null")))
    bench.sink.flush()
    (row,) = bench.store.readings(0, 1 << 62).to_dicts()
    assert [row[field] for field in FIELDS] == [None] * 4
