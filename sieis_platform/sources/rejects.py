"""The rejects file of a source: every refused line once, with where it stood and why.

Belongs here: keeping rejects through kills and repetitions. Not here: deciding what is refused (grammar.py, the load).
"""

import base64
import fcntl
import os
from collections import Counter
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
import numpy as np
import polars as pl

from sieis_platform.sources.stream import SourceError

_FINGERPRINT_DIGITS: Final = frozenset("0123456789abcdef")
_READ_BYTES: Final = 8 << 20


class RejectsFileError(SourceError):
    """The rejects file cannot be written."""


class _Entry(msgspec.Struct, omit_defaults=True):
    source: str
    fingerprint: str
    byte_offset: int
    reason: str
    line: str | None = None
    line_base64: str | None = None


class _Kept(msgspec.Struct):
    byte_offset: int
    reason: str


class RejectsFile:
    """Appends rejects to `{data_dir}/rejects/{fingerprint}.jsonl`, one JSON object a line, each reject once.

    A line is known by its byte offset in the source, so a resumed or repeated load adds nothing twice. Text lines are
    kept as `line`, others as `line_base64`. A last entry torn by a kill is cut off at the next opening, and written
    again by the load that resumes: so add the rejects of a batch *before* its readings are committed. Use as a context
    manager; one at a time.

    Raises: RejectsFileError where the file cannot be opened or another process has it open.
    """

    def __init__(self, data_dir: Path, fingerprint: str, source_name: str) -> None:
        if not fingerprint or not _FINGERPRINT_DIGITS.issuperset(fingerprint):
            raise RejectsFileError(f"{fingerprint!r} is not a fingerprint (hex digits expected)")
        self.path = data_dir / "rejects" / f"{fingerprint}.jsonl"
        self._fingerprint = fingerprint
        self._source = source_name
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: FileIO = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise RejectsFileError(
                f"cannot write {self.path} ({error.strerror}); make the data directory writable"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise RejectsFileError(
                f"{self.path} is in use: another load of the same file is running; wait for it"
            ) from error
        self._counts: Counter[str] = Counter()
        self._offsets = self._recover()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    @property
    def counts(self) -> dict[str, int]:
        """Rejects kept in the file, by reason."""
        return dict(self._counts)

    def add(self, rejects: pl.DataFrame) -> dict[str, int]:
        """Append the rejects (REJECT_SCHEMA) not kept yet, on disk when this returns; returns how many of each reason.

        Raises: RejectsFileError where the disk is full or fails.
        """
        new = rejects.unique("byte_offset", keep="first", maintain_order=True)
        new = new.filter(pl.Series(~np.isin(new["byte_offset"].to_numpy(), self._offsets)))
        if not new.height:
            return {}
        encode = msgspec.json.encode
        lines = [encode(self._entry(*row)) for row in new.select("byte_offset", "reason", "line").iter_rows()]
        end = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(b"\n".join(lines) + b"\n")
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            raise RejectsFileError(
                f"cannot write {self.path} at byte {end:,} ({error.strerror}); "
                "make room and start the load again: it resumes"
            ) from error
        self._offsets = np.concatenate((self._offsets, new["byte_offset"].to_numpy()))
        added = Counter(new["reason"].to_list())
        self._counts += added
        return dict(added)

    def _entry(self, byte_offset: int, reason: str, line: bytes) -> _Entry:
        entry = _Entry(self._source, self._fingerprint, byte_offset, reason)
        try:
            entry.line = line.decode()
        except UnicodeDecodeError:
            entry.line_base64 = base64.b64encode(line).decode()
        return entry

    def _recover(self) -> np.ndarray:
        """Cut off a torn last entry and read the offsets of the others."""
        offsets: list[np.ndarray] = []
        decoder = msgspec.json.Decoder(_Kept)
        self._file.seek(0)
        whole, tail = 0, b""
        while piece := self._file.read(_READ_BYTES):
            lines = (tail + piece).split(b"\n")
            tail = lines.pop()
            try:
                kept = [decoder.decode(line) for line in lines]
            except msgspec.MsgspecError as error:
                raise RejectsFileError(
                    f"{self.path} is damaged after byte {whole:,} ({error}); move it away and load again"
                ) from error
            whole += sum(len(line) + 1 for line in lines)
            offsets.append(np.array([entry.byte_offset for entry in kept], dtype=np.int64))
            self._counts.update(entry.reason for entry in kept)
        if tail:
            self._file.truncate(whole)
        return np.concatenate(offsets) if offsets else np.empty(0, dtype=np.int64)
