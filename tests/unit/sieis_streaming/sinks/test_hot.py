"""The hot sink on a real store and real messages: at once, once each, and nothing forgotten when the store fails."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sieis_platform.reading import FIELDS
from sieis_platform.stores.hot import HotStoreUnavailableError
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


def test_the_groups_own_offsets_serve(bench: Bench) -> None:
    assert bench.sink.assign({0: OffsetRange(3, 9)}) == {}


def test_each_poll_is_due_at_once_and_nothing_never(bench: Bench) -> None:
    assert not bench.sink.due()
    assert bench.sink.flush() == {}
    bench.sink.add(bench.poll(value(1, 1)))
    assert bench.sink.due()
    assert bench.sink.flush() == {0: 1}
    assert not bench.sink.due()
    assert bench.stored() == [(1, NOW, 1.0)]


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
