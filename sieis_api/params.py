"""What clients may write: mote ids, moments in time, limits and cursors, checked and turned into our own types.

Belongs here: types of parameters that several parts share. Not here: which endpoint takes which.
"""

import base64
import binascii
import datetime as dt
import re
import struct
from typing import Annotated, Final

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from sieis_api.errors import InvalidRequestError
from sieis_platform.reading import MAX_MOTE_ID
from sieis_platform.stores.federated import Cursor

MAX_LIMIT: Final = 10_000
DEFAULT_LIMIT: Final = 1_000
#: More than any building here has motes, and still a URL that every proxy lets through.
MAX_MOTES: Final = 500

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_MAX_NS: Final = 2**63 - 1
_INSTANT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_HOW: Final = (
    "write date, time and zone as 2026-02-19T23:30:00Z or 2026-02-19T23:30:00%2B01:00 "
    "(a + in an address is written %2B)"
)


def parse_instant(text: object) -> int:
    """ISO 8601 with its zone to Unix ns; up to nine digits of a second are kept.

    Raises: PydanticCustomError saying what to write.
    """
    found = _INSTANT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise PydanticCustomError("instant", _HOW)
    seconds, fraction, zone = found.groups()
    try:
        moment = dt.datetime.fromisoformat(seconds + zone) - _EPOCH
    except (ValueError, OverflowError):
        raise PydanticCustomError("instant", f"there is no such moment; {_HOW}") from None
    nanoseconds = moment // _MICROSECOND * 1000 + int((fraction or "").ljust(9, "0"))
    if not 0 <= nanoseconds <= _MAX_NS:
        raise PydanticCustomError("instant", "the moment must lie between 1970 and 2262")
    return nanoseconds


Instant = Annotated[int, BeforeValidator(parse_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A moment as Unix ns; written as ISO 8601 with its zone."""

MoteId = Annotated[int, Field(ge=1, le=MAX_MOTE_ID)]
MoteIdInPath = Annotated[int, Path(ge=1, le=MAX_MOTE_ID, description="Id of the mote.", examples=[17])]
MoteIds = Annotated[list[MoteId], Field(max_length=MAX_MOTES)]
BuildingOrMoteIds = Annotated[list[Annotated[int, Field(ge=0, le=MAX_MOTE_ID)]], Field(max_length=MAX_MOTES)]


class Window(BaseModel):
    """The parameters of every list over time. A parameter that does not exist is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    start: Instant | None = Field(
        None, description="First moment, ISO 8601 with its zone (included).", examples=["2026-02-19T00:00:00Z"]
    )
    end: Instant | None = Field(
        None,
        description="Moment the window ends at, ISO 8601 with its zone (not included).",
        examples=["2026-02-20T00:00:00Z"],
    )
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Rows in one answer at most.")

    @model_validator(mode="after")
    def _ordered(self) -> "Window":
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise PydanticCustomError("window", "start must be before end")
        return self

    def resolve(self, newest_ns: int, span_ns: int) -> tuple[int, int]:
        """The window [start, end) in Unix ns; what was not given is the last `span_ns` of data up to `newest_ns`."""
        end = newest_ns + 1 if self.end is None else self.end
        start = max(0, end - span_ns) if self.start is None else self.start
        return start, max(start, end)


class PageCursor(Cursor):
    """Cursor of a page: the last row given. `encode` adds the end of the window, so that every page has the same."""

    __slots__ = ()

    def encode(self, end_ns: int) -> str:
        """Opaque text for a URL."""
        return base64.urlsafe_b64encode(_CURSOR.pack(self.timestamp, self.mote_id, end_ns)).rstrip(b"=").decode()


_CURSOR: Final = struct.Struct(">qiq")


def decode_cursor(text: str) -> tuple[Cursor, int]:
    """The position and the window's end in a cursor. Raises: InvalidRequestError for what `encode` did not make."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        timestamp, mote_id, end = _CURSOR.unpack(raw)
    except (binascii.Error, ValueError, struct.error):
        timestamp = mote_id = end = -1
    if not (0 <= timestamp < end and 1 <= mote_id <= MAX_MOTE_ID):
        raise InvalidRequestError("query.cursor", "not a cursor of this API; send next_cursor as it came")
    return Cursor(timestamp, mote_id), end
