"""Sessions: what is kept of them, in process and in Redis, and what no other than their bearer can do with it."""

import asyncio
import datetime as dt
import hashlib

import pytest
from pydantic import SecretStr

from sieis_api.cache import Cache, open_cache
from sieis_api.errors import NoKeySetError
from sieis_api.metrics import ApiMetrics
from sieis_api.redis_guard import RedisGuard
from sieis_api.sessions.service import Sessions
from tools.services.instance import Instance

KEY = SecretStr("correct-horse-battery")
NOON = dt.datetime(2026, 2, 20, 12, tzinfo=dt.UTC)


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = NOON.timestamp()

    def __call__(self) -> float:
        return self.now


def kept_at(url: str) -> Cache:
    return open_cache(url, RedisGuard(ApiMetrics()) if url else None, "sieis-test:", "sessions")


def name_of(token: str) -> str:
    return f"session:{hashlib.sha256(token.encode()).hexdigest()}"


def test_a_session_counts_from_its_opening_to_its_end(url: str) -> None:
    async def scenario() -> None:
        clock, cache = Clock(), kept_at(url)
        sessions = Sessions(cache, KEY, 12, clock)
        opened = await sessions.open()
        token = opened.token.get_secret_value()
        assert opened.ends_at == NOON + dt.timedelta(hours=12) == await sessions.ends_at(token)
        assert await sessions.ends_at((await sessions.open()).token.get_secret_value()) is not None
        clock.now += 12 * 3600 - 1
        assert await sessions.ends_at(token) == opened.ends_at
        clock.now += 1
        assert await sessions.ends_at(token) is None
        await cache.close()

    asyncio.run(scenario())


def test_a_session_that_was_ended_is_none_and_the_others_stay(url: str) -> None:
    async def scenario() -> None:
        cache = kept_at(url)
        sessions = Sessions(cache, KEY, 12)
        ended, other = [(await sessions.open()).token.get_secret_value() for _ in range(2)]
        assert await sessions.end(ended) == (not url.endswith("127.0.0.1:1/0"))
        await sessions.end(ended)
        assert await sessions.ends_at(ended) is None
        assert await sessions.ends_at(other) is not None
        await cache.close()

    asyncio.run(scenario())


def test_another_api_key_ends_them_all(url: str) -> None:
    async def scenario() -> None:
        cache = kept_at(url)
        token = (await Sessions(cache, KEY, 12).open()).token.get_secret_value()
        assert await Sessions(cache, SecretStr("another key"), 12).ends_at(token) is None
        assert await Sessions(cache, None, 12).ends_at(token) is None
        assert await Sessions(cache, KEY, 12).ends_at(token) is not None
        await cache.close()

    asyncio.run(scenario())


class Recorded(Cache):
    """Remembers what it was given and told to ask for."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def get(self, key: str) -> bytes | None:
        self.asked.append(key)
        return self.kept.get(key)

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        self.kept[key] = value

    async def delete(self, *keys: str) -> bool:
        self.asked.extend(keys)
        return True

    async def close(self) -> None: ...


def test_who_reads_the_cache_learns_neither_token_nor_key() -> None:
    async def scenario() -> None:
        cache = Recorded()
        opened = await Sessions(cache, KEY, 12).open()
        token = opened.token.get_secret_value()
        assert len(token) == 43  # 256 bits
        ((name, value),) = cache.kept.items()
        assert name == name_of(token)
        told = name.encode() + value + repr(opened).encode() + repr(Sessions(cache, KEY, 12)).encode()
        for secret in (token.encode(), KEY.get_secret_value().encode()):
            assert secret not in told
            assert hashlib.sha256(secret).digest() not in value

    asyncio.run(scenario())


def test_who_writes_to_the_cache_opens_no_session_and_lengthens_none() -> None:
    async def scenario() -> None:
        clock, cache = Clock(), Recorded()
        sessions = Sessions(cache, KEY, 12, clock)
        one, other = [(await sessions.open()).token.get_secret_value() for _ in range(2)]
        value = cache.kept[name_of(one)]
        later = (int.from_bytes(value[:8]) + 3600).to_bytes(8) + value[8:]
        mine = "A" * 43
        for token, forged in [
            (one, later),
            (one, value[:-1]),
            (one, value + b"\0"),
            (one, b""),
            (one, value[:-1] + bytes([value[-1] ^ 1])),
            (other, value),  # the seal of another token
            (mine, value),
            (mine, value[:8] + bytes(32)),
        ]:
            cache.kept[name_of(token)] = forged
            assert await sessions.ends_at(token) is None
        cache.kept[name_of(one)] = value
        assert await sessions.ends_at(one) is not None

    asyncio.run(scenario())


@pytest.mark.parametrize("token", ["", "x", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "\n", "ÿ" * 43, "A" * 9000])
def test_what_cannot_be_a_token_is_not_even_asked_for(token: str) -> None:
    async def scenario() -> None:
        cache = Recorded()
        sessions = Sessions(cache, KEY, 12)
        assert await sessions.ends_at(token) is None
        assert await sessions.end(token)
        assert not cache.asked

    asyncio.run(scenario())


def test_without_a_key_there_is_nothing_to_sign_in_to() -> None:
    async def scenario() -> None:
        with pytest.raises(NoKeySetError, match="SIEIS_API_KEY"):
            await Sessions(Recorded(), None, 12).open()

    asyncio.run(scenario())


@pytest.mark.services
def test_processes_that_share_a_redis_share_sessions_and_their_end(redis: Instance) -> None:
    async def scenario() -> None:
        caches = [kept_at(redis.settings["SIEIS_REDIS_URL"]) for _ in range(2)]
        one, other = (Sessions(cache, KEY, 12) for cache in caches)
        opened = await one.open()
        token = opened.token.get_secret_value()
        assert await other.ends_at(token) == opened.ends_at
        assert await other.end(token)
        assert await one.ends_at(token) is None
        for cache in caches:
            await cache.close()

    asyncio.run(scenario())
