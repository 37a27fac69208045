"""Values that the API's processes share for a moment: in this process, or in Redis for all of them.

Belongs here: keeping bytes under a key until they expire. Not here: what is kept, nor who loads it (coalesce.py).
"""

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import cashews

from sieis_api.redis_guard import RedisGuard, connection_options

T = TypeVar("T")

PREFIX: Final = "sieis:"
"""How the keys begin, where the settings (redis_prefix) are not asked."""

_USE: Final = "cache"


class Cache(Protocol):
    """Bytes by key, each until its time is over. A cache may forget at any time, and never fails for being away."""

    async def get(self, key: str) -> bytes | None:
        """What is kept under `key`, or None."""
        ...

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        """Keep `value` for `seconds` (> 0), replacing what was there."""
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

    async def close(self) -> None:
        """Give the connections back."""
        await self._cache.close()


class SharedCache(Cache):
    """The cache on Redis; while that does not answer, one in this process."""

    def __init__(self, url: str, guard: RedisGuard, prefix: str = PREFIX) -> None:
        self._redis, self._own, self._guard = CashewsCache(url, prefix), CashewsCache("mem://"), guard

    async def get(self, key: str) -> bytes | None:
        """What is kept under `key`, or None."""
        return await self._guard.ask(_USE, lambda: self._redis.get(key), lambda: self._own.get(key))

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        """Keep `value` for `seconds`."""
        await self._guard.ask(
            _USE, lambda: self._redis.set(key, value, seconds), lambda: self._own.set(key, value, seconds)
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self._redis.close()
        await self._own.close()


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


def open_cache(url: str, guard: RedisGuard | None, prefix: str = PREFIX) -> Cache:
    """The cache at `url` (see redis_guard.address); empty: in this process. Nothing is connected before its use."""
    return SharedCache(url, guard, prefix) if url and guard is not None else CashewsCache("mem://")
