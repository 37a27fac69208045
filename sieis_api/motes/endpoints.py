"""`/api/v1/motes`: which motes there are.

Belongs here: addresses and what /docs says about them. Not here: how answers are found (service.py).
"""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from sieis_api import PREFIX
from sieis_api.deps import StateDep
from sieis_api.envelope import Envelope, rows, success
from sieis_api.errors import documented
from sieis_api.motes import service
from sieis_api.motes.schemas import Motes

router = APIRouter(prefix=f"{PREFIX}/motes", tags=["motes"])


@router.get(
    "",
    summary="The motes, where they hang and when they were last heard",
    response_model=Envelope[Motes],
    responses=documented(HTTPStatus.SERVICE_UNAVAILABLE),
)
async def motes(request: Request, state: StateDep) -> Response:
    """Every mote of the fleet, heard or not, and every other one that was heard (`in_fleet` false).

    A new sensor appears by itself.

    Positions come from the floor plan (SIEIS_MOTE_LOCATIONS, or the one that `sieis data download` fetched).

    `curl http://127.0.0.1:8000/api/v1/motes`
    """
    frame = await service.motes(state)
    return success(request, {"count": frame.height, "motes": rows(frame)})
