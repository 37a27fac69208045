"""Readings of a file in the Intel Lab format: the one module others need to read such a file.

Belongs here: reading a file in batches. Not here: the grammar of a line (grammar.py), its bytes (stream.py), its span
(profiles.py).
"""

from collections.abc import Iterator
from pathlib import Path

from sieis_platform.sources.grammar import BATCH_SCHEMA, REJECT_SCHEMA, Batch, RejectReason, parse_block
from sieis_platform.sources.profiles import EmptySourceError, Profile, profile
from sieis_platform.sources.stream import SourceError, SourceStream, fingerprint, line_blocks

__all__ = [
    "BATCH_SCHEMA",
    "REJECT_SCHEMA",
    "Batch",
    "EmptySourceError",
    "Profile",
    "RejectReason",
    "SourceError",
    "fingerprint",
    "profile",
    "read_batches",
]


def read_batches(
    path: Path | str, *, start_offset: int = 0, end_offset: int | None = None, batch_rows: int = 200_000
) -> Iterator[Batch]:
    """Parse a file in batches of about `batch_rows` lines, in file order.

    `start_offset` is the `end_offset` of an earlier batch: reading goes on behind it. Nothing is read behind an
    `end_offset` (of a profile), although the file may have grown since. Memory is bounded by `batch_rows`, whatever the
    file holds. Raises: SourceError subclasses (stream.py); batches yielded before stay valid.
    """
    with SourceStream(path, end_offset=end_offset) as stream:
        stream.skip_to(start_offset)
        for block in line_blocks(stream, batch_rows):
            yield parse_block(block)
