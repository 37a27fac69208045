"""Stream and load timings on the embedded setting: records/s into both stores, and produce-to-visible latency.

Belongs here: the workloads and how they are measured. Not here: what is fast enough (`floor` only reports it).
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.common.freshness import freshness
from benchmarks.common.history import load
from benchmarks.common.messages import MOTES, fill
from benchmarks.common.results import Result, result
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_archive, open_hot
from sieis_streaming.broker import EmbeddedBroker
from sieis_streaming.consumer import SinkConsumer
from sieis_streaming.consumer import run as run_consumers
from sieis_streaming.link import BrokerLink
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.sinks.archive import ArchiveSink
from sieis_streaming.sinks.hot import HotSink

_BURST_RECORDS: Final = 80_000  # four partitions of 5 MB hold about 100,000 records of 160 bytes
_BURST_STEP_NS: Final = 25_000_000
_FRESH_SECONDS: Final = 15
_LOAD_DAYS: Final = 28  # all of it within the hot store's retention: every row goes to both stores


def run() -> Iterator[Result]:
    """Every measurement of this module."""
    _burst()  # the first burst of a process pays for what is loaded at first use: half a second
    workload = f"{_BURST_RECORDS:,} records on the embedded broker, {MOTES} motes, 1 day a flush, one warm process"
    yield result("stream into both stores", _burst(), "records/s", workload, 60_000)
    yield from _latency()
    yield _load()


def _settings(folder: str, **more: object) -> Settings:
    return Settings(_env_file=None, data_dir=Path(folder), **more)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _consumers(settings: Settings, metrics: ConsumerMetrics) -> list[Callable[[threading.Event], None]]:
    hot_link, archive_link = BrokerLink(settings), BrokerLink(settings)
    hot = HotSink(open_hot(settings), metrics)
    archive = ArchiveSink(open_archive(settings), archive_link, settings, metrics)
    return [
        SinkConsumer(hot, hot_link, settings, metrics).run,
        SinkConsumer(archive, archive_link, settings, metrics).run,
    ]


def _burst() -> float:
    """Records a second into both stores. In this process: a new one would be cold for half of so short a run."""
    with tempfile.TemporaryDirectory() as folder:
        # The age bounds how long the last rows of the burst wait for a flush that no further row will fill.
        settings = _settings(folder, archive_flush_rows=_BURST_RECORDS // 2, archive_flush_seconds=0.2)
        with EmbeddedBroker(settings):
            begin_ns = time.time_ns() - _BURST_RECORDS * _BURST_STEP_NS
            fill(settings, _BURST_RECORDS, start_ns=begin_ns, step_ns=_BURST_STEP_NS)
            metrics, stop = ConsumerMetrics(), threading.Event()
            thread = threading.Thread(target=run_consumers, args=(_consumers(settings, metrics), stop))
            thread.start()
            read = [metrics.records_read.labels(sink) for sink in ("hot", "archive")]
            written = [metrics.records_written.labels(sink) for sink in ("hot", "archive")]
            while not any(counter._value.get() for counter in read):
                time.sleep(0.001)
            started = time.perf_counter()
            while not all(counter._value.get() >= _BURST_RECORDS for counter in written):
                time.sleep(0.001)
            taken = time.perf_counter() - started
            stop.set()
            thread.join()
    return _BURST_RECORDS / taken


def _latency() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(folder)
        with EmbeddedBroker(settings):
            yield from freshness(settings, seconds=_FRESH_SECONDS, store="SQLite")


def _load() -> Result:
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(folder)
        _taken, summary = load(settings, days=_LOAD_DAYS)
    workload = (
        f"{summary['rows_loaded']:,} rows, {MOTES} motes, {_LOAD_DAYS} days, {settings.load_batch_rows:,} a commit, "
        f"profile pass included; {summary['rows_hot']:,} rows into SQLite"
    )
    return result("load into both stores", summary["rows_loaded"] / summary["seconds"], "rows/s", workload, 150_000)
