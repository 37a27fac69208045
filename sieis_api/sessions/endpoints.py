"""`/api/v1/session`: sign in, look, sign out.

Belongs here: addresses, the cookie, and what /docs says about them. Not here: what a session is (service.py).
"""

from http import HTTPStatus

import structlog
from fastapi import APIRouter, Depends, Request, Response, Security

from sieis_api import PREFIX
from sieis_api.deps import StateDep
from sieis_api.envelope import Envelope, RequestContext, encode, success
from sieis_api.errors import documented
from sieis_api.security import (
    SESSION_COOKIE,
    came_by_https,
    has_key,
    key_of,
    refuse_other_pages,
    require_sent_key,
)
from sieis_api.sessions.schemas import Ended, Opened, Session

log = structlog.get_logger(__name__)

router = APIRouter(prefix=f"{PREFIX}/session", tags=["session"])


@router.post(
    "",
    summary="Sign in: a cookie instead of the key",
    status_code=HTTPStatus.CREATED,
    response_model=Envelope[Opened],
    responses=documented(HTTPStatus.CONFLICT),
    dependencies=[Security(require_sent_key)],
)
async def sign_in(request: Request, state: StateDep) -> Response:
    """Opens a session and puts it into a cookie, which from then on is as good as the key, for SIEIS_SESSION_HOURS.

    It is for what cannot send a header: links, downloads, EventSource, the addresses of this page. The key itself is
    needed here, in `X-API-Key`; a session opens no other one. The session that the request's cookie stood for ends.

    `curl -X POST -H "X-API-Key: $SIEIS_API_KEY" -c cookies http://127.0.0.1:8000/api/v1/session`
    """
    if (before := request.cookies.get(SESSION_COOKIE)) is not None:
        await state["sessions"].end(before)
    opened = await state["sessions"].open()
    log.info("session opened", ends_at=opened.ends_at.isoformat())
    context = RequestContext.of(request.scope)
    answer = encode(context, "success", {"ends_at": opened.ends_at}, HTTPStatus.CREATED)
    answer.set_cookie(
        SESSION_COOKIE,
        opened.token.get_secret_value(),
        max_age=round(state["settings"].session_hours * 3600),
        secure=came_by_https(request),
        httponly=True,
        samesite="strict",
    )
    return answer


@router.get(
    "",
    summary="Whether the cookie is good, and until when",
    response_model=Envelope[Session],
    dependencies=[Security(has_key)],
)
async def session(request: Request, state: StateDep) -> Response:
    """Open to all who may ask: with no cookie, or one that is over, `signed_in` is false.

    `curl http://127.0.0.1:8000/api/v1/session`
    """
    token = request.cookies.get(SESSION_COOKIE)
    ends_at = await state["sessions"].ends_at(token) if token is not None else None
    needed = key_of(state["settings"]) is not None
    return success(request, {"needed": needed, "signed_in": ends_at is not None, "ends_at": ends_at})


@router.delete(
    "",
    summary="Sign out",
    response_model=Envelope[Ended],
    responses=documented(HTTPStatus.SERVICE_UNAVAILABLE),
    dependencies=[Security(has_key), Depends(refuse_other_pages)],
)
async def sign_out(request: Request, state: StateDep) -> Response:
    """Ends the session of the cookie in every process of the API, and deletes the cookie. Twice is as good as once.

    `curl -X DELETE -b cookies -c cookies http://127.0.0.1:8000/api/v1/session`
    """
    token = request.cookies.get(SESSION_COOKIE)
    everywhere = token is None or await state["sessions"].end(token)
    answer = success(request, {"ended": "everywhere" if everywhere else "here"})
    answer.delete_cookie(SESSION_COOKIE, secure=came_by_https(request), httponly=True, samesite="strict")
    return answer
