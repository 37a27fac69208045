"""Kafka to InfluxDB and S3 on the real servers, one run: rates alone and together, memory, freshness, historical load.

Belongs here: workloads and their floors. Needs the servers of tools.services, which share the cores of this machine.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage] - documented place
from pydantic import SecretStr

from benchmarks.common.freshness import freshness
from benchmarks.common.history import load
from benchmarks.common.lag import WorkedOff, work_off
from benchmarks.common.messages import MOTES, fill, yesterday_ns
from benchmarks.common.process import BenchmarkError, cpu_seconds
from benchmarks.common.results import Result, result
from sieis_platform.settings import Settings
from sieis_platform.stores.influx.setup import prepare
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.stores.s3 import bucket_of, make_bucket
from sieis_platform.timeline import DAY_NS
from sieis_streaming.broker import client_config, locate
from sieis_streaming.topics import ensure_topics, wanted
from tools.services import Instance, Services

_S3_SERVERS: Final = ("minio", "seaweedfs")  # the first takes part in everything
_SERVERS: Final = ("kafka", "influxdb", *_S3_SERVERS)
_LAG: Final = 10_000_000
_ALONE: Final = 2_000_000
_FRESH_SECONDS: Final = 30
_LOAD_DAYS: Final = 19  # of 42 motes and a third of the readings missing: just over 1.5 M rows

_BOTH_FLOOR: Final = 80_000
_ARCHIVE_FLOOR: Final = 200_000
_MEMORY_FLOOR_MB: Final = 1_000
_LOAD_FLOOR_SECONDS: Final = 20


def run() -> Iterator[Result]:
    """Every measurement of this module, in about five minutes."""
    with tempfile.TemporaryDirectory() as folder, Services.start(_SERVERS) as services:
        base = Settings(_env_file=None, data_dir=Path(folder))  # pyright: ignore[reportCallIssue] - all have defaults
        base = base.model_copy(update=_settings(*(services[name] for name in _SERVERS[:3])))
        yield from _freshness(base)
        yield from _lag(base, services)
        yield from _load(base)


def _freshness(base: Settings) -> Iterator[Result]:
    settings = _named(base, "fresh")
    # The record's time must be the producer's clock at produce(), not the broker's at its arrival.
    topic = wanted(settings)[0]
    config = {**topic.config, "message.timestamp.type": "CreateTime"}
    admin = AdminClient(client_config(settings, locate(settings)))
    made = admin.create_topics([NewTopic(topic.name, topic.partitions, topic.replication, config=config)])
    made[topic.name].result()
    yield from freshness(_made(settings), seconds=_FRESH_SECONDS, store="InfluxDB")


def _lag(base: Settings, services: Services) -> Iterator[Result]:
    both = _made(_named(base, "stream"))
    fill(both, _LAG, start_ns=yesterday_ns(), step_ns=DAY_NS // _LAG)
    lag = f"{_LAG:,} records of lag, {MOTES} motes, 1 day"
    first = f"the first {_ALONE:,} of {lag}"

    def alone(name: str, **more: Any) -> Settings:
        return _made(_named(base, name).model_copy(update={"kafka_topic": both.kafka_topic, **more}))

    for server in _S3_SERVERS:
        settings = alone(f"archive-{server}", **_settings(services[server]))
        archive = work_off(settings, _ALONE, "archive", cpu=_clocks(services))
        yield from _rate(f"Kafka to S3 ({server}) alone", archive, first, _ARCHIVE_FLOOR)
    hot = work_off(alone("hot-alone"), _ALONE, "hot", cpu=_clocks(services))
    yield from _rate("Kafka to InfluxDB alone", hot, first, None)
    together = work_off(both, _LAG, "hot", "archive", cpu=_clocks(services))
    _complete(both)
    workload = f"{lag}, one process, servers on the same cores"
    yield from _rate("Kafka to InfluxDB and S3", together, workload, _BOTH_FLOOR)
    yield result("both stores to InfluxDB alone", together.rate / hot.rate, "ratio", lag)
    yield result("peak resident memory", together.peak_mb, "MB", workload, _MEMORY_FLOOR_MB)


def _load(base: Settings) -> Iterator[Result]:
    taken, summary = load(_made(_named(base, "load")), days=_LOAD_DAYS)
    if not summary["rows_hot"] == summary["rows_archive"] == summary["rows_loaded"]:
        raise BenchmarkError(f"the load left something out: {summary}")
    workload = f"{summary['rows_loaded']:,} rows, {MOTES} motes, {_LOAD_DAYS} days, the whole command `sieis load`"
    yield result("load into InfluxDB and S3", taken, "s", workload, _LOAD_FLOOR_SECONDS)


def _rate(name: str, done: WorkedOff, workload: str, floor: float | None) -> Iterator[Result]:
    yield result(name, done.rate, "records/s", workload, floor)
    parts = ", ".join(f"{part} {used:.1f}" for part, used in done.microseconds.items())
    yield result(f"{name}, processor time", sum(done.microseconds.values()), "µs", f"a record, all cores: {parts}")


def _settings(*servers: Instance) -> dict[str, Any]:
    """What makes SIEIS use these servers, by the names of its settings and of their types."""
    given = {name.removeprefix("SIEIS_").lower(): value for one in servers for name, value in one.settings.items()}
    typed = Settings(_env_file=None, **given)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return {name: getattr(typed, name) for name in given}


def _named(base: Settings, name: str) -> Settings:
    """The same servers with a topic, groups, buckets and a folder of their own."""
    own: dict[str, Any] = {
        "data_dir": base.data_dir / name,
        "kafka_topic": name,
        "kafka_dlq_topic": f"{name}.dlq",
        "kafka_group": name,
        "archive_uri": f"s3://{name}/archive",
        "marts_uri": f"s3://{name}/marts",
        "influx_bucket": name,
        "influx_hourly_bucket": f"{name}-hourly",
    }
    return base.model_copy(update=own)


def _made(settings: Settings) -> Settings:
    """`settings` with what they name made on the servers, as `sieis setup` does, and with the token made for them."""
    ensure_topics(settings)
    make_bucket(settings, bucket_of(settings.archive_location))
    return settings.model_copy(update={"influx_token": SecretStr(prepare(settings).token)})


def _clocks(services: Services) -> dict[str, Callable[[], float]]:
    return {name: lambda instance=instance: cpu_seconds(instance.pids) for name, instance in services.items()}


def _complete(settings: Settings) -> None:
    """See that every record is in both stores. Raises: BenchmarkError."""
    stored = sum(entry.stored for entry in open_archive(settings).ledger())
    hot = open_hot(settings)
    counted = hot.count_readings()
    hot.close()
    if not stored == counted == _LAG:
        raise BenchmarkError(f"of {_LAG:,} records S3 has {stored:,} and InfluxDB {counted:,}")
