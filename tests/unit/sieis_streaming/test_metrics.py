"""What the consumer counts: right to within a bucket, whatever thread counts, readable by Prometheus."""

import socket
import threading
import time

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sieis_streaming.metrics import ConsumerMetrics, LatencyHistogram, MetricsPortError, latency_quantile
from tests.ports import free_port

NAME = "sieis_end_to_end_latency_seconds"
seconds = st.floats(0.00101, 100.0)  # between the first bound and the last


def observed(*latencies: float) -> np.ndarray:
    histogram = LatencyHistogram()
    histogram.observe("hot", np.array(latencies))
    return histogram.counts("hot")


@hypothesis_settings(deadline=None)
@given(st.lists(seconds, min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_right_to_within_a_bucket(latencies: list[float], quantile: float) -> None:
    found = latency_quantile(observed(*latencies), quantile)
    exact = sorted(latencies)[int(np.ceil(quantile * len(latencies) - 1e-9)) - 1]
    assert exact / 1.3001 <= found <= exact * 1.3001


@hypothesis_settings(deadline=None)
@given(st.lists(st.floats(-10.0, 1e6), max_size=100))
def test_every_latency_falls_into_one_bucket(latencies: list[float]) -> None:
    assert observed(*latencies).sum() == len(latencies)


def test_a_clock_that_runs_behind_is_no_negative_latency() -> None:
    counts = observed(-5.0)
    assert counts[0] == 1
    assert 0 <= latency_quantile(counts, 0.5) <= 0.001


def test_beyond_the_last_bound_the_last_bound_is_told() -> None:
    bound = latency_quantile(observed(1e5), 0.5)
    assert 100 < bound < 200
    assert observed(1e5)[-1] == 1


def test_nothing_counted_has_no_quantile() -> None:
    assert np.isnan(latency_quantile(LatencyHistogram().counts("hot"), 0.5))


def test_threads_lose_no_latency() -> None:
    histogram = LatencyHistogram()

    def observe(sink: str) -> None:
        for _ in range(300):
            histogram.observe(sink, np.full(7, 0.01))

    threads = [threading.Thread(target=observe, args=(sink,)) for sink in ("hot", "hot", "archive", "archive")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [histogram.counts(sink).sum() for sink in ("hot", "archive")] == [4_200, 4_200]


def rows(record_ms: list[int], timestamp: int = 5_000_000_000) -> pl.DataFrame:
    return pl.DataFrame({"timestamp": [timestamp + i for i in range(len(record_ms))], "record_ms": record_ms})


def test_what_is_written_is_counted_with_its_newest_reading() -> None:
    metrics = ConsumerMetrics()
    now_ms = time.time_ns() // 1_000_000
    metrics.written("hot", rows([now_ms, now_ms, -1]))  # -1: the producer gave no time
    metrics.written("hot", rows([]))
    value = metrics.registry.get_sample_value
    assert value("sieis_records_written_total", {"sink": "hot"}) == 3
    assert value("sieis_last_event_timestamp_seconds", {"sink": "hot"}) == pytest.approx(5.000000002, abs=1e-9)
    assert value(f"{NAME}_count", {"sink": "hot"}) == 2
    assert value("sieis_records_written_total", {"sink": "archive"}) is None


def test_it_is_served_as_prometheus_reads_it() -> None:
    metrics = ConsumerMetrics()
    metrics.latency.observe("hot", np.array([0.0005, 0.5, 0.5, 1e6]))
    metrics.errors.labels("archive", "ArchiveUnavailableError").inc()
    port = free_port()
    server = metrics.serve(port)
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    finally:
        server.shutdown()
        server.server_close()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    buckets = [sample for sample in families[NAME].samples if sample.name == f"{NAME}_bucket"]
    counts = [sample.value for sample in buckets]
    assert (counts[0], counts[-2], counts[-1]) == (1, 3, 4)
    assert counts == sorted(counts)
    assert buckets[-1].labels == {"sink": "hot", "le": "+Inf"}
    (error,) = [sample for sample in families["sieis_errors"].samples if sample.name.endswith("_total")]
    assert error.labels == {"sink": "archive", "kind": "ArchiveUnavailableError"}


def test_a_taken_port_is_an_error_that_names_the_setting() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(MetricsPortError, match="SIEIS_METRICS_PORT"):
        ConsumerMetrics().serve(port)
