"""`/api/v1/analytics`: aggregates and anomalies.

Belongs here: addresses, parameters and what /docs says about them. Not here: how answers are found (service.py).
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from sieis_api import PREFIX
from sieis_api.analytics import service
from sieis_api.analytics.schemas import Aggregates, AggregatesQuery, Anomalies, AnomaliesQuery
from sieis_api.deps import StateDep
from sieis_api.envelope import Envelope, rows, success
from sieis_api.errors import documented

router = APIRouter(
    prefix=f"{PREFIX}/analytics",
    tags=["analytics"],
    responses=documented(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)


@router.get("/aggregates", summary="Hourly or daily aggregates", response_model=Envelope[Aggregates])
async def aggregates(request: Request, state: StateDep, query: Annotated[AggregatesQuery, Query()]) -> Response:
    """Mean, minimum, maximum, deviation and median of each quantity, a mote and a period; `mote_id=0` is the building.

    Without a window: the last 24 hours of hourly, the last 30 days of daily aggregates that there are. Statistics leave
    physically impossible values out and count them (`out_of_range_count`). Empty until aggregates were materialized.

    `curl 'http://127.0.0.1:8000/api/v1/analytics/aggregates?period=daily&mote_id=0'`
    """
    found = await service.aggregates(state, query)
    data = {
        "count": found.frame.height,
        "period": query.period,
        "truncated": found.truncated,
        "aggregates": rows(found.frame),
    }
    return success(request, data)


@router.get("/anomalies", summary="Readings that the model finds strange", response_model=Envelope[Anomalies])
async def anomalies(request: Request, state: StateDep, query: Annotated[AnomaliesQuery, Query()]) -> Response:
    """Readings whose score passed the threshold of the model that scored them, the newest first.

    `model` is the one in use now; each anomaly names the one that found it. Without a window: the last seven days of
    anomalies. Empty, with `model` null, until a model was trained.

    `curl 'http://127.0.0.1:8000/api/v1/analytics/anomalies?mote_id=17&limit=50'`
    """
    found, model = await service.anomalies(state, query)
    data = {"count": found.frame.height, "truncated": found.truncated, "model": model, "anomalies": rows(found.frame)}
    return success(request, data)
