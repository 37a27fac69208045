"""How many requests a client may send: counted by its address, in this process or in Redis for all of them.

Belongs here: the counting and who is counted. Not here: the answer to one who sent too many (middleware.py).
"""

import ipaddress
import math
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import ConnectionPool

from sieis_api.cache import PREFIX
from sieis_api.redis_guard import RedisGuard, connection_options
from sieis_api.security import is_loopback

_NAMESPACE: Final = "limit"
_USE: Final = "rate_limit"
_WINDOW_SECONDS: Final = 60
_SITE_BITS: Final = 64  # an IPv6 client usually owns a whole /64 (RFC 6177) and may send from any address of it


class RateLimiter:
    """At most `per_minute` requests of one client in any minute (0: no limit), by the sliding window counter.

    That counter keeps two numbers a client and estimates the window between them: exact for an even flow. Requests
    from this machine are not counted: without a key only it may ask, and a proxy on it does its own counting.
    """

    def __init__(self, per_minute: int, url: str = "", guard: RedisGuard | None = None, prefix: str = PREFIX) -> None:
        self._limit = RateLimitItemPerMinute(per_minute, namespace=_NAMESPACE) if per_minute else None
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._guard = guard
        self._pool: ConnectionPool | None = None
        self._shared: SlidingWindowCounterRateLimiter | None = None
        if url and guard is not None:
            self._pool = ConnectionPool.from_url(url, **connection_options())
            # The parameter is typed as text, and documented as, and handed on as, a pool.
            pool = cast(str, self._pool)
            storage = RedisStorage(
                f"async+{url}",
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix=prefix + _NAMESPACE,
                connection_pool=pool,
            )
            self._shared = SlidingWindowCounterRateLimiter(storage)

    async def wait_seconds(self, client: str) -> int | None:
        """Count a request of `client` (see `client_of`); seconds it must wait where that is one too many, else None."""
        if self._limit is None:
            return None
        if self._shared is None or self._guard is None:
            return await self._count(self._own, self._limit, client)
        limit, shared = self._limit, self._shared
        return await self._guard.ask(
            _USE, lambda: self._count(shared, limit, client), lambda: self._count(self._own, limit, client)
        )

    async def close(self) -> None:
        """Give the connections back."""
        if self._pool is not None:
            await self._pool.aclose()

    @staticmethod
    async def _count(
        counter: SlidingWindowCounterRateLimiter, limit: RateLimitItemPerMinute, client: str
    ) -> int | None:
        if await counter.hit(limit, client):
            return None
        reset = (await counter.get_window_stats(limit, client)).reset_time
        return min(max(1, math.ceil(reset - time.time())), _WINDOW_SECONDS)


def client_of(scope: Mapping[str, Any]) -> str | None:
    """Who is counted for a request: the address of its peer, for IPv6 its site; None for this machine.

    A header that names another address (X-Forwarded-For) is the client's own word and counts for nothing.
    """
    client = scope.get("client")
    if client is None:
        return "unknown"
    host = str(client[0])
    if is_loopback(host):
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _SITE_BITS), strict=False).network_address)
    return host
