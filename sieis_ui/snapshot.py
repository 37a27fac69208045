"""One look at the building: the endpoints of a page asked at the same time, each with its answer or its error.

Belongs here: which calls make a page, and that one failing call leaves the others alone. Not here: drawing, caching.
"""

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sieis_ui.client import (
    Aggregate,
    Anomalies,
    ApiClient,
    ApiError,
    Health,
    Mote,
    Reading,
)

T = TypeVar("T")

#: Two dying motes send about 5,000 impossible readings a day; beyond this the panel says that it shows the newest.
ANOMALY_LIMIT: Final = 5_000


@dataclass(frozen=True)
class Part(Generic[T]):
    """The answer of one endpoint, or why there is none."""

    value: T | None = None
    error: ApiError | None = None

    @classmethod
    def of(cls, call: Callable[[], T]) -> "Part[T]":
        """The outcome of `call`; what is not an ApiError is a defect and passes through."""
        try:
            return cls(value=call())
        except ApiError as error:
            return cls(error=error)


@dataclass(frozen=True)
class Live:
    """What changes by the second."""

    health: Part[Health]
    latest: Part[tuple[Reading, ...]]
    motes: Part[tuple[Mote, ...]]
    taken_at: dt.datetime


@dataclass(frozen=True)
class Derived:
    """What changes when the platform computes: hourly aggregates and anomalies."""

    hourly: Part[tuple[Aggregate, ...]]
    anomalies: Part[Anomalies]
    taken_at: dt.datetime

    @property
    def failed(self) -> bool:
        """Whether any part has no answer."""
        return self.hourly.error is not None or self.anomalies.error is not None


def take_live(client: ApiClient) -> Live:
    """Health, latest readings and motes, now."""
    with ThreadPoolExecutor(3, thread_name_prefix="sieis-ui") as pool:
        health = pool.submit(Part.of, client.health)
        latest = pool.submit(Part.of, client.latest)
        motes = pool.submit(Part.of, client.motes)
        return Live(health.result(), latest.result(), motes.result(), dt.datetime.now(dt.UTC))


def take_derived(client: ApiClient) -> Derived:
    """The building's last 24 h of aggregates and the last week of anomalies."""
    with ThreadPoolExecutor(2, thread_name_prefix="sieis-ui") as pool:
        hourly = pool.submit(Part.of, client.hourly)
        anomalies = pool.submit(Part.of, lambda: client.anomalies(ANOMALY_LIMIT))
        return Derived(hourly.result(), anomalies.result(), dt.datetime.now(dt.UTC))
