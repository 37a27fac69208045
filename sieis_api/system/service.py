"""Whether the parts that the API needs answer, and what they hold.

Belongs here: the checks. Not here: HTTP, and the health of other processes (they have their own).
"""

import time
from collections.abc import Callable
from importlib import metadata
from typing import Final, Literal

import msgspec
import structlog

from sieis_api.redis_guard import RedisGuard
from sieis_api.stores import AGGREGATES, ANOMALIES, Stores
from sieis_platform.errors import SieisError

log = structlog.get_logger(__name__)

REQUIRED: Final = "hot_store"
#: Health is asked by load balancers and screens at once, and may be asked without a key: one check a second serves all.
MAX_AGE_SECONDS: Final = 1.0


class Component(msgspec.Struct, frozen=True):
    """State of one part."""

    status: Literal["ok", "empty", "down"]
    detail: str


class Health(msgspec.Struct, frozen=True):
    """State of all parts."""

    status: Literal["ok", "degraded", "down"]
    version: str
    components: dict[str, Component]


def check(stores: Stores, redis: RedisGuard | None = None) -> Health:
    """Ask every part (blocking). Redis is not asked: `redis` knows how it answered the last request."""
    parts: dict[str, Callable[[], Component]] = {
        REQUIRED: lambda: _hot(stores),
        "archive": lambda: _archive(stores),
        **{table: lambda table=table: _mart(stores, table) for table in (*AGGREGATES.values(), ANOMALIES)},
    }
    if redis is not None:
        parts["redis"] = lambda: _redis(redis)
    components = {name: _asked(name, ask) for name, ask in parts.items()}
    down = [name for name, component in components.items() if component.status == "down"]
    status = "down" if REQUIRED in down else "degraded" if down else "ok"
    return Health(status, metadata.version("sieis"), components)


def _asked(name: str, ask: Callable[[], Component]) -> Component:
    try:
        return ask()
    except SieisError as error:
        log.warning("component down", component=name, error=str(error), kind=type(error).__name__)
        return Component("down", f"does not answer ({type(error).__name__}); the log of the API says why")


def _hot(stores: Stores) -> Component:
    stores.hot.ping()
    latest = stores.hot.latest()
    if latest.is_empty():
        return Component("empty", "no recent reading; run `sieis load FILE`, or `sieis simulate` and `sieis consume`")
    age = time.time_ns() - int(latest["timestamp"].max())  # pyright: ignore[reportArgumentType] - Int64, not empty
    when = f"{age / 1e9:.0f} s old" if age >= 0 else f"{-age / 1e9:.0f} s ahead of the clock"
    return Component("ok", f"{latest.height} motes, newest reading {when}")


def _redis(redis: RedisGuard) -> Component:
    if redis.up:
        return Component("ok", "answered last time")
    return Component(
        "down", "did not answer last time; each process of the API caches, counts and keeps sessions for itself"
    )


def _archive(stores: Stores) -> Component:
    archive = stores.archive()
    if not archive.exists():
        return Component("empty", "not created yet; run `sieis load FILE` or `sieis consume`")
    files = archive.files()
    archive.require_cold(files)
    return Component("ok", f"version {files.version}")


def _mart(stores: Stores, table: str) -> Component:
    marts = stores.marts()
    if not marts.exists(table):
        return Component("empty", "not materialized yet; run `sieis up` or materialize it in Dagster")
    return Component("ok", f"version {marts.version(table)}")
