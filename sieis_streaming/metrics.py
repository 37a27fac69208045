"""What the consumer counts, as Prometheus metrics, one label `sink` a store.

Belongs here: the metrics and the port they are served on. Not here: when something is counted (consumer and sinks).
"""

import threading
import time
from collections.abc import Iterator
from wsgiref.simple_server import WSGIServer

import numpy as np
import polars as pl
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from sieis_platform.errors import FatalError

# 1 ms to about 2 min in steps of 1.3: a quantile read from the buckets is then right to within 15%.
_LATENCY_BUCKETS = tuple(0.001 * 1.3**step for step in range(46))


class MetricsPortError(FatalError):
    """The port of the metrics cannot be had."""


class LatencyHistogram(Collector):
    """Latencies in seconds, counted in columns: the library's own histogram takes one value a call."""

    def __init__(self) -> None:
        self._counts: dict[str, np.ndarray] = {}
        self._sums: dict[str, float] = {}
        self._lock = threading.Lock()

    def observe(self, sink: str, seconds: np.ndarray) -> None:
        """Count the latencies `seconds` (any shape) of one write."""
        seconds = np.maximum(seconds, 0.0)
        counts = np.bincount(np.searchsorted(_LATENCY_BUCKETS, seconds), minlength=len(_LATENCY_BUCKETS) + 1)
        with self._lock:
            self._counts[sink] = self._counts.get(sink, 0) + counts
            self._sums[sink] = self._sums.get(sink, 0.0) + float(seconds.sum())

    def counts(self, sink: str) -> np.ndarray:
        """How many latencies fell into each bucket so far (one more than there are bounds: the last has none)."""
        with self._lock:
            return np.array(self._counts.get(sink, np.zeros(len(_LATENCY_BUCKETS) + 1)))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric family, as Prometheus asks for it."""
        family = HistogramMetricFamily(
            "sieis_end_to_end_latency_seconds",
            "From the producer's record timestamp to readable in the store",
            labels=["sink"],
        )
        with self._lock:
            for sink, counts in self._counts.items():
                cumulated = np.cumsum(counts)
                bounds = [*(f"{bound:.6g}" for bound in _LATENCY_BUCKETS), "+Inf"]
                family.add_metric([sink], list(zip(bounds, cumulated.tolist(), strict=True)), self._sums[sink])
        yield family


def latency_quantile(counts: np.ndarray, quantile: float) -> float:
    """The latency in seconds below which `quantile` (0 to 1) of the counted ones lie.

    `counts` are those of the buckets, not cumulated; linear inside a bucket, as Prometheus' histogram_quantile. NaN
    where nothing was counted.
    """
    cumulated = np.cumsum(counts)
    if not cumulated[-1]:
        return float("nan")
    rank = quantile * cumulated[-1]
    bucket = int(np.searchsorted(cumulated, rank))
    bounds = (0.0, *_LATENCY_BUCKETS)
    if bucket >= len(_LATENCY_BUCKETS):
        return bounds[-1]
    below = cumulated[bucket - 1] if bucket else 0
    return bounds[bucket] + (bounds[bucket + 1] - bounds[bucket]) * float((rank - below) / counts[bucket])


class ConsumerMetrics:
    """Counters of one consumer process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        sink = ["sink"]
        self.records_read = Counter("sieis_records_read", "Records taken from the broker", sink, registry=self.registry)
        self.records_written = Counter(
            "sieis_records_written", "Readings now in the store", sink, registry=self.registry
        )
        self.beyond_retention = Counter(
            "sieis_beyond_retention",
            "Readings the hot store refused as older than its retention",
            sink,
            registry=self.registry,
        )
        self.refused = Counter(
            "sieis_refused",
            "Readings the hot store refused for another reason than their age (the log says which)",
            sink,
            registry=self.registry,
        )
        self.duplicates = Counter("sieis_duplicates", "Identical readings dropped", sink, registry=self.registry)
        self.dead_letters = Counter(
            "sieis_dead_letters", "Records without meaning, by reason", [*sink, "reason"], registry=self.registry
        )
        self.lost = Counter("sieis_records_lost", "Positions the broker no longer had", sink, registry=self.registry)
        self.errors = Counter("sieis_errors", "Errors by kind", [*sink, "kind"], registry=self.registry)
        self.flushes = Counter("sieis_flushes", "Writes to the store", sink, registry=self.registry)
        self.lag = Gauge(
            "sieis_lag_records", "Records behind the end of the partition", [*sink, "partition"], registry=self.registry
        )
        self.end = Gauge(
            "sieis_end_offset",
            "Offset behind the last record of the partition",
            [*sink, "partition"],
            registry=self.registry,
        )
        self.stored = Gauge(
            "sieis_stored_offset",
            "Offset behind the last record that is in the store or accounted for",
            [*sink, "partition"],
            registry=self.registry,
        )
        self.assigned = Gauge(
            "sieis_assigned_partitions", "Partitions this process reads for the store", sink, registry=self.registry
        )
        self.last_event = Gauge(
            "sieis_last_event_timestamp_seconds", "Newest reading written, Unix seconds", sink, registry=self.registry
        )
        self.latency = LatencyHistogram()
        self.registry.register(self.latency)

    def written(self, sink: str, rows: pl.DataFrame, beyond_retention: int = 0, refused: int = 0) -> None:
        """Count `rows` (with `timestamp` and `record_ms`) as readable in the store from this moment on.

        But for `beyond_retention` and `refused` of them, which the store did not take.
        """
        if not rows.height:
            return
        self.records_written.labels(sink).inc(rows.height - beyond_retention - refused)
        self.beyond_retention.labels(sink).inc(beyond_retention)
        self.refused.labels(sink).inc(refused)
        newest = rows["timestamp"].max()
        if isinstance(newest, int):
            self.last_event.labels(sink).set(newest / 1e9)
        known = rows["record_ms"].filter(rows["record_ms"] >= 0)
        self.latency.observe(sink, (time.time_ns() // 1_000_000 - known.to_numpy()) / 1e3)

    def serve(self, port: int, host: str = "127.0.0.1") -> WSGIServer:
        """Serve the metrics on `host`:`port` from a thread of its own.

        Raises: MetricsPortError where the port is taken.
        """
        try:
            server, _thread = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise MetricsPortError(
                f"the consumer's metrics cannot be served on {host}:{port} ({error.strerror}); "
                "stop what uses it or set SIEIS_METRICS_PORT"
            ) from error
        return server
