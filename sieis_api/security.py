"""Who may ask: the API key or a session opened with it, or without a key only this machine. Security headers.

Belongs here: those decisions. Not here: when they are taken (middleware.py, the routers).
"""

import hmac
import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Security
from fastapi.security import APIKeyCookie, APIKeyHeader
from pydantic import SecretStr
from starlette.requests import Request

from sieis_api.errors import ForbiddenError, UnauthorizedError
from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings

SESSION_COOKIE: Final = "sieis_session"

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, 9.2.1; nothing here answers TRACE
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer that does not set its own (OWASP REST security cheat sheet; /docs brings its own policy)."""

_key_header = APIKeyHeader(
    name="X-API-Key",
    auto_error=False,
    description="The value of SIEIS_API_KEY. Not needed where none is set: then only this machine may ask.",
)
_session_cookie = APIKeyCookie(
    name=SESSION_COOKIE,
    auto_error=False,
    description="Set by POST /api/v1/session, and sent by the browser itself: there is nothing to enter here.",
)


class ExposedWithoutKeyError(FatalError):
    """The API would listen to other machines with nothing that keeps strangers out."""


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def key_of(settings: Settings) -> SecretStr | None:
    """The API key, or None where none is set; an empty one is none."""
    return settings.api_key if settings.api_key is not None and settings.api_key.get_secret_value() else None


def check_exposure(settings: Settings) -> None:
    """Raises: ExposedWithoutKeyError where the API would listen beyond this machine without a key."""
    if key_of(settings) is None and not is_loopback(settings.api_host):
        raise ExposedWithoutKeyError(
            f"the API would listen on {settings.api_host} for everyone: set SIEIS_API_KEY, or SIEIS_API_HOST=127.0.0.1"
        )


def refusal(settings: Settings, scope: Mapping[str, Any]) -> str | None:
    """Why a request may not be answered at all, or None where it may.

    Without a key both ends must be this machine: the peer, and the name it was reached by. A web page elsewhere can
    make a browser here send requests under its own name (DNS rebinding); the Host header gives that away.
    """
    if key_of(settings) is not None:
        return None
    client = scope.get("client")
    if client is None or not is_loopback(client[0]):
        return "without SIEIS_API_KEY the API answers this machine only; set a key to open it to others"
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1 or _name(hosts[0]) not in _LOCAL_NAMES:
        return "without SIEIS_API_KEY the API answers only to the names localhost, 127.0.0.1 and [::1]"
    return None


async def sent_key(request: Request, sent: Annotated[str | None, Security(_key_header)]) -> bool:
    """Dependency: whether the key itself was sent; True too where no key is set (the caller is then local).

    Raises: UnauthorizedError for a key that is wrong.
    """
    key = key_of(request.state.settings)
    if key is None:
        return True
    if sent is None:
        return False
    if not hmac.compare_digest(sent.encode(), key.get_secret_value().encode()):
        raise UnauthorizedError("the key in X-API-Key is not the one this API was started with")
    return True


async def has_key(
    request: Request, sent: Annotated[bool, Security(sent_key)], token: Annotated[str | None, Security(_session_cookie)]
) -> bool:
    """Dependency: whether the caller may see everything: by the key, a session opened with it, or where none is set.

    Raises: UnauthorizedError for a key that is wrong, whatever the cookie; ForbiddenError where a page of another
    origin would change something by a session.
    """
    if sent:
        return True
    if token is None or await request.state.sessions.ends_at(token) is None:
        return False
    if request.method not in _SAFE_METHODS:
        await refuse_other_pages(request)
    return True


async def require_key(known: Annotated[bool, Security(has_key)]) -> None:
    """Dependency: Raises UnauthorizedError where a key is needed and there is neither it nor an open session."""
    if not known:
        raise UnauthorizedError("send the API key in the X-API-Key header; a session, if there was one, is over")


async def require_sent_key(sent: Annotated[bool, Security(sent_key)]) -> None:
    """Dependency: Raises UnauthorizedError where a key is needed and was not sent itself."""
    if not sent:
        raise UnauthorizedError("send the API key in the X-API-Key header; a session does not open another")


async def refuse_other_pages(request: Request) -> None:
    """Dependency: Raises ForbiddenError for what a page of another origin makes a browser send (CSRF).

    SameSite=Strict keeps the cookie from other sites, but other ports and subdomains are the same site. What is no
    browser sends neither header. (The rule of Go's net/http.CrossOriginProtection.)
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        same = site in ("same-origin", "none")
    else:
        same = origin is None or _authority(origin) == request.headers.get("host", "").lower()
    if not same:
        raise ForbiddenError("a page of another origin asked for this; with a session only the API's own pages may")


def came_by_https(request: Request) -> bool:
    """Whether the browser speaks https, to this server or to a proxy before it, so that its cookie should be Secure.

    Of the proxy no header is believed; a browser tells the origin of its page by itself with every POST and DELETE.
    Who lies there only has their own cookie refused.
    """
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")


def _authority(origin: str) -> str | None:
    """Host and port of an origin, lower case; None for `null` and what is none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _name(host: str) -> str:
    """`host` of a Host header without its port, lower case."""
    name, separator, port = host.rpartition(":")
    return (name if separator and port.isdigit() else host).lower()
