"""`/api/v1/health` and `/metrics`.

Belongs here: addresses and what /docs says about them. Not here: the checks (service.py).
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from sieis_api import PREFIX
from sieis_api.deps import StateDep
from sieis_api.envelope import Envelope, RequestContext, encode, success
from sieis_api.metrics import CONTENT_TYPE
from sieis_api.security import has_key, require_key
from sieis_api.system.schemas import Health, HealthDownEnvelope

router = APIRouter(prefix=PREFIX, tags=["system"])
metrics_router = APIRouter(tags=["system"])


@router.get(
    "/health",
    summary="Whether the platform answers",
    response_model=Envelope[Health],
    responses={503: {"model": HealthDownEnvelope, "description": "A required part is down."}},
)
async def health(request: Request, state: StateDep, detailed: Annotated[bool, Depends(has_key)]) -> Response:
    """200 while the hot store answers, 503 where it does not; an archive or a mart that is down makes it `degraded`.

    A fresh installation is healthy: what holds nothing yet is `empty`. Open without a key, so that a load balancer can
    ask; version and components are told only to callers with the key (or where none is set).

    `curl http://127.0.0.1:8000/api/v1/health`
    """
    report = await state["health"].get()
    data = {
        "status": report.status,
        "version": report.version if detailed else "",
        "components": report.components if detailed else {},
    }
    if report.status != "down":
        return success(request, data)
    problem = {"code": "unhealthy", "message": "a required part of the platform is down"}
    return encode(RequestContext.of(request.scope), "error", {**problem, **data}, HTTPStatus.SERVICE_UNAVAILABLE)


@metrics_router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Text format 0.0.4."}},
    dependencies=[Depends(require_key)],
)
async def metrics(state: StateDep) -> Response:
    """Requests by route template, method and status, and their durations, as plain text without the envelope.

    With a key set, Prometheus sends it by `http_headers` of its scrape configuration.
    """
    return Response(state["metrics"].render(), media_type=CONTENT_TYPE)
