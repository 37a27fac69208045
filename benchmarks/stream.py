"""Stream and load timings on the embedded setting: records/s into both stores, and produce-to-visible latency.

Belongs here: the workloads and how they are measured. Not here: what is fast enough (`floor` only reports it).
"""

import datetime as dt
import json
import tempfile
import threading
import time
from pathlib import Path

from confluent_kafka import Producer

from sieis_platform.history import HistoricalLoad
from sieis_platform.settings import Settings
from sieis_platform.sources.generator import generate
from sieis_platform.stores.open import open_archive, open_hot
from sieis_streaming.broker import EmbeddedBroker, client_config, locate
from sieis_streaming.consumer import SinkConsumer
from sieis_streaming.consumer import run as run_consumers
from sieis_streaming.link import BrokerLink
from sieis_streaming.metrics import ConsumerMetrics, latency_quantile
from sieis_streaming.sinks.archive import ArchiveSink
from sieis_streaming.sinks.hot import HotSink

BURST_RECORDS = 80_000  # four partitions of 5 MB hold about 100,000 records of 160 bytes
MOTES = 42
LATENCY_RATE = 1_000
LATENCY_SECONDS = 15
LOAD_DAYS = 28  # all of it within the hot store's retention: every row goes to both stores


def run() -> list[dict]:
    """Every measurement of this module."""
    _burst()  # the first burst of a process pays for what is loaded at first use: half a second
    return [_burst(), *_latency(), _load()]


def _settings(folder: str, **more: object) -> Settings:
    return Settings(_env_file=None, data_dir=Path(folder), **more)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _records(count: int, until: dt.datetime) -> list[tuple[str, bytes]]:
    records = []
    for number in range(count):
        stamp = until - dt.timedelta(milliseconds=25 * (count - number))
        body = {
            "mote_id": number % MOTES + 1,
            "temperature": 22.5,
            "humidity": 45.3,
            "light": 250.0,
            "voltage": 2.8,
            "timestamp": stamp.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        records.append((str(body["mote_id"]), json.dumps(body).encode()))
    return records


def _consumers(settings: Settings, metrics: ConsumerMetrics) -> list:
    hot_link, archive_link = BrokerLink(settings), BrokerLink(settings)
    hot = HotSink(open_hot(settings), metrics)
    archive = ArchiveSink(open_archive(settings), archive_link, settings, metrics)
    return [
        SinkConsumer(hot, hot_link, settings, metrics).run,
        SinkConsumer(archive, archive_link, settings, metrics).run,
    ]


def _burst() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        # The age bounds how long the last rows of the burst wait for a flush that no further row will fill.
        settings = _settings(folder, archive_flush_rows=BURST_RECORDS // 2, archive_flush_seconds=0.2)
        with EmbeddedBroker(settings):
            producer = Producer(client_config(settings, locate(settings)) | {"linger.ms": 20})
            for key, value in _records(BURST_RECORDS, dt.datetime.now(dt.UTC)):
                producer.produce(settings.kafka_topic, value, key)
                producer.poll(0)
            producer.flush()
            metrics, stop = ConsumerMetrics(), threading.Event()
            thread = threading.Thread(target=run_consumers, args=(_consumers(settings, metrics), stop))
            thread.start()
            read = [metrics.records_read.labels(sink) for sink in ("hot", "archive")]
            written = [metrics.records_written.labels(sink) for sink in ("hot", "archive")]
            while not any(counter._value.get() for counter in read):
                time.sleep(0.001)
            started = time.perf_counter()
            while not all(counter._value.get() >= BURST_RECORDS for counter in written):
                time.sleep(0.001)
            seconds = time.perf_counter() - started
            stop.set()
            thread.join()
    return {
        "name": "stream into both stores",
        "value": round(BURST_RECORDS / seconds),
        "unit": "records/s",
        "workload": f"{BURST_RECORDS:,} records on the embedded broker, {MOTES} motes, 1 day a flush, one warm process",
        "floor": 60_000,
    }


def _latency() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        settings = _settings(folder)
        with EmbeddedBroker(settings):
            metrics, stop = ConsumerMetrics(), threading.Event()
            thread = threading.Thread(target=run_consumers, args=(_consumers(settings, metrics), stop))
            thread.start()
            producer = Producer(client_config(settings, locate(settings)) | {"linger.ms": 5})
            hot = metrics.records_written.labels("hot")
            # The group has joined once the first record is through; the measurement begins after that.
            producer.produce(settings.kafka_topic, _records(1, dt.datetime.now(dt.UTC))[0][1], "1")
            while not hot._value.get():
                producer.poll(0.01)
            before = metrics.latency.counts("hot")
            total = LATENCY_RATE * LATENCY_SECONDS
            started = time.perf_counter()
            for sent in range(total):
                # Open loop: the schedule does not wait for the system, so that a stall shows as latency.
                while (ahead := started + sent / LATENCY_RATE - time.perf_counter()) > 0:
                    producer.poll(min(ahead, 0.01))
                key, value = _records(1, dt.datetime.now(dt.UTC))[0]
                producer.produce(settings.kafka_topic, value, key)
            producer.flush()
            while hot._value.get() < total:
                time.sleep(0.005)
            counts = metrics.latency.counts("hot") - before
            stop.set()
            thread.join()
    workload = f"{LATENCY_RATE:,} records/s for {LATENCY_SECONDS} s, open loop, until readable in SQLite"
    return [
        {
            "name": f"produce to visible, p{int(q * 100)}",
            "value": round(latency_quantile(counts, q) * 1e3, 1),
            "unit": "ms",
            "workload": workload,
            "floor": 1_000 if q == 0.99 else None,
        }
        for q in (0.5, 0.99)
    ]


def _load() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "readings.txt"
        generate(source, motes=MOTES, days=LOAD_DAYS, seed=1)
        settings = _settings(f"{folder}/var")
        hot = open_hot(settings)
        summary = HistoricalLoad(settings, hot, open_archive(settings)).load(source)
        hot.close()
    return {
        "name": "load into both stores",
        "value": round(summary.rows_loaded / summary.seconds),
        "unit": "rows/s",
        "workload": (
            f"{summary.rows_loaded:,} rows, {MOTES} motes, {LOAD_DAYS} days, {settings.load_batch_rows:,} a commit, "
            f"profile pass included; {summary.rows_hot:,} rows into SQLite"
        ),
        "floor": 150_000,
    }
