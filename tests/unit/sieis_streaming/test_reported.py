"""What consumers report, from the metrics they really serve: added up over processes, named where nothing is."""

from collections.abc import Iterator

import polars as pl
import pytest
from prometheus_client import CollectorRegistry, Counter, start_http_server

from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.reported import ConsumerDownError, NotConsumerMetricsError, read_reported
from tests.ports import free_port


@pytest.fixture
def processes() -> Iterator[list[tuple[ConsumerMetrics, str]]]:
    """Two consumers' metrics, served."""
    made, servers = [], []
    for _ in range(2):
        metrics, port = ConsumerMetrics(), free_port()
        servers.append(metrics.serve(port))
        made.append((metrics, f"http://127.0.0.1:{port}/metrics"))
    yield made
    for server in servers:
        server.shutdown()
        server.server_close()


def rows(count: int, seconds: float) -> pl.DataFrame:
    return pl.DataFrame({"timestamp": [int(seconds * 1e9)] * count, "record_ms": [0] * count})


def test_processes_of_one_store_are_added_up(processes: list[tuple[ConsumerMetrics, str]]) -> None:
    (one, first), (two, second) = processes
    for metrics, partition, end in ((one, 0, 10), (two, 1, 20)):
        metrics.stored.labels("archive", partition).set(end)
        metrics.end.labels("archive", partition).set(end + 5)
        metrics.lag.labels("archive", partition).set(5)
    one.written("archive", rows(4, 1_000.0))
    two.written("archive", rows(6, 2_000.0))
    reported = read_reported([first, second])
    archive = reported.sinks["archive"]
    assert (archive.stored, archive.ends, archive.lag) == ({0: 10, 1: 20}, {0: 15, 1: 25}, {0: 5, 1: 5})
    assert (archive.records_written, archive.last_event_seconds) == (10, 2_000.0)
    assert reported.silent == []


def test_where_two_tell_of_a_partition_no_lag_is_hidden(processes: list[tuple[ConsumerMetrics, str]]) -> None:
    (one, first), (two, second) = processes
    one.stored.labels("hot", 0).set(10)
    one.lag.labels("hot", 0).set(90)
    two.stored.labels("hot", 0).set(100)
    two.lag.labels("hot", 0).set(0)
    for urls in ([first, second], [second, first]):
        hot = read_reported(urls).sinks["hot"]
        assert (hot.stored, hot.lag) == ({0: 100}, {0: 90})


def test_one_that_is_silent_is_named_and_the_other_heard(processes: list[tuple[ConsumerMetrics, str]]) -> None:
    (one, first), _ = processes
    one.stored.labels("hot", 0).set(1)
    gone = f"http://127.0.0.1:{free_port()}/metrics"
    reported = read_reported([gone, first])
    assert (reported.silent, reported.sinks["hot"].stored) == ([gone], {0: 1})
    with pytest.raises(ConsumerDownError, match="sieis consume"):
        read_reported([gone])


def test_another_server_at_the_address_is_no_consumer(processes: list[tuple[ConsumerMetrics, str]]) -> None:
    registry = CollectorRegistry()
    Counter("other", "something else", registry=registry)
    port = free_port()
    server, _ = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        with pytest.raises(NotConsumerMetricsError, match="SIEIS_METRICS_PORT"):
            read_reported([f"http://127.0.0.1:{port}/metrics"])
        (one, first), _ = processes
        one.stored.labels("hot", 0).set(1)
        reported = read_reported([f"http://127.0.0.1:{port}/metrics", first])
        assert (reported.silent, set(reported.sinks)) == ([f"http://127.0.0.1:{port}/metrics"], {"hot"})
    finally:
        server.shutdown()
        server.server_close()
