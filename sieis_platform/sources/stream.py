"""The bytes of a source file, plain or gzip, as one decompressed stream with positions and named errors.

Belongs here: opening, reading, seeking, cutting into blocks of whole lines. Not here: what a line means.
"""

import gzip
import hashlib
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from sieis_platform.errors import FatalError

GZIP_MAGIC: Final = b"\x1f\x8b"

#: Bytes asked of the file at once; large enough that calls do not show, small enough to bound the tail of an endless
#: line.
PIECE_BYTES: Final = 1 << 20

#: A real line has at most 120 bytes. Of a longer one this much is kept for the rejects, the rest is passed over.
MAX_LINE_BYTES: Final = 4096

#: A block is cut here even when its lines are fewer than asked for, so that long lines do not add up.
MAX_BLOCK_BYTES: Final = 32 << 20


class SourceError(FatalError):
    """A source file cannot be read as it is."""


class SourceNotFoundError(SourceError):
    """There is no file at the path."""


class SourceNotAFileError(SourceError):
    """The path is a directory or another thing that is not a file."""


class SourcePermissionError(SourceError):
    """The file may not be read by this user."""


class SourceCorruptError(SourceError):
    """The gzip file is cut short or damaged, or the disk cannot deliver it."""


class SourceChangedError(SourceError):
    """The file is not the one an earlier position belongs to."""


class SourceStream:
    """The decompressed bytes of one file, from the start or from a position of an earlier run.

    Raises (from the constructor and `read`): SourceError subclasses that name the file, the byte and the remedy.
    """

    def __init__(
        self, path: Path | str, digest: "hashlib.blake2b | None" = None, end_offset: int | None = None
    ) -> None:
        self.path = Path(path)
        self.position = 0
        self._end_offset = end_offset  # what is behind it is not read
        self._digest = digest  # fed with all that is read
        try:
            kind = self.path.stat().st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # opening a pipe waits for ever for its other end
                raise SourceNotAFileError(f"{self.path} is a pipe or a device; write the readings to a file first")
            self._file: BinaryIO = self.path.open("rb")
            magic = self._file.read(2)
            self._file.seek(0)
        except FileNotFoundError as error:
            raise SourceNotFoundError(
                f"{self.path} does not exist; check the path, or run `sieis data download`"
            ) from error
        except IsADirectoryError as error:
            raise SourceNotAFileError(f"{self.path} is a directory; give the readings file inside it") from error
        except PermissionError as error:
            raise SourcePermissionError(
                f"{self.path} may not be read by this user; change its permissions or owner"
            ) from error
        except OSError as error:
            raise SourceCorruptError(
                f"{self.path} cannot be read ({error}); check the disk or copy it again"
            ) from error
        self.compressed = magic == GZIP_MAGIC
        self._stream: BinaryIO = cast("BinaryIO", gzip.GzipFile(fileobj=self._file)) if self.compressed else self._file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, size: int = PIECE_BYTES) -> bytes:
        """Up to `size` decompressed bytes; empty at the end of the file, or at the end offset."""
        if self._end_offset is not None:
            size = min(size, max(0, self._end_offset - self.position))
        try:
            piece = self._stream.read(size)
        except EOFError as error:
            raise SourceCorruptError(
                f"{self.path} ends in the middle of its gzip stream, after byte {self.position:,} of its text; "
                "the download or copy was cut short: fetch the file again"
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise SourceCorruptError(
                f"{self.path} is damaged: its gzip stream breaks near byte {self._file.tell():,} of the file, "
                f"after byte {self.position:,} of its text ({error}); fetch the file again"
            ) from error
        except OSError as error:
            raise SourceCorruptError(
                f"{self.path} cannot be read at byte {self.position:,} ({error}); check the disk or copy it again"
            ) from error
        self.position += len(piece)
        if self._digest is not None:
            self._digest.update(piece)
        return piece

    def skip_to(self, offset: int) -> None:
        """Go forward to a byte of the decompressed text (a seek on a plain file, reading on a gzip file).

        Raises: SourceChangedError where the text ends before that byte.
        """
        if not self.compressed:
            size = self._file.seek(0, 2)
            self.position = self._file.seek(min(offset, size))
        while self.position < offset and self.read(min(PIECE_BYTES, offset - self.position)):
            pass
        if self.position < offset:
            raise SourceChangedError(
                f"{self.path} has {self.position:,} bytes of text, but an earlier run had read {offset:,}; "
                "the file was replaced or cut: restore it, or load it as a new file"
            )


class Unchanged:
    """Whether a file is still as it was when this was made, by its size and modification time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = self._now()

    def check(self) -> None:
        """Raises: SourceChangedError."""
        if self._now() != self._before:
            raise SourceChangedError(
                f"{self.path} was written to or taken away while it was read; load it once nobody writes it any more"
            )

    def _now(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:  # whoever reads it says why
            return None
        return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class LineBlock:
    """Whole lines of a file: `data` ends with a newline, except perhaps at the end of the file.

    `gaps` are the places where the rest of an overlong line was passed over: (index in `data`, bytes left out).
    """

    data: bytes
    start_offset: int
    end_offset: int
    gaps: tuple[tuple[int, int], ...]


def line_blocks(stream: SourceStream, block_lines: int) -> Iterator[LineBlock]:
    """Cut `stream` into blocks of about `block_lines` whole lines, in memory bounded whatever the file holds."""
    start = stream.position
    tail, more = b"", True
    tail_gap = 0  # bytes passed over in the line that `tail` is the beginning of
    while more:
        pieces, size, lines, gaps = [tail], len(tail), 0, []
        line_start = 0  # where the line without newline at the end begins
        while lines < block_lines and size < MAX_BLOCK_BYTES:
            piece = stream.read()
            if not piece:
                more = False
                break
            if size - line_start > MAX_LINE_BYTES:
                end = piece.find(b"\n")
                cut = len(piece) if end < 0 else end
                tail_gap += cut
                piece = piece[cut:]
            if piece.startswith(b"\n") and tail_gap:
                gaps.append((size, tail_gap))
                tail_gap = 0
            last = piece.rfind(b"\n")
            if last >= 0:
                line_start = size + last + 1
            lines += piece.count(b"\n")
            pieces.append(piece)
            size += len(piece)
        data = b"".join(pieces)
        if more:
            data, tail = data[:line_start], data[line_start:]
        elif tail_gap:
            gaps.append((len(data), tail_gap))
            tail_gap = 0
        end = stream.position - (len(tail) + tail_gap if more else 0)
        if data:
            yield LineBlock(data, start, end, tuple(gaps))
        start = end


def content_digest() -> hashlib.blake2b:
    """The hash whose hex form is the fingerprint of a source: 16 digits of BLAKE2b over the decompressed bytes."""
    return hashlib.blake2b(digest_size=8)


def fingerprint(path: Path | str) -> str:
    """Content hash of a source file. A file and its gzip form have the same, and so are the same source.

    Raises: SourceError.
    """
    digest = content_digest()
    with SourceStream(path, digest) as stream:
        while stream.read():
            pass
    return digest.hexdigest()
