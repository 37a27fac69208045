"""Prometheus metrics of the API: requests by route template, method and status, and how long they took.

Belongs here: the metrics of one app, in a registry of its own. Not here: when they are counted.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Live values should come in milliseconds, an archive query in a second or two; beyond ten something is wrong.
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ApiMetrics:
    """The counters of one app."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "sieis_api_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "sieis_api_request_seconds",
            "Time to answer a request, seconds.",
            ["method", "route"],
            registry=self._registry,
            buckets=_BUCKETS,
        )

        self._limited = Counter(
            "sieis_api_rate_limited", "Requests refused because their client sent too many.", registry=self._registry
        )
        self._redis_failures = Counter(
            "sieis_api_redis_failures",
            "Times Redis was asked in vain, by what for (cache, rate_limit, sessions).",
            ["use"],
            registry=self._registry,
        )
        self._redis_up: Gauge | None = None

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; `route` is the template, never the path, so that the number of series stays bounded."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def rate_limited(self) -> None:
        """Count a request that was refused."""
        self._limited.inc()

    def redis_is(self, *, up: bool) -> None:
        """Tell whether Redis answered last; without a Redis there is no such metric."""
        if self._redis_up is None:
            self._redis_up = Gauge("sieis_api_redis_up", "Whether Redis answered last.", registry=self._registry)
        self._redis_up.set(up)

    def redis_failed(self, use: str) -> None:
        """Count a question to Redis that had no answer."""
        self._redis_failures.labels(use).inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
