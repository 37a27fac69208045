"""Fetching the data set and its floor plan over HTTP: resumed, verified, and in place only when whole.

Belongs here: one file from one address. Not here: what the file holds, or how progress is shown.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec
import stamina

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.settings import Settings
from sieis_platform.sources.stream import GZIP_MAGIC, SourceCorruptError, SourceStream

Progress = Callable[[int, int | None], None]
"""Called with bytes received and bytes in all (None where the server does not say)."""

READINGS: Final = "data.txt"
LOCATIONS: Final = "mote_locs.txt"

_ATTEMPTS: Final = 5
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)  # between two pieces, not for the whole file
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_INSTEAD: Final = "or make up a data set with `sieis data generate`"


class DownloadError(FatalError):
    """The file cannot be downloaded from this address."""


class DownloadNotFoundError(DownloadError):
    """The server has nothing at the address."""


class DownloadCorruptError(DownloadError):
    """What the server sent is not the file it should be."""


class DownloadUnreachableError(RetriableError):
    """No answer, or none that was whole, in several attempts; what did arrive is kept and resumed."""


class _TransientAnswerError(RetriableError):
    """The server says to come again."""


class _Partial(msgspec.Struct):
    """What a .part file is the beginning of."""

    url_hash: str
    validator: str
    """ETag or Last-Modified, by which the server tells whether the file is still the same (RFC 9110, 13.1.5)."""


@dataclass(frozen=True)
class Download:
    """One fetched file."""

    path: Path
    size_bytes: int
    already_there: bool = False


def readings_path(settings: Settings) -> Path:
    """Where the downloaded readings are kept."""
    packed = httpx.URL(settings.data_url).path.endswith(".gz")
    return settings.data_dir / "data" / (f"{READINGS}.gz" if packed else READINGS)


def locations_path(settings: Settings) -> Path:
    """Where the downloaded floor plan (`mote_id x y`, metres) is kept."""
    return settings.data_dir / "data" / LOCATIONS


def fetch(url: str, target: Path, *, sha256: str = "", progress: Progress | None = None) -> Download:
    """Download `url` to `target`; a file that is there already is kept, unless it is not the one of `sha256`.

    An interrupted download goes on where it stopped if the server can still say that the file is the same. The content
    is checked for its announced length, a .gz for its own checksum, and against `sha256` where given.

    Raises: DownloadUnreachableError (try again later), DownloadNotFoundError, DownloadCorruptError, DownloadError.
    """
    shown = _shown(url)
    if target.exists() and (not sha256 or _sha256(target) == sha256.lower()):
        return Download(target, target.stat().st_size, already_there=True)
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with httpx.Client(follow_redirects=True, max_redirects=5, timeout=_TIMEOUT) as client:
            for attempt in stamina.retry_context(on=_passes, attempts=_ATTEMPTS, timeout=None):
                with attempt:
                    _receive(client, url, part, progress)
        _verify(part, target, sha256, shown)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
        _note(part).unlink(missing_ok=True)
    except httpx.UnsupportedProtocol as error:
        raise DownloadError(f"{shown} leads to an address that is neither http nor https; {_INSTEAD}") from error
    except httpx.TransportError as error:
        raise DownloadUnreachableError(
            f"{shown} did not answer as a whole after {_ATTEMPTS} attempts ({_reason(error)}); check the network or "
            f"the proxy and run the same command again, it resumes; put the file at {target} by hand; {_INSTEAD}"
        ) from error
    except _TransientAnswerError as error:
        raise DownloadUnreachableError(f"{shown}: {error}; try again later: it resumes; {_INSTEAD}") from error
    except (httpx.TooManyRedirects, httpx.InvalidURL) as error:
        raise DownloadError(
            f"{shown} is not an address of a file ({_reason(error)}); correct it, {_INSTEAD}"
        ) from error
    except OSError as error:
        raise DownloadError(
            f"cannot write {target} ({error.strerror}); make room or access, then run again: it resumes"
        ) from error
    return Download(target, target.stat().st_size)


def _receive(client: httpx.Client, url: str, part: Path, progress: Progress | None) -> None:
    """One attempt: append the missing bytes to `part`, or start it anew."""
    have, headers = _resumable(url, part)
    headers["Accept-Encoding"] = "identity"  # lengths and ranges are those of the file itself
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.unlink(missing_ok=True)  # whole already, or longer than the file: only the server knows, so ask anew
            raise _TransientAnswerError("the server's file is shorter than what was received of it")
        _accept(answer)
        resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT and _range_start(answer) == have
        if answer.status_code == httpx.codes.PARTIAL_CONTENT and not resumed:
            part.unlink(missing_ok=True)
            raise _TransientAnswerError("the server sent another range than was asked for")
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None and length.isdigit() else None
        with part.open("ab" if resumed else "wb") as file:
            if not resumed:
                _note(part).write_bytes(msgspec.json.encode(_Partial(_url_hash(url), _validator(answer))))
            # As they come: pieces of a fixed size would hold back, and lose, what came before a break.
            for piece in answer.iter_raw():
                file.write(piece)
                have += len(piece)
                if progress is not None:
                    progress(have, total)
    if total is not None and have != total:
        raise _TransientAnswerError(f"{have:,} of {total:,} bytes arrived")


def _accept(answer: httpx.Response) -> None:
    code, shown = answer.status_code, _shown(str(answer.url))
    if code in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
        return
    if code in _TRANSIENT:
        raise _TransientAnswerError(f"the server answers {code} {answer.reason_phrase}")
    if code in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
        raise DownloadNotFoundError(f"{shown} is not there ({code}); set SIEIS_DATA_URL to a mirror, {_INSTEAD}")
    raise DownloadError(f"{shown} answers {code} {answer.reason_phrase}; check the address and the rights, {_INSTEAD}")


def _resumable(url: str, part: Path) -> tuple[int, dict[str, str]]:
    """Bytes received earlier of the same address, and the headers that ask for the rest."""
    try:
        note = msgspec.json.decode(_note(part).read_bytes(), type=_Partial)
        have = part.stat().st_size
    except (FileNotFoundError, msgspec.MsgspecError):
        return 0, {}
    if not have or not note.validator or note.url_hash != _url_hash(url):
        return 0, {}
    return have, {"Range": f"bytes={have}-", "If-Range": note.validator}


def _validator(answer: httpx.Response) -> str:
    tag = answer.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):  # a weak tag does not promise the same bytes
        return tag
    return answer.headers.get("Last-Modified", "")


def _range_start(answer: httpx.Response) -> int | None:
    unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


def _verify(part: Path, target: Path, sha256: str, shown: str) -> None:
    try:
        if sha256 and (actual := _sha256(part)) != sha256.lower():
            raise DownloadCorruptError(
                f"{shown} has SHA-256 {actual}, expected {sha256}; "
                "it is another file: check SIEIS_DATA_URL and SIEIS_DATA_SHA256"
            )
        with part.open("rb") as file:
            head = file.read(64).lstrip()
        packed = target.suffix == ".gz"
        if (packed and not head.startswith(GZIP_MAGIC)) or (not packed and head.startswith(b"<")):
            raise DownloadCorruptError(f"{shown} is not the file but perhaps a web page; open the address and see")
        if packed:
            with SourceStream(part) as stream:
                while stream.read():
                    pass
    except SourceCorruptError as error:
        _discard(part)
        raise DownloadCorruptError(f"{shown} arrived damaged ({error})") from error
    except DownloadCorruptError:
        _discard(part)
        raise


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _passes(error: Exception) -> bool:
    return isinstance(error, (httpx.TransportError, _TransientAnswerError)) and not isinstance(
        error, httpx.UnsupportedProtocol
    )


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _url_hash(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()  # an address may carry a secret, which a hash keeps to itself


def _shown(url: str) -> str:
    """The address without user, password and query, any of which may be secret."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return "the address"
    if address.scheme not in {"http", "https"} or not address.host:
        return f"{address.scheme or 'the address'}:"
    port = f":{address.port}" if address.port else ""
    return f"{address.scheme}://{address.host}{port}{address.path}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
