"""Errors of the API: each with its status and stable code, and the handlers that put every error into the envelope.

Belongs here: which error becomes which answer. Not here: the shape of the answer (envelope.py).
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sieis_api.cache import CacheUnavailableError
from sieis_api.envelope import ErrorEnvelope, RequestContext, encode
from sieis_platform.errors import FatalError, RecordError, RetriableError
from sieis_platform.stores.archive import ArchiveError, ArchiveUnavailableError
from sieis_platform.stores.hot import HotStoreError, HotStoreUnavailableError

log = structlog.get_logger(__name__)

# A locked or restarting store is usually back within seconds; clients should not come back in a tight loop.
RETRY_AFTER_SECONDS: Final = 2
_TOO_LONG: Final = 200


class ApiError(RecordError):
    """Permanent for one request: the same request fails again; its text is shown to the client."""

    status: ClassVar[HTTPStatus] = HTTPStatus.BAD_REQUEST
    code: ClassVar[str] = "bad_request"


class MoteNotFoundError(ApiError):
    """No reading of that mote is known."""

    status = HTTPStatus.NOT_FOUND
    code = "mote_not_found"


class InvalidRequestError(ApiError):
    """A parameter is wrong in a way that its own type cannot tell (two that contradict each other)."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid_request"

    def __init__(self, where: str, message: str) -> None:
        self.problems = [{"where": where, "message": message}]
        super().__init__(message)


class UnauthorizedError(ApiError):
    """The key is missing or wrong, and no session stands for it."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthorized"


class ForbiddenError(ApiError):
    """This caller may not ask at all."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"


class NoKeySetError(ApiError):
    """There is nothing to sign in to."""

    status = HTTPStatus.CONFLICT
    code = "no_key_set"


def failure(
    context: RequestContext,
    status: int,
    code: str,
    message: str,
    *,
    problems: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error answer in the envelope."""
    data: dict[str, Any] = {"code": code, "message": message}
    if problems is not None:
        data["problems"] = problems
    return encode(context, "error", data, int(status), headers)


def too_many(context: RequestContext, wait_seconds: int) -> Response:
    """The answer to a client that has sent too many requests."""
    message = f"too many requests from this address; come back in {wait_seconds} s"
    headers = {"Retry-After": str(wait_seconds)}
    return failure(context, HTTPStatus.TOO_MANY_REQUESTS, "rate_limited", message, headers=headers)


def internal_error(context: RequestContext) -> Response:
    """The answer to what nobody foresaw: an id to look up in the log, and nothing of the inside."""
    message = f"something went wrong on the server; the log has the details under request_id {context.request_id}"
    return failure(context, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", message)


def add_handlers(app: FastAPI) -> None:
    """Make every error that `app` foresees come in the envelope (the unforeseen: middleware.py)."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RetriableError, _unavailable)
    app.add_exception_handler(FatalError, _broken)


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """`responses=` of an endpoint: the errors it answers with, for the OpenAPI document."""
    return {int(status): {"model": ErrorEnvelope, "description": _DESCRIPTIONS[status]} for status in statuses}


_DESCRIPTIONS: Final = {
    HTTPStatus.UNAUTHORIZED: "The X-API-Key header is wrong, or missing with no session in its place (`unauthorized`).",
    HTTPStatus.FORBIDDEN: "No key is set and the request is not from this machine; or a page of another origin would "
    "change something by a session (`forbidden`).",
    HTTPStatus.CONFLICT: "No SIEIS_API_KEY is set: there is nothing to sign in to (`no_key_set`).",
    HTTPStatus.NOT_FOUND: "Nothing is known under that id (`mote_not_found`).",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A parameter is wrong; `problems` names each (`invalid_request`).",
    HTTPStatus.TOO_MANY_REQUESTS: "This address has sent too many requests: come back after Retry-After seconds "
    "(`rate_limited`).",
    HTTPStatus.SERVICE_UNAVAILABLE: (
        "A store does not answer: come back after Retry-After seconds (`unavailable`); without that header a person "
        "must look first (`store_broken`)."
    ),
}


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - the handler is registered for nothing else
    headers = {"WWW-Authenticate": "ApiKey"} if error.status is HTTPStatus.UNAUTHORIZED else None
    problems = error.problems if isinstance(error, InvalidRequestError) else None
    return failure(
        RequestContext.of(request.scope), error.status, error.code, str(error), problems=problems, headers=headers
    )


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the handler is registered for nothing else
    # Where and why, never the value: it may be large, or somebody's secret in the wrong place.
    problems = [
        {"where": ".".join(str(part) for part in item["loc"])[:_TOO_LONG], "message": item["msg"]}
        for item in error.errors()
    ]
    message = "; ".join(f"{problem['where']}: {problem['message']}" for problem in problems[:5])
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return failure(RequestContext.of(request.scope), status, "invalid_request", message, problems=problems)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler is registered for nothing else
    status = HTTPStatus(error.status_code)
    message = {
        HTTPStatus.NOT_FOUND: "there is nothing at this address; /docs lists what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: "this address does not know that method; /docs lists what there is",
    }.get(status, str(error.detail))
    return failure(RequestContext.of(request.scope), status, status.name.lower(), message, headers=error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    context = RequestContext.of(request.scope)
    log.warning("store unavailable", error=str(error), kind=type(error).__name__, request_id=context.request_id)
    message = f"{_store(error)} does not answer; try again in {RETRY_AFTER_SECONDS} s"
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return failure(context, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message, headers=headers)


async def _broken(request: Request, error: Exception) -> Response:
    # Fatal for what was asked, not for this process: the other stores still have their answers.
    context = RequestContext.of(request.scope)
    log.error("store broken", error=str(error), kind=type(error).__name__, request_id=context.request_id)
    message = (
        f"{_store(error)} cannot be used until a person has looked; the log says why (request_id {context.request_id})"
    )
    return failure(context, HTTPStatus.SERVICE_UNAVAILABLE, "store_broken", message)


def _store(error: Exception) -> str:
    if isinstance(error, CacheUnavailableError):
        return "Redis"
    if isinstance(error, HotStoreUnavailableError | HotStoreError):
        return "the hot store"
    if isinstance(error, ArchiveUnavailableError | ArchiveError):
        return "the archive"
    return "a store"
