"""The outermost layer of every request: id, refusals, headers, metrics, and the last word on errors.

Belongs here: what must hold for every answer, known route or not. Not here: the decisions (security.py, errors.py).
"""

import re
from http import HTTPStatus
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sieis_api import PREFIX
from sieis_api.envelope import RequestContext
from sieis_api.errors import failure, internal_error, too_many
from sieis_api.metrics import ApiMetrics
from sieis_api.rate_limit import RateLimiter, client_of
from sieis_api.security import HEADERS, refusal
from sieis_platform.settings import Settings

log = structlog.get_logger(__name__)

# Letters, digits and . _ - : UUIDs, ULIDs and trace ids fit; nothing that could forge a log line or a header.
_SANE_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_POLICY_VIOLATION: Final = 1008  # RFC 6455, 7.4.1
_NEVER_LIMITED: Final = f"{PREFIX}/health"  # load balancers ask it often, and one check a second serves them all
_CLIENT_GONE: Final = 499  # nginx's convention; nothing was answered


class RequestMiddleware:
    """ASGI middleware; one instance an app."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: ApiMetrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (or pass the lifespan on)."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket" and refusal(self._settings, scope) is not None:
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.begin(_sent_id(scope))
        context.attach(scope)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = context.request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            reason = refusal(self._settings, scope)
            if reason is not None:
                answer = failure(context, HTTPStatus.FORBIDDEN, "forbidden", reason)
                await answer(scope, receive, send_with_headers)
            elif (wait := await _must_wait(scope)) is not None:
                self._metrics.rate_limited()
                await too_many(context, wait)(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        except Exception:
            # The edge of the process: whatever it is, the client gets the envelope and the log gets the traceback.
            log.exception("unexpected error", request_id=context.request_id, route=_route(scope))
            if status:
                raise  # half an answer is out: the server must break the connection, so that nobody takes it for whole
            await internal_error(context)(scope, receive, send_with_headers)
        finally:
            self._done(scope, context, status or _CLIENT_GONE)

    def _done(self, scope: Scope, context: RequestContext, status: int) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route, seconds = _route(scope), context.elapsed_seconds
        self._metrics.observe(method, route, status, seconds)
        ms = round(seconds * 1000, 2)
        log.debug("request", method=method, route=route, status=status, ms=ms, request_id=context.request_id)


async def _must_wait(scope: Scope) -> int | None:
    client = client_of(scope)
    if client is None or scope["path"] == _NEVER_LIMITED:
        return None
    limiter: RateLimiter = scope["state"]["limiter"]
    return await limiter.wait_seconds(client)


def _sent_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_REQUEST_ID.fullmatch(value):
            return value.decode("ascii")
    return None


def _route(scope: Scope) -> str:
    """Template of the route that answered, as `/api/v1/sensors/{mote_id}/latest`."""
    return getattr(scope.get("route"), "path", "unmatched")
