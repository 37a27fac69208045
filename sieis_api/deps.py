"""What an app holds while it runs, and how endpoints get it.

Belongs here: the lifespan state and the dependencies. Not here: what is done with them (the services).
Dependencies are `async`: FastAPI would run others in the thread pool, behind whatever queries fill it.
"""

from collections.abc import Callable
from typing import Annotated, TypedDict, TypeVar, cast

import anyio
import anyio.to_thread
import polars as pl
from fastapi import Depends
from starlette.requests import Request

from sieis_api.coalesce import Coalesced
from sieis_api.live import Latest
from sieis_api.metrics import ApiMetrics
from sieis_api.motes.floor_plan import FloorPlan
from sieis_api.rate_limit import RateLimiter
from sieis_api.sessions.service import Sessions
from sieis_api.stores import Stores
from sieis_api.system.service import Health
from sieis_platform.errors import RetriableError
from sieis_platform.settings import Settings

T = TypeVar("T")


class QueryFailedError(RetriableError):
    """A query broke off while it read: a table's files went away under it, or the object store did."""


class Pool:
    """Runs blocking queries in threads, at most `at_once` of them; others wait for their turn."""

    def __init__(self, at_once: int) -> None:
        self._limiter = anyio.CapacityLimiter(at_once)

    async def run(self, query: Callable[[], T]) -> T:
        """The result of `query`. Raises: what it raises; QueryFailedError for what the stores could not foresee."""
        try:
            return await anyio.to_thread.run_sync(query, limiter=self._limiter)
        except (OSError, pl.exceptions.ComputeError) as error:
            # Tables are opened by the stores, under their own errors, but read here, where the frame is collected.
            raise QueryFailedError(f"a query broke off: {error}") from error


class State(TypedDict):
    """The lifespan state: made when the app starts, gone when it stops.

    `recent` serves queries that the hot store answers in milliseconds, `scans` those over archive and marts, each of
    which may take all cores for a second: the slow ones never stand in the way of the quick.
    """

    settings: Settings
    stores: Stores
    live: Coalesced[Latest]
    health: Coalesced[Health]
    recent: Pool
    scans: Pool
    floor_plan: FloorPlan
    metrics: ApiMetrics
    limiter: RateLimiter
    sessions: Sessions


async def get_state(request: Request) -> State:
    """The lifespan state of the app that serves `request`."""
    return cast(State, request.scope["state"])


StateDep = Annotated[State, Depends(get_state)]
