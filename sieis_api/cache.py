"""Values that the API's processes share for a while: in this process, or in Redis for all of them.

Belongs here: keeping bytes under a key until they expire. Not here: what is kept, nor who loads it (coalesce.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

import cashews
import structlog

from sieis_api.redis_guard import PAUSE_SECONDS, RedisGuard, connection_options
from sieis_platform.errors import RetriableError

T = TypeVar("T")

log = structlog.get_logger(__name__)

PREFIX: Final = "sieis:"
"""How the keys begin, where the settings (redis_prefix) are not asked."""

# Of sessions and live values, the most that this process keeps; looked through for what is over once a minute.
_IN_PROCESS: Final = "mem://?size=10000&check_interval=60"
# About a megabyte of keys: anybody may ask to end a session, and whether there is one only Redis knows.
_MOST_OWED: Final = 10_000


class CacheUnavailableError(RetriableError):
    """Redis does not answer, and more was to be deleted from it since than is remembered."""


class Cache(Protocol):
    """Bytes by key, each until its time is over. A cache may forget at any time, and never fails for being away."""

    async def get(self, key: str) -> bytes | None:
        """What is kept under `key`, or None."""
        ...

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        """Keep `value` for `seconds` (> 0), replacing what was there."""
        ...

    async def delete(self, *keys: str) -> bool:
        """Forget what is kept under `keys`; it is never answered again.

        False: a server that may still hold it does not answer. That is made up for when it does; other processes
        that reach it may be answered until then. Raises: CacheUnavailableError where that is too much to remember.
        """
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...


class CashewsCache(Cache):
    """A cache of the library cashews: `mem://` in this process, `redis://…` on a server."""

    def __init__(self, url: str, prefix: str = PREFIX) -> None:
        self._prefix = prefix
        self._cache = cashews.Cache()
        options = {} if url.startswith("mem") else {"suppress": False, **connection_options()}
        # Never pickle: whoever can write into Redis could then run code here.
        self._cache.setup(url, pickle_type="null", **options)

    async def get(self, key: str) -> bytes | None:
        """What is kept under `key`. Raises, on a server: CacheBackendInteractionError."""
        kept = await self._cache.get(self._prefix + key)
        return kept if isinstance(kept, bytes) else None

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        """Keep `value`. Raises, on a server: CacheBackendInteractionError."""
        await self._cache.set(self._prefix + key, value, expire=seconds)

    async def delete(self, *keys: str) -> bool:
        """Forget what is kept under `keys`. Raises, on a server: CacheBackendInteractionError."""
        await self._cache.delete_many(*(self._prefix + key for key in keys))
        return True

    async def close(self) -> None:
        """Give the connections back."""
        await self._cache.close()


class SharedCache(Cache):
    """The cache on Redis; while that does not answer, one in this process, which is empty again once it does.

    What is deleted meanwhile is deleted from Redis when it answers again.
    """

    def __init__(self, url: str, guard: RedisGuard, prefix: str = PREFIX, use: str = "cache") -> None:
        self._redis, self._own = CashewsCache(url, prefix), CashewsCache(_IN_PROCESS)
        self._guard, self._use = guard, use
        self._own_used = False
        self._owed: set[str] = set()
        self._paying: asyncio.Task[None] | None = None

    async def get(self, key: str) -> bytes | None:
        """What is kept under `key`, or None."""
        if key in self._owed:
            return None
        return await self._ask(lambda: self._redis.get(key), lambda: self._own.get(key))

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        """Keep `value` for `seconds`."""
        self._owed.discard(key)
        await self._ask(lambda: self._redis.set(key, value, seconds), lambda: self._keep(key, value, seconds))

    async def delete(self, *keys: str) -> bool:
        """Forget what is kept under `keys`; False where Redis will be told later. Raises: CacheUnavailableError."""
        await self._own.delete(*keys)
        return await self._ask(lambda: self._redis.delete(*keys), lambda: self._owe(*keys))

    async def close(self) -> None:
        """Delete what could not be deleted before, or say that it was not; give the connections back."""
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.wait([self._paying])
        if self._owed and not await self._pay():
            log.warning("Redis is away: what was to be deleted stays in it until its time is over", use=self._use)
        await self._redis.close()
        await self._own.close()

    async def _ask(self, redis: Callable[[], Awaitable[T]], alone: Callable[[], Awaitable[T]]) -> T:
        async def shared() -> T:
            answer = await redis()
            if self._own_used:
                # Or it would be back, deleted or replaced elsewhere since, when Redis is away the next time.
                stale, self._own, self._own_used = self._own, CashewsCache(_IN_PROCESS), False
                await stale.close()
            return answer

        return await self._guard.ask(self._use, shared, alone)

    async def _keep(self, key: str, value: bytes, seconds: float) -> None:
        self._own_used = True
        await self._own.set(key, value, seconds)

    async def _owe(self, *keys: str) -> bool:
        if len(self._owed) + len(keys) > _MOST_OWED:
            raise CacheUnavailableError(f"Redis is away and {len(self._owed):,} keys wait to be deleted from it")
        self._owed.update(keys)
        if self._paying is None or self._paying.done():
            self._paying = asyncio.create_task(self._pay_later())
        return False

    async def _pay_later(self) -> None:
        while self._owed:
            await asyncio.sleep(PAUSE_SECONDS)
            await self._pay()

    async def _pay(self) -> bool:
        owed = tuple(self._owed)
        paid = await self._ask(lambda: self._redis.delete(*owed), _not_yet)
        if paid:
            self._owed.difference_update(owed)
        return paid


async def _not_yet() -> bool:
    return False


class Slot(Generic[T]):
    """One value of a cache, with the way it becomes bytes and back; `decode` gives None for what it cannot read."""

    def __init__(
        self, cache: Cache, key: str, encode: Callable[[T], bytes], decode: Callable[[bytes], T | None]
    ) -> None:
        self._cache, self._key, self._encode, self._decode = cache, key, encode, decode

    async def get(self) -> T | None:
        """The value, or None where there is none or another version of SIEIS has written it."""
        kept = await self._cache.get(self._key)
        return self._decode(kept) if kept is not None else None

    async def set(self, value: T, seconds: float) -> None:
        """Keep `value` for `seconds`; not at all where its time is over."""
        if seconds > 0:
            await self._cache.set(self._key, self._encode(value), seconds)


def open_cache(url: str, guard: RedisGuard | None, prefix: str = PREFIX, use: str = "cache") -> Cache:
    """The cache at `url` (see redis_guard.address); empty: in this process. Nothing is connected before its use.

    `use` names it in the metric of failures.
    """
    return SharedCache(url, guard, prefix, use) if url and guard is not None else CashewsCache(_IN_PROCESS)
