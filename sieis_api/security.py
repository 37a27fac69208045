"""Who may ask: the API key, or without one only this machine. Security headers.

Belongs here: those decisions. Not here: when they are taken (middleware.py, the routers).
"""

import hmac
import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Security
from fastapi.security import APIKeyHeader
from pydantic import SecretStr
from starlette.requests import Request

from sieis_api.errors import UnauthorizedError
from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings

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


async def has_key(request: Request, sent: Annotated[str | None, Security(_key_header)]) -> bool:
    """Dependency: whether the caller may see everything; True too where no key is set (the caller is then local).

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


async def require_key(known: Annotated[bool, Security(has_key)]) -> None:
    """Dependency: Raises UnauthorizedError where a key is needed and none was sent, or a wrong one."""
    if not known:
        raise UnauthorizedError("send the API key in the X-API-Key header")


def _name(host: str) -> str:
    """`host` of a Host header without its port, lower case."""
    name, separator, port = host.rpartition(":")
    return (name if separator and port.isdigit() else host).lower()
