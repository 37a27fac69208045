"""A value that many ask for and that is fetched once: fresh within a second, single flight.

Belongs here: the coalescing. Not here: what is fetched, nor where processes share it (cache.py).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from sieis_api.cache import Slot

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Coalesced(Generic[T]):
    """The result of a blocking `load`, at most `max_age_seconds` old (counted from when its load began).

    However many ask at once, one load runs, in a thread; all of them get its result or its error. Errors are not
    kept. Belongs to one event loop.

    With `shared`, what another process has loaded in that time is taken instead. It is not kept here: how old it is
    only the shared cache knows, which forgets it in time.
    """

    def __init__(
        self,
        load: Callable[[], T],
        max_age_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        shared: Slot[T] | None = None,
    ) -> None:
        self._load, self._max_age, self._clock, self._shared = load, max_age_seconds, clock, shared
        self._kept: tuple[float, T] | None = None
        self._flight: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The value. Raises: what `load` raises."""
        if self._kept is not None and self._clock() - self._kept[0] < self._max_age:
            return self._kept[1]
        if self._flight is None:
            self._flight = asyncio.create_task(self._refresh())
            self._flight.add_done_callback(_retrieve)
        # A client that goes away must not take the load from the others.
        return await asyncio.shield(self._flight)

    async def settle(self) -> None:
        """Wait until no load is under way (before what it uses is closed)."""
        if self._flight is not None:
            await asyncio.wait([self._flight])

    async def _refresh(self) -> T:
        try:
            if self._shared is not None and (known := await self._shared.get()) is not None:
                return known
            begun = self._clock()
            # Not the pool of the requests: however many slow queries fill that, live values still come.
            value = await asyncio.to_thread(self._load)
            self._kept = (begun, value)
            if self._shared is not None:
                await self._shared.set(value, self._max_age - (self._clock() - begun))
            return value
        finally:
            self._flight = None


def _retrieve(task: asyncio.Task) -> None:
    """Look at the error of a load whose every asker has gone, or asyncio complains about it later."""
    if not task.cancelled() and task.exception() is not None:
        log.debug("load failed", error=str(task.exception()))
