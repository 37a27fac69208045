"""One load for all who ask at once, and none while the value is fresh."""

import asyncio
import threading

import pytest

from sieis_api.coalesce import Coalesced


class Load:
    """A load that waits until it is let go, and counts."""

    def __init__(self) -> None:
        self.runs = 0
        self.go = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.runs += 1
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return self.runs


async def asking(value: Coalesced[int], count: int) -> list[asyncio.Task[int]]:
    """`count` who ask, all of them under way."""
    tasks = [asyncio.create_task(value.get()) for _ in range(count)]
    await asyncio.sleep(0)  # each runs up to its first wait
    return tasks


def test_all_who_ask_at_once_share_one_load() -> None:
    async def scenario() -> None:
        load = Load()
        tasks = await asking(Coalesced(load, 1.0), 50)
        load.go.set()
        assert await asyncio.gather(*tasks) == [1] * 50
        assert load.runs == 1

    asyncio.run(scenario())


def test_the_value_is_kept_until_it_is_too_old() -> None:
    async def scenario() -> None:
        load, now = Load(), [100.0]
        load.go.set()
        value = Coalesced(load, 1.0, clock=lambda: now[0])
        assert await value.get() == 1
        now[0] = 100.99
        assert await value.get() == 1
        now[0] = 101.0
        assert await value.get() == 2

    asyncio.run(scenario())


def test_an_error_reaches_all_and_is_not_kept() -> None:
    async def scenario() -> None:
        load = Load()
        load.error = ValueError("no")
        value = Coalesced(load, 1.0)
        tasks = await asking(value, 3)
        load.go.set()
        assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [ValueError] * 3
        load.error = None
        assert await value.get() == 2

    asyncio.run(scenario())


def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    async def scenario() -> None:
        load = Load()
        first, second = await asking(Coalesced(load, 1.0), 2)
        first.cancel()
        load.go.set()
        assert await second == 1
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(scenario())


def test_settle_waits_for_the_load_under_way() -> None:
    async def scenario() -> None:
        load = Load()
        value = Coalesced(load, 1.0)
        (task,) = await asking(value, 1)
        settling = asyncio.create_task(value.settle())
        await asyncio.sleep(0)
        assert not settling.done()
        load.go.set()
        await settling
        assert load.runs == 1
        await task

    asyncio.run(scenario())
