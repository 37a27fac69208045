"""A platform made of real processes that a test may kill, and a sender that knows what it sent where.

Belongs here: starting, killing, waiting, comparing. Not here: which fault is tested.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from sieis_platform.reading import FIELDS
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_archive, open_hot
from sieis_streaming.broker import client_config, incarnation, locate
from sieis_streaming.dead_letters import KeptLetter, read_all
from sieis_streaming.topics import ensure_topics
from tests.ports import free_port

NOW_NS = time.time_ns() // 1_000_000_000 * 1_000_000_000
ROUNDS = int(os.environ.get("SIEIS_TEST_ROUNDS", "2"))
"""Random kills a test makes; CI makes few, `make drills` as many as it takes to believe in them."""


def eventually(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait until `condition` holds; there is no event to await across processes but the state itself."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


class Platform:
    """Processes of one data directory. Everything still running is killed at the end."""

    def __init__(self, data_dir: Path, **settings: object) -> None:
        if settings.get("kafka_bootstrap"):
            # One Kafka serves many tests: each has topics and groups of its own.
            name = f"t{uuid.uuid4().hex[:12]}"
            own = {"kafka_topic": name, "kafka_dlq_topic": f"{name}.dlq", "kafka_group": name}
            settings = {**own, **settings}
        self.environment = {
            "SIEIS_DATA_DIR": str(data_dir),
            "SIEIS_KAFKA_BOOTSTRAP": "",
            "SIEIS_KAFKA_SESSION_TIMEOUT_SECONDS": "1",
            "SIEIS_ARCHIVE_FLUSH_SECONDS": "0.5",
            "SIEIS_LOG_FORMAT": "json",
            **{f"SIEIS_{name.upper()}": str(value) for name, value in settings.items()},
        }
        values = {name.removeprefix("SIEIS_").lower(): value for name, value in self.environment.items()}
        self.settings = Settings(_env_file=None, **values)  # pyright: ignore[reportArgumentType, reportCallIssue]
        self.log = data_dir / "processes.log"
        data_dir.mkdir(parents=True, exist_ok=True)
        self.metrics_port = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **settings: object) -> subprocess.Popen[bytes]:
        if command[0] == "consume":
            self.metrics_port = free_port()
            settings["metrics_port"] = self.metrics_port
        environment = {
            **os.environ,
            **self.environment,
            **{f"SIEIS_{name.upper()}": str(value) for name, value in settings.items()},
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sieis_cli", *command], env=environment, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    def start_broker(self) -> str:
        """The embedded broker started, or the topics made on the Kafka of the settings; the topic's incarnation."""
        if self.settings.embedded_broker:
            self.start("broker")
            return locate(self.settings).cluster_id or ""
        ensure_topics(self.settings)
        return self.incarnation()

    def incarnation(self) -> str:
        """The topic's incarnation now."""
        admin = AdminClient(client_config(self.settings, locate(self.settings)))
        return incarnation(admin, self.settings, self.settings.kafka_topic)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            [sys.executable, "-m", "sieis_cli", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def metric(self, name: str, **labels: str) -> float:
        """A figure of the consumer started last, 0 while there is none."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text
        except httpx.ConnectError:
            return 0.0
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name and sample.labels == labels)

    def verify(self) -> dict:
        """`sieis verify`, which must be clean."""
        done = self.run("verify", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def stop(self, process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
        """SIGTERM, which must be obeyed with exit code 0 within `seconds`."""
        process.send_signal(signal.SIGTERM)
        assert process.wait(seconds) == 0, self.log.read_text()[-4000:]

    def kill_all(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@contextlib.contextmanager
def platform(data_dir: Path, **settings: object) -> Iterator[Platform]:
    made = Platform(data_dir, **settings)
    try:
        yield made
    finally:
        made.kill_all()


class Sender:
    """Sends unique readings at a steady rate from a thread, and notes the position of each from its delivery report."""

    def __init__(self, settings: Settings, rate: int = 1_500, motes: int = 12, **producer: object) -> None:
        self._settings = settings
        self._rate, self._motes = rate, motes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        config = client_config(settings, locate(settings)) | {"linger.ms": 5, "enable.idempotence": True}
        self._producer = Producer(config | {name.replace("_", "."): value for name, value in producer.items()})
        self.sent: dict[tuple[int, int], dict] = {}
        self.failed: list[str] = []
        self._count = 0

    def send(self, record: dict | bytes | None, key: int | bytes | None, **more: Any) -> None:
        """Produce one record; its position and content are noted when it is acknowledged.

        `more` are further arguments of `Producer.produce` (headers, timestamp).
        """

        def delivered(error: object, message: object) -> None:
            if error is not None:
                self.failed.append(str(error))
            else:
                self.sent[message.partition(), message.offset()] = record  # pyright: ignore[reportAttributeAccessIssue]

        value = json.dumps(record).encode() if isinstance(record, dict) else record
        text = str(key) if isinstance(key, int) else key
        self._producer.produce(self._settings.kafka_topic, value, text, on_delivery=delivered, **more)
        self._producer.poll(0)

    def send_unique(self, count: int) -> None:
        """So many readings never sent before, all of them acknowledged."""
        for _ in range(count):
            record = self.unique()
            self.send(record, record["mote_id"])
        self.flush()

    def unique(self) -> dict:
        """A reading never sent before."""
        self._count += 1
        number = self._count
        ns = NOW_NS - 3_600 * 1_000_000_000 + number * 1_000_000
        return reading(1 + number % self._motes, ns, number)

    def __enter__(self) -> "Sender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Stop sending and wait for every acknowledgement."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def flush(self) -> None:
        left = self._producer.flush(20)
        assert not left, f"{left} records unacknowledged"
        assert not self.failed, self.failed[:3]

    def _run(self) -> None:
        started, sent = time.monotonic(), 0
        while not self._stop.wait(0.02):
            due = int((time.monotonic() - started) * self._rate)
            while sent < due:
                record = self.unique()
                self.send(record, record["mote_id"])
                sent += 1

    def ends(self) -> dict[int, int]:
        """Per partition, the position after the last one sent."""
        ends: dict[int, int] = {}
        for partition, offset in list(self.sent):  # the thread goes on adding
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        return ends


def reading(mote_id: int, ns: int, number: int) -> dict:
    """A reading whose values follow from `number`, exactly representable in float32."""
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(ns // 1_000_000_000))}.{ns // 1_000 % 1_000_000:06d}Z"
    return {
        "mote_id": mote_id,
        "timestamp": stamp,
        "temperature": 20 + number % 64 / 8,
        "humidity": 40 + number % 32 / 4,
        "light": float(number % 4096),
        "voltage": 2.5,
    }


def archived(settings: Settings) -> pl.DataFrame:
    """Every archived row, conflicting ones included."""
    return open_archive(settings).scan_all().collect()


def wait_until_archived(settings: Settings, ends: dict[int, int], incarnation: str, seconds: float = 90.0) -> None:
    archive = open_archive(settings)

    def caught_up() -> bool:
        if not archive.exists():
            return False
        table = archive.table()
        return all(
            (archive.position(f"{settings.kafka_topic}/{incarnation}/{partition}", table) or 0) >= end
            for partition, end in ends.items()
        )

    eventually(caught_up, f"archive at {ends}", seconds)


def wait_until_hot(settings: Settings, readings: int, seconds: float = 60.0) -> None:
    hot = open_hot(settings)
    try:
        eventually(lambda: hot.count_readings() >= readings, f"{readings} readings in the hot store", seconds)
    finally:
        hot.close()


def frame(sent: dict[tuple[int, int], dict]) -> pl.DataFrame:
    """What was sent, in the columns that must come out of the archive."""
    rows = [
        {"source_partition": partition, "source_offset": offset, **record}
        for (partition, offset), record in sent.items()
    ]
    return (
        pl.DataFrame(rows)
        .with_columns(
            pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us").dt.epoch("us") * 1_000
        )
        .select(COMPARED)
        .cast({"source_partition": pl.Int32, "mote_id": pl.Int32, **dict.fromkeys(FIELDS, pl.Float32)})
        .sort("source_partition", "source_offset")
    )


def letters(running: Platform) -> list[KeptLetter]:
    """The dead letters on the topic."""
    config = client_config(running.settings, locate(running.settings))
    consumer = Consumer(config | {"group.id": "drill-reader", "enable.auto.commit": False})
    try:
        return read_all(consumer, running.settings.kafka_dlq_topic)
    finally:
        consumer.close()


COMPARED = ["source_partition", "source_offset", "mote_id", "timestamp", *FIELDS]


def seeded() -> random.Random:
    """Random moments that a failed run can repeat: set SIEIS_TEST_SEED to the number it printed."""
    seed = int(os.environ.get("SIEIS_TEST_SEED", str(random.randrange(1 << 30))))
    print(f"SIEIS_TEST_SEED={seed}")  # noqa: T201 - pytest shows it with a failure
    return random.Random(seed)
