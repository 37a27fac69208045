"""The app put together: lifespan, middleware, handlers, routers, documentation.

Belongs here: assembly only. Not here: anything an endpoint does.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib import metadata
from typing import Any, Final

from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from sieis_api import live
from sieis_api.analytics.endpoints import router as analytics
from sieis_api.cache import open_cache
from sieis_api.coalesce import Coalesced
from sieis_api.data_docs.endpoints import router as data_docs
from sieis_api.deps import Pool, State
from sieis_api.docs_page import add_docs_page
from sieis_api.errors import add_handlers, documented
from sieis_api.metrics import ApiMetrics
from sieis_api.middleware import RequestMiddleware
from sieis_api.motes.endpoints import router as motes
from sieis_api.motes.floor_plan import FloorPlan
from sieis_api.rate_limit import RateLimiter
from sieis_api.redis_guard import RedisGuard, address
from sieis_api.security import check_exposure, key_of, require_key
from sieis_api.sensors.endpoints import router as sensors
from sieis_api.sessions.endpoints import router as session
from sieis_api.sessions.service import Sessions
from sieis_api.stores import Stores, open_stores
from sieis_api.system import service as system_service
from sieis_api.system.endpoints import metrics_router
from sieis_api.system.endpoints import router as system
from sieis_platform.settings import Settings

# A recent window takes milliseconds of one core, most of them without the GIL; a scan runs on all cores by itself.
RECENT_AT_ONCE: Final = 16
SCANS_AT_ONCE: Final = 4

_DESCRIPTION: Final = """\
Readings of the building's sensors, live and past, and what is derived from them.

**Every answer** has the same shape: `{"status": "success" | "error", "data": …, "meta": {"timestamp", "request_id",
"elapsed_ms"}}`. An error's `data` is `{"code", "message"}`: `code` is for programs and stays the same, `message` says
what to do.

**Begin** with `/api/v1/health` (is everything there?), then `/api/v1/sensors/latest` (what is it like now?) and
`/api/v1/sensors/readings` (what was it like?). The [Data Docs](/data-docs/index.html) show what is expected
of the data, and what was found.

**Times** are ISO 8601 in UTC with a `Z`; the ones you send must name their zone. A window includes `start` and excludes
`end`. A parameter that does not exist is refused, so that a typing error never looks like an answer.

**Who may ask**: without SIEIS_API_KEY, this machine only. With it, everyone who sends it in `X-API-Key`. For links,
downloads and EventSource, which send no header, a browser signs in once: `POST /api/v1/session` with the key opens a
session in a cookie, for SIEIS_SESSION_HOURS. On this page: *Authorize* with the key, *Execute* that request, and log
out of *Authorize* again. Never put the key into an address.

**How often**: SIEIS_RATE_LIMIT_PER_MINUTE requests from one address (this machine is not counted); beyond that 429 with
`Retry-After`. `/api/v1/health` is always answered.

A store that does not answer gives 503 with `Retry-After`. Send your own `X-Request-ID` (letters, digits, `. _ -`, up
to 64) to find a request in the log again.
"""
_TAGS: Final = [
    {"name": "sensors", "description": "Readings: the newest of each mote, and any window of the past."},
    {"name": "motes", "description": "Which motes there are, where they hang, when they were last heard."},
    {"name": "analytics", "description": "Derived from the readings by the assets: aggregates, anomalies."},
    {"name": "session", "description": "Signing in with a browser: a cookie in place of the key."},
    {"name": "system", "description": "Health and metrics."},
]


def create_app(settings: Settings, stores: Callable[[Settings], Stores] = open_stores) -> FastAPI:
    """The API of one installation; nothing is opened before its lifespan begins.

    Raises: ExposedWithoutKeyError where it would listen beyond this machine without a key, RedisAddressError. Starting
    it may raise FloorPlanError.
    """
    check_exposure(settings)
    redis_url = address(settings.redis_url)
    metrics = ApiMetrics()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        plan = FloorPlan(settings)
        await run_in_threadpool(plan.positions)  # a plan that was asked for and cannot be read stops the start
        opened = stores(settings)
        guard = RedisGuard(metrics) if redis_url else None
        cache = open_cache(redis_url, guard, settings.redis_prefix)
        kept = open_cache(redis_url, guard, settings.redis_prefix, use="sessions")
        limiter = RateLimiter(settings.rate_limit_per_minute, redis_url, guard, settings.redis_prefix)
        state = State(
            settings=settings,
            stores=opened,
            live=live.coalesced(opened.hot, settings.fleet_size, cache),
            health=Coalesced(lambda: system_service.check(opened, guard), system_service.MAX_AGE_SECONDS),
            recent=Pool(RECENT_AT_ONCE),
            scans=Pool(SCANS_AT_ONCE),
            floor_plan=plan,
            metrics=metrics,
            limiter=limiter,
            sessions=Sessions(kept, key_of(settings), settings.session_hours),
        )
        try:
            yield state
        finally:
            await state["live"].settle()
            await state["health"].settle()
            await limiter.close()
            await cache.close()
            await kept.close()
            await run_in_threadpool(opened.hot.close)

    app = FastAPI(
        title="SIEIS API",
        version=metadata.version("sieis"),
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,  # ours (docs_page.py), with a content policy
        redoc_url=None,
        redirect_slashes=False,  # a redirect would come without the envelope; there is one address for each thing
        telemetry={"tracing": False, "metrics": False, "logs": False},  # /metrics is ours
    )
    app.add_middleware(RequestMiddleware, settings=settings, metrics=metrics)
    add_handlers(app)
    refused = documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)
    for router in (sensors, motes, analytics, data_docs):
        app.include_router(router, dependencies=[Depends(require_key)], responses=refused)
    app.include_router(system, responses=documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN))
    app.include_router(session, responses=refused)
    app.include_router(metrics_router, responses=refused)
    add_docs_page(app)
    return app
