"""`/api/v1/sensors`: live and past readings.

Belongs here: addresses, parameters and what /docs says about them. Not here: how answers are found (service.py).
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from sieis_api import PREFIX
from sieis_api.deps import StateDep
from sieis_api.envelope import Envelope, iso, row, rows, success
from sieis_api.errors import documented
from sieis_api.params import MoteIdInPath
from sieis_api.sensors import service
from sieis_api.sensors.schemas import LiveReading, LiveReadings, Readings, ReadingsQuery
from sieis_platform.reading import FIELDS

router = APIRouter(prefix=f"{PREFIX}/sensors", tags=["sensors"])


@router.get(
    "/latest",
    summary="The newest reading of every mote",
    response_model=Envelope[LiveReadings],
    responses=documented(HTTPStatus.SERVICE_UNAVAILABLE),
)
async def latest(request: Request, state: StateDep) -> Response:
    """One reading a mote, ascending `mote_id`, from the hot store; at most a second old, so polling it is cheap.

    A mote appears with its first reading and stays for the hot retention (30 days). `age_seconds` tells who has fallen
    silent: a mote reports every 30 s.

    `curl http://127.0.0.1:8000/api/v1/sensors/latest`
    """
    frame = await service.latest(state)
    return success(request, {"count": frame.height, "readings": rows(frame)})


@router.get(
    "/readings",
    summary="Readings in a window of time",
    response_model=Envelope[Readings],
    responses=documented(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def readings(request: Request, state: StateDep, query: Annotated[ReadingsQuery, Query()]) -> Response:
    """Readings with `start` <= timestamp < `end`, ascending (timestamp, mote_id), in pages of `limit`.

    Recent ones come from the hot store, older ones from the archive; `sources` says from which. Without a window: the
    last hour of data (of the motes asked for), which is not the last hour of the clock where the stream is behind or
    stopped. While `next_cursor` is not null, ask again with it as `cursor` and everything else unchanged: the pages
    together are the window, no reading twice.

    Values that are physically impossible are part of the truth and are given as they came.

    `curl 'http://127.0.0.1:8000/api/v1/sensors/readings?mote_id=1&mote_id=17&start=2026-02-19T00:00:00Z&end=2026-02-20T00:00:00Z'`
    """
    page = await service.readings(state, query)
    frame = page.frame.select("mote_id", iso("timestamp"), *FIELDS)
    data = {"count": frame.height, "readings": rows(frame), "next_cursor": page.next_cursor, "sources": page.sources}
    return success(request, data)


@router.get(
    "/{mote_id}/latest",
    summary="The newest reading of one mote",
    response_model=Envelope[LiveReading],
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def latest_of(request: Request, state: StateDep, mote_id: MoteIdInPath) -> Response:
    """The same reading as in `/sensors/latest`, for one mote; 404 `mote_not_found` where it has sent none in 30 days.

    `curl http://127.0.0.1:8000/api/v1/sensors/17/latest`
    """
    frame = await service.latest_of(state, mote_id)
    return success(request, row(frame))
