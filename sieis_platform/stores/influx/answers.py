"""What InfluxDB 2.7.12 answers, as observed on a real server, and what it means here. Not here: sending requests."""

import re
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, NamedTuple

import httpx
import msgspec

from sieis_platform.stores.hot import HotStoreError, HotStoreUnavailableError

_MOST_CHARACTERS: Final = 300
_DROPPED: Final = re.compile(r"dropped=(\d+)")
#: 422 "partial write: dropped 2 points outside retention policy of duration 720h0m0s - oldest point ... dropped=2 for
#: database: ..." (2.7.12); "points beyond retention policy dropped=2" (before).
_RETENTION: Final = re.compile(r"retention policy", re.IGNORECASE)

_FULL: Final = "no space left on device"


class Refusal(NamedTuple):
    """Points of a batch that the server did not take, though it took the others."""

    points: int
    beyond_retention: bool
    reason: str


class _Error(msgspec.Struct):
    message: str = ""
    code: str = ""


def reason(answer: httpx.Response) -> str:
    """The server's own words, shortened."""
    try:
        text = msgspec.json.decode(answer.content, type=_Error).message
    except msgspec.DecodeError:
        text = answer.text
    text = " ".join(text.split()) or answer.reason_phrase
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + " ..."


def refusal(answer: httpx.Response) -> Refusal | None:
    """What a 422 says about a batch whose other points are written; None where it does not say."""
    if answer.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
        return None
    dropped = _DROPPED.search(answer.text)
    if dropped is None:
        return None
    # "field type conflict: ..." is the other kind there is.
    return Refusal(int(dropped[1]), bool(_RETENTION.search(answer.text)), reason(answer))


def is_influx(answer: httpx.Response) -> bool:
    """Whether InfluxDB itself answers: JSON with a `code` in words, which no proxy's page has."""
    try:
        return bool(msgspec.json.decode(answer.content, type=_Error).code)
    except msgspec.DecodeError:
        return False


def stranger(address: str, answer: httpx.Response) -> HotStoreError:
    """The error of an answer that says nothing about the lines, as it is not InfluxDB's."""
    return HotStoreError(
        f"{address} answers {answer.status_code} and is not InfluxDB: {reason(answer)}; check SIEIS_INFLUX_URL (http "
        "or https, host, port) and what stands between. Nothing is lost: it is written once InfluxDB answers"
    )


def all_refused(address: str, rows: int, said: str) -> HotStoreError:
    """The error of a batch too large for each of its rows to be bad by itself."""
    return HotStoreError(
        f"InfluxDB at {address} refuses each of {rows} rows: {said}; that is no matter of single readings, so nothing "
        "is passed over. Read docs/runbook.md, 'InfluxDB refuses readings'"
    )


def error(address: str, answer: httpx.Response) -> HotStoreError | HotStoreUnavailableError:
    """The error that an answer is: 429 and 5xx pass by themselves, the others need a person."""
    said = f"{answer.status_code}: {reason(answer)}"
    match answer.status_code:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return HotStoreError(
                f"InfluxDB at {address} refuses the token ({said}); run `sieis setup` and check SIEIS_INFLUX_TOKEN"
            )
        case HTTPStatus.NOT_FOUND:
            return HotStoreError(f"InfluxDB at {address} lacks something ({said}); run `sieis setup`")
        case HTTPStatus.TOO_MANY_REQUESTS:
            return HotStoreUnavailableError(
                f"InfluxDB at {address} is too busy ({said})", retry_after_seconds=retry_after(answer)
            )
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            if _FULL in answer.text:
                # Space alone does not help: the segment of the write-ahead log refuses all writes after the first that
                # failed, and a shard that could not be opened is not tried again.
                return HotStoreUnavailableError(
                    f"the disk of InfluxDB at {address} is full; free space, then restart InfluxDB ({said})"
                )
            # Among them a server that is just starting or stopping.
            return HotStoreUnavailableError(
                f"InfluxDB at {address} cannot answer now ({said})", retry_after_seconds=retry_after(answer)
            )
    return HotStoreError(f"InfluxDB at {address} refuses a request ({said})")


def retry_after(answer: httpx.Response) -> float | None:
    """Seconds the server asks to be left alone (RFC 9110 10.2.3: a number or a date), None where it does not."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        until, sent = parsedate_to_datetime(text), parsedate_to_datetime(answer.headers.get("Date", ""))
        return max(0.0, (until - sent).total_seconds())
    except (ValueError, TypeError):  # absent, no date, or one of the two without a time zone
        return None
