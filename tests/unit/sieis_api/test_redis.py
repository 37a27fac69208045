"""Cache and rate limit, one contract in process and on Redis; and what happens while Redis is away."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import polars as pl
import pytest
import structlog
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from sieis_api import live
from sieis_api.cache import Cache, CacheUnavailableError, open_cache
from sieis_api.envelope import ErrorEnvelope
from sieis_api.metrics import ApiMetrics
from sieis_api.rate_limit import RateLimiter, client_of
from sieis_api.redis_guard import RedisAddressError, RedisGuard, address
from sieis_platform.settings import Settings
from sieis_platform.stores.sqlite import SqliteHotStore
from tools.services.instance import Instance

LATEST = "/api/v1/sensors/latest"
NOWHERE = "redis://:hunter2@127.0.0.1:1/0"


def opened(url: str, metrics: ApiMetrics | None = None) -> Cache:
    return open_cache(url, RedisGuard(metrics or ApiMetrics()) if url else None)


def metric(rendered: bytes, name: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(rendered.decode())
    samples = (sample for family in families for sample in family.samples if sample.name == name)
    return {tuple(sample.labels.values()): sample.value for sample in samples}


# -- the cache -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"value", b"", b"17", b"bytes:x", b"bytes:", bytes(range(256)), b"\x80\x05]\x94."])
def test_what_is_kept_comes_back_byte_by_byte(url: str, value: bytes) -> None:
    async def scenario() -> None:
        cache = opened(url)
        await cache.set("key", b"before", 10)
        await cache.set("key", value, 10)
        assert await cache.get("key") == value
        assert await cache.get("another key") is None
        await cache.close()

    asyncio.run(scenario())


def test_a_value_is_gone_when_its_time_is_over(url: str) -> None:
    async def scenario() -> None:
        cache = opened(url)
        await cache.set("short", b"value", 0.05)
        await cache.set("long", b"value", 60)
        async with asyncio.timeout(5):
            while await cache.get("short") is not None:
                await asyncio.sleep(0.01)  # only time makes it go away
        assert await cache.get("long") == b"value"
        await cache.close()

    asyncio.run(scenario())


def test_what_is_deleted_is_gone_and_nothing_else(url: str) -> None:
    async def scenario() -> None:
        cache = opened(url)
        for key in ("one", "two", "three"):
            await cache.set(key, b"value", 10)
        await cache.delete("one", "two")
        await cache.delete("never there")
        assert [await cache.get(key) for key in ("one", "two", "three")] == [None, None, b"value"]
        await cache.set("one", b"again", 10)
        assert await cache.get("one") == b"again"
        await cache.close()

    asyncio.run(scenario())


@pytest.mark.services
def test_two_processes_share_a_value_and_it_is_no_pickle(redis: Instance) -> None:
    async def scenario() -> None:
        url = redis.settings["SIEIS_REDIS_URL"]
        one, other = opened(url), opened(url)
        await one.set("shared", b"value", 10)
        assert await other.get("shared") == b"value"
        # What somebody else has written there is read as bytes, whatever it looks like.
        await one.set("shared", b"cos\nsystem\n(S'exit 1'\ntR.", 10)
        assert await other.get("shared") == b"cos\nsystem\n(S'exit 1'\ntR."
        await one.close()
        await other.close()

    asyncio.run(scenario())


class CountedHotStore(SqliteHotStore):
    """Counts how often it is asked for live values."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.hot_path)
        self.asked = 0

    def latest(self, *args, **kwargs) -> pl.DataFrame:
        self.asked += 1
        return super().latest(*args, **kwargs)


@pytest.mark.services
def test_processes_that_share_a_redis_load_live_values_once(installation, redis: Instance) -> None:
    async def scenario() -> None:
        hot = CountedHotStore(installation.settings)
        caches = [opened(redis.settings["SIEIS_REDIS_URL"]) for _ in range(3)]
        first, *others = [live.coalesced(hot, 54, cache) for cache in caches]
        loaded = await first.get()
        for other in others:
            assert (await other.get()).frame.equals(loaded.frame)
        assert hot.asked == 1
        # What another version of SIEIS has left there is not taken.
        await caches[0].set("live:54", b"something else", 10)
        assert (await others[0].get()).frame.equals(loaded.frame)
        assert hot.asked == 2
        for cache in caches:
            await cache.close()
        hot.close()

    asyncio.run(scenario())


# -- the rate limit ------------------------------------------------------------------------------------------------


def test_each_client_has_its_own_count(url: str) -> None:
    async def scenario() -> None:
        limiter = RateLimiter(5, url, RedisGuard(ApiMetrics()) if url else None)
        assert [await limiter.wait_seconds(f"192.0.2.1{url[:5]}") for _ in range(5)] == [None] * 5
        wait = await limiter.wait_seconds(f"192.0.2.1{url[:5]}")
        assert wait is not None
        assert 1 <= wait <= 60
        assert await limiter.wait_seconds(f"192.0.2.2{url[:5]}") is None
        await limiter.close()

    asyncio.run(scenario())


@pytest.mark.services
def test_processes_that_share_a_redis_count_together(redis: Instance) -> None:
    async def scenario() -> None:
        url = redis.settings["SIEIS_REDIS_URL"]
        limiters = [RateLimiter(6, url, RedisGuard(ApiMetrics())) for _ in range(3)]
        answers = [await limiter.wait_seconds("198.51.100.1") for limiter in limiters for _ in range(3)]
        assert answers[:6] == [None] * 6
        assert None not in answers[6:]
        for limiter in limiters:
            await limiter.close()

    asyncio.run(scenario())


@pytest.mark.services
def test_installations_with_prefixes_of_their_own_share_a_redis_and_nothing_in_it(redis: Instance) -> None:
    async def scenario() -> None:
        url = redis.settings["SIEIS_REDIS_URL"]
        caches = [open_cache(url, RedisGuard(ApiMetrics()), prefix) for prefix in ("one:", "other:")]
        await caches[0].set("key", b"value", 60)
        assert [await cache.get("key") for cache in caches] == [b"value", None]
        limiters = [RateLimiter(1, url, RedisGuard(ApiMetrics()), prefix) for prefix in ("one:", "other:")]
        assert [await limiter.wait_seconds("198.51.100.2") for limiter in limiters] == [None, None]
        assert None not in [await limiter.wait_seconds("198.51.100.2") for limiter in limiters]
        for one in (*caches, *limiters):
            await one.close()

    asyncio.run(scenario())


def test_no_limit_counts_nothing() -> None:
    async def scenario() -> None:
        limiter = RateLimiter(0)
        assert [await limiter.wait_seconds("192.0.2.1") for _ in range(100)] == [None] * 100

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("127.0.0.1", None),
        ("::1", None),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("2001:db8:1:3::9", "2001:db8:1:3::"),
        ("a name", "a name"),
    ],
)
def test_clients_are_told_apart_by_address(peer: str, client: str | None) -> None:
    forged = [(b"x-forwarded-for", b"127.0.0.1")]
    assert client_of({"client": (peer, 1), "headers": forged}) == client


def test_one_who_asks_too_often_is_told_when_to_come_back(
    installation, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    settings = settings_of(installation.settings.data_dir, api_key="k", rate_limit_per_minute=3)
    with client_for(settings, peer="192.0.2.7", host="sieis.example.org") as client:
        # A wrong key counts as well: nobody may try keys as fast as they like.
        answers = [client.get(LATEST, headers={"X-API-Key": "wrong"}) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {HTTPStatus.UNAUTHORIZED}
        for path in (LATEST, "/metrics", "/nowhere"):
            refused = client.get(path, headers={"X-API-Key": "k"})
            assert refused.status_code == HTTPStatus.TOO_MANY_REQUESTS
            assert ErrorEnvelope.model_validate_json(refused.content).data.code == "rate_limited"
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert client.get("/api/v1/health").status_code == HTTPStatus.OK
    with client_for(settings, peer="127.0.0.1") as client:
        answers = [client.get(LATEST, headers={"X-API-Key": "k"}) for _ in range(10)]
        assert {answer.status_code for answer in answers} == {HTTPStatus.OK}


# -- without Redis -------------------------------------------------------------------------------------------------


def test_while_redis_is_away_everything_is_answered_and_told(
    installation, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    settings = settings_of(
        installation.settings.data_dir, redis_url=SecretStr(NOWHERE), api_key="k", rate_limit_per_minute=3
    )
    with client_for(settings, peer="192.0.2.7") as client:
        headers = {"X-API-Key": "k"}
        answers = [client.get(LATEST, headers=headers).status_code for _ in range(4)]
        assert answers == [HTTPStatus.OK] * 3 + [HTTPStatus.TOO_MANY_REQUESTS]
        health = client.get("/api/v1/health", headers=headers)
    assert health.json()["data"]["status"] == "degraded"
    assert health.json()["data"]["components"]["redis"]["status"] == "down"
    assert "hunter2" not in health.text
    with client_for(settings) as client:
        client.get(LATEST, headers={"X-API-Key": "k"})
        rendered = client.get("/metrics", headers={"X-API-Key": "k"}).content
    assert metric(rendered, "sieis_api_redis_up") == {(): 0.0}
    assert sum(metric(rendered, "sieis_api_redis_failures_total").values()) >= 1


def test_a_redis_that_is_away_is_not_asked_again_at_once() -> None:
    async def scenario() -> None:
        now, metrics = [0.0], ApiMetrics()
        guard = RedisGuard(metrics, clock=lambda: now[0])
        asked = 0

        async def away() -> str:
            nonlocal asked
            asked += 1
            raise ConnectionError

        async def there() -> str:
            return "redis"

        async def alone() -> str:
            return "alone"

        for _ in range(10):
            assert await guard.ask("cache", away, alone) == "alone"
        assert asked == 1
        assert await guard.ask("cache", there, alone) == "alone"
        now[0] = 60
        assert await guard.ask("cache", there, alone) == "redis"
        assert guard.up
        assert metric(metrics.render(), "sieis_api_redis_up") == {(): 1.0}

    asyncio.run(scenario())


@pytest.mark.services
@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_redis_goes_away_and_comes_back(redis: Instance, fault: str) -> None:
    async def scenario() -> None:
        now, metrics = [0.0], ApiMetrics()
        guard = RedisGuard(metrics, clock=lambda: now[0])
        url = redis.settings["SIEIS_REDIS_URL"]
        cache, limiter = open_cache(url, guard), RateLimiter(2, url, guard)
        await cache.set("key", b"before", 60)
        await asyncio.to_thread(redis.kill if fault == "killed" else redis.pause)
        try:
            await cache.set("key", b"meanwhile", 60)
            assert not guard.up
            assert await cache.get("key") == b"meanwhile"
            counted = [await limiter.wait_seconds(fault) for _ in range(3)]
            assert counted[:2] == [None, None]
            assert counted[2] is not None
        finally:
            await asyncio.to_thread(redis.start if fault == "killed" else redis.resume)
        now[0] = 60
        await cache.set("key", b"after", 60)
        assert guard.up
        assert await cache.get("key") == b"after"
        await limiter.close()
        await cache.close()

    asyncio.run(scenario())


@pytest.mark.services
@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_what_is_deleted_while_redis_is_away_is_deleted_everywhere_when_it_is_back(
    redis: Instance, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sieis_api.redis_guard.PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("sieis_api.cache.PAUSE_SECONDS", 0.05)

    async def scenario() -> None:
        one, other = opened(redis.settings["SIEIS_REDIS_URL"]), opened(redis.settings["SIEIS_REDIS_URL"])
        await one.set("key", b"value", 600)
        await asyncio.to_thread(redis.kill if fault == "killed" else redis.pause)
        try:
            assert not await one.delete("key")
            assert await one.get("key") is None
            await one.set("meanwhile", b"value", 600)
        finally:
            await asyncio.to_thread(redis.start if fault == "killed" else redis.resume)
        assert await one.get("key") is None
        async with asyncio.timeout(20):
            while await other.get("key") is not None or await one.get("meanwhile") is not None:
                await asyncio.sleep(0.01)  # another process cannot be awaited
        # Away once more: what was kept in this process the first time is not there again.
        await asyncio.to_thread(redis.kill)
        try:
            assert await one.get("meanwhile") is None
        finally:
            await asyncio.to_thread(redis.start)
        await one.close()
        await other.close()

    asyncio.run(scenario())


@pytest.mark.services
def test_until_redis_has_deleted_it_nothing_deleted_is_answered_and_a_stop_makes_up_for_it(
    redis: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sieis_api.redis_guard.PAUSE_SECONDS", 0)
    monkeypatch.setattr("sieis_api.cache.PAUSE_SECONDS", 3600)

    async def scenario() -> None:
        one, other = opened(redis.settings["SIEIS_REDIS_URL"]), opened(redis.settings["SIEIS_REDIS_URL"])
        await one.set("key", b"value", 600)
        await asyncio.to_thread(redis.kill)
        try:
            assert not await one.delete("key")
        finally:
            await asyncio.to_thread(redis.start)
        assert await other.get("key") == b"value"
        assert await one.get("key") is None
        await one.close()
        assert await other.get("key") is None
        await other.close()

    asyncio.run(scenario())


def test_no_more_is_remembered_for_a_redis_that_is_away_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sieis_api.cache._MOST_OWED", 3)

    async def scenario() -> None:
        cache = opened(NOWHERE)
        for key in ("one", "two", "three"):
            assert not await cache.delete(key)
        with pytest.raises(CacheUnavailableError):
            await cache.delete("four")
        assert await cache.get("one") is None
        with structlog.testing.capture_logs() as logs:
            await cache.close()
        assert [line["use"] for line in logs if "deleted" in line["event"]] == ["cache"]

    asyncio.run(scenario())


@pytest.mark.services
def test_a_wrong_password_is_like_no_redis_and_is_not_told(redis: Instance, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        metrics = ApiMetrics()
        cache = opened(f"redis://:wrong-password@{redis.host_port}/0", metrics)
        await cache.set("key", b"value", 10)
        assert await cache.get("key") == b"value"
        assert metric(metrics.render(), "sieis_api_redis_up") == {(): 0.0}
        await cache.close()

    asyncio.run(scenario())
    assert "wrong-password" not in caplog.text


@pytest.mark.parametrize("wrong", ["nonsense", "http://:secret@h", "redis://:secret@h:port/0", "redis://", "mem://"])
def test_an_address_that_is_none_stops_the_start_and_is_not_told(wrong: str) -> None:
    with pytest.raises(RedisAddressError, match="SIEIS_REDIS_URL") as refused:
        address(SecretStr(wrong))
    assert "secret" not in str(refused.value)


def test_no_address_is_no_redis() -> None:
    assert address(None) == address(SecretStr("")) == ""
    assert not metric(ApiMetrics().render(), "sieis_api_redis_up")
