"""Asking Redis without depending on it: when it does not answer, this process goes on alone.

Belongs here: that decision, its log and its metric. Not here: what Redis is asked (cache.py, rate_limit.py, sessions/).
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import structlog
from cashews.exceptions import CacheBackendInteractionError
from limits.errors import StorageError
from pydantic import SecretStr
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sieis_api.metrics import ApiMetrics
from sieis_platform.errors import FatalError

T = TypeVar("T")

log = structlog.get_logger(__name__)

# Redis on the same network answers within a millisecond; a live value from it is worth no more waiting than this.
_ANSWER_SECONDS: Final = 0.25
# While it is down one request in so long pays that wait, and its return is noticed as soon.
PAUSE_SECONDS: Final = 5.0

_FAILURES: Final = (CacheBackendInteractionError, StorageError, RedisError, OSError, TimeoutError)


class RedisAddressError(FatalError):
    """SIEIS_REDIS_URL is no address of a Redis."""


def address(url: SecretStr | None) -> str:
    """The URL as the clients want it; empty where none is set. Raises: RedisAddressError, which does not quote it."""
    text = url.get_secret_value() if url is not None else ""
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        sound = False
    if not sound:
        raise RedisAddressError("SIEIS_REDIS_URL is no address like redis://:password@host:6379/0")
    return text


def connection_options() -> dict[str, Any]:
    """How every client of ours connects: short waits, and one more try for a connection that Redis has dropped."""
    return {
        "socket_timeout": _ANSWER_SECONDS,
        "socket_connect_timeout": _ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 1),
    }


class RedisGuard:
    """Asks Redis, or for a while after a failure nobody; belongs to one event loop."""

    def __init__(self, metrics: ApiMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics, self._clock = metrics, clock
        self._again_at = 0.0
        self.up = True
        metrics.redis_is(up=True)

    async def ask(self, use: str, redis: Callable[[], Awaitable[T]], alone: Callable[[], Awaitable[T]]) -> T:
        """What `redis` answers; where it fails, or has just failed, what `alone` does. `use` names it in the metric."""
        if not self.up:
            if self._clock() < self._again_at:
                return await alone()
            self._again_at = self._clock() + PAUSE_SECONDS  # one request finds out, the others do not wait with it
        try:
            answer = await redis()
        except _FAILURES as error:
            self._failed(use, error)
            return await alone()
        self._answered()
        return answer

    def _failed(self, use: str, error: BaseException) -> None:
        self._again_at = self._clock() + PAUSE_SECONDS
        self._metrics.redis_failed(use)
        if self.up:
            self.up = False
            self._metrics.redis_is(up=False)
            cause = error.__cause__ or error
            log.warning(
                "Redis does not answer: this process caches, counts and keeps sessions for itself until it does",
                use=use,
                error=str(cause),
                kind=type(cause).__name__,
            )

    def _answered(self) -> None:
        if not self.up:
            self.up = True
            self._metrics.redis_is(up=True)
            log.info("Redis answers again")
