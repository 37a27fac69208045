"""The flusher: who owns the sink while a flush is under way, and what becomes of what is read meanwhile."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from sieis_platform.errors import RetriableError
from sieis_platform.settings import Sink as SinkName
from sieis_streaming.decode import STREAM_SCHEMA, Decoded
from sieis_streaming.flusher import Flusher
from sieis_streaming.sinks import base


class StoreDownError(RetriableError):
    pass


class SlowSink(base.Sink):
    """Its flush waits for `go`, and fails with `error` where there is one."""

    ahead_rows = 4

    def __init__(self) -> None:
        self.go = threading.Event()
        self.error: Exception | None = None
        self.held: list[int] = []
        self.stored: list[int] = []

    @property
    def name(self) -> SinkName:
        return "archive"

    def assign(self, ranges: dict[int, base.OffsetRange]) -> dict[int, int]:
        raise NotImplementedError

    def revoke(self, partitions: list[int]) -> None:
        raise NotImplementedError

    def add(self, decoded: Decoded) -> None:
        self.held += decoded.rows["source_offset"].to_list()

    def confirm(self) -> None:
        raise NotImplementedError

    def due(self) -> bool:
        return bool(self.held)

    def flush(self) -> dict[int, int]:
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        done, self.held = self.held, []
        self.stored += done
        return {0: done[-1] + 1}

    def committed(self) -> None:
        raise NotImplementedError


def poll(*offsets: int) -> Decoded:
    return Decoded(pl.DataFrame({"source_offset": offsets}).cast({"source_offset": STREAM_SCHEMA["source_offset"]}), [])


@pytest.fixture
def sink() -> SlowSink:
    return SlowSink()


@pytest.fixture
def flusher(sink: SlowSink) -> Iterator[Flusher]:
    with ThreadPoolExecutor(1) as thread:
        yield Flusher(sink, thread)
        sink.go.set()


def test_what_is_read_during_a_flush_follows_it(sink: SlowSink, flusher: Flusher) -> None:
    flusher.add(poll(0, 1))
    flusher.start()
    flusher.add(poll(2))
    assert sink.held == [0, 1], "the flush owns the sink"
    sink.go.set()
    assert flusher.finish() == {0: 2}
    assert (sink.stored, sink.held) == ([0, 1], [2])


def test_a_flush_that_failed_leaves_its_rows_before_those_read_meanwhile(sink: SlowSink, flusher: Flusher) -> None:
    flusher.add(poll(0, 1))
    flusher.start()
    flusher.add(poll(2))
    sink.error = StoreDownError("away")
    sink.go.set()
    with pytest.raises(StoreDownError):
        flusher.finish()
    flusher.add(poll(3))
    assert (sink.stored, sink.held, flusher.running) == ([], [0, 1, 2, 3], False)


def test_it_is_time_to_wait_once_a_batch_was_read_ahead(sink: SlowSink, flusher: Flusher) -> None:
    flusher.add(poll(0))
    flusher.start()
    flusher.add(poll(1, 2, 3))
    assert flusher.full_seconds is None
    flusher.add(poll(4))
    assert flusher.full_seconds is not None
    assert not flusher.wait(0)
    sink.go.set()
    assert flusher.wait(10)
    assert flusher.ready
    assert flusher.finish() == {0: 1}
    assert sink.held == [1, 2, 3, 4]
    assert flusher.full_seconds is None


def test_without_a_flush_there_is_nothing_to_wait_for(sink: SlowSink, flusher: Flusher) -> None:
    assert flusher.finish() == {}
    assert not flusher.running
    assert not flusher.ready
    flusher.add(poll(0))
    assert sink.held == [0]
