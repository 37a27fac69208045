"""Open sessions: a random token for the API key, known to every process of the API until its time is over.

Belongs here: what is kept of a session and when it counts. Not here: cookies and addresses (endpoints.py), what a
session lets its bearer do (security.py).
"""

import datetime as dt
import hashlib
import hmac
import re
import secrets
import struct
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from pydantic import SecretStr

from sieis_api.cache import Cache
from sieis_api.errors import NoKeySetError

_TOKEN_BYTES: Final = 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # what token_urlsafe makes of them
_KEPT: Final = struct.Struct(">q32s")  # when it ends (Unix seconds), and the seal
_SEALED_FOR: Final = b"sieis session\0"  # so that no other use of the API key makes the same digest


class Opened(NamedTuple):
    """A new session: what its bearer shows, and when it ends."""

    token: SecretStr
    ends_at: dt.datetime


class Sessions:
    """The sessions of one installation, kept in `cache`; a process without an API key has none.

    Kept under the token's SHA-256 is when the session ends and a seal: the HMAC of both with the API key. Whoever reads
    the cache learns neither token nor key; whoever writes to it can neither open a session nor make one last longer;
    and another API key ends them all.
    """

    def __init__(
        self, cache: Cache, key: SecretStr | None, hours: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._cache, self._key, self._seconds, self._clock = cache, key, hours * 3600, clock

    async def open(self) -> Opened:
        """A new session, from now for the hours of the setting. Raises: NoKeySetError."""
        if self._key is None:
            raise NoKeySetError("no SIEIS_API_KEY is set: this machine is answered without signing in")
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        ends = int(self._clock() + self._seconds)
        await self._cache.set(_name(token), _KEPT.pack(ends, _seal(self._key, token, ends)), self._seconds)
        return Opened(SecretStr(token), dt.datetime.fromtimestamp(ends, dt.UTC))

    async def ends_at(self, token: str) -> dt.datetime | None:
        """When the session of `token` ends; None where there is none (any more, or that can be asked for now)."""
        if self._key is None or _TOKEN.fullmatch(token) is None:
            return None
        kept = await self._cache.get(_name(token))
        if kept is None or len(kept) != _KEPT.size:
            return None
        ends, seal = _KEPT.unpack(kept)
        if ends <= self._clock() or not hmac.compare_digest(seal, _seal(self._key, token, ends)):
            return None
        return dt.datetime.fromtimestamp(ends, dt.UTC)

    async def end(self, token: str) -> bool:
        """End the session of `token`, where there is one; False where other processes learn of it later.

        Raises: CacheUnavailableError where that is too much to remember.
        """
        return _TOKEN.fullmatch(token) is None or await self._cache.delete(_name(token))


def _name(token: str) -> str:
    return f"session:{hashlib.sha256(token.encode()).hexdigest()}"


def _seal(key: SecretStr, token: str, ends: int) -> bytes:
    return hmac.digest(key.get_secret_value().encode(), _SEALED_FOR + f"{token} {ends}".encode(), "sha256")
