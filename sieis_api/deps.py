"""What an app holds while it runs, and how endpoints get it.

Belongs here: the lifespan state and the dependencies. Not here: what is done with them (the services).
"""

from collections.abc import Callable
from typing import Annotated, TypedDict, TypeVar, cast

import anyio
import anyio.to_thread
from fastapi import Depends
from starlette.requests import Request

from sieis_api.coalesce import Coalesced
from sieis_api.live import Latest
from sieis_api.metrics import ApiMetrics
from sieis_api.motes.floor_plan import FloorPlan
from sieis_api.stores import Stores
from sieis_api.system.service import Health
from sieis_platform.settings import Settings

T = TypeVar("T")


class Scans:
    """Runs blocking queries over archive and marts in the thread pool, few at a time: each may take all cores."""

    def __init__(self, at_once: int = 4) -> None:
        self._limiter = anyio.CapacityLimiter(at_once)

    async def run(self, query: Callable[[], T]) -> T:
        """The result of `query`. Raises: what it raises."""
        return await anyio.to_thread.run_sync(query, limiter=self._limiter)


class State(TypedDict):
    """The lifespan state: made when the app starts, gone when it stops."""

    settings: Settings
    stores: Stores
    live: Coalesced[Latest]
    health: Coalesced[Health]
    scans: Scans
    floor_plan: FloorPlan
    metrics: ApiMetrics


def get_state(request: Request) -> State:
    """The lifespan state of the app that serves `request`."""
    return cast(State, request.scope["state"])


StateDep = Annotated[State, Depends(get_state)]
