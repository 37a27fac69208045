"""What a source file holds as a whole: its counts, motes, fingerprint and the days it spans.

Belongs here: one pass over a file. Not here: the grammar of a line (grammar.py), days on disk (days.py).
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from sieis_platform.sources.grammar import BATCH_SCHEMA, REJECT_SCHEMA, Batch, parse_block
from sieis_platform.sources.stream import SourceError, SourceStream, content_digest, line_blocks

_DAY_NS: Final = 86_400 * 10**9
_EPOCH: Final = dt.date(1970, 1, 1)

#: Dates further apart than this belong to different groups. The lab's longest outage is a day; a month of silence is no
#: outage.
GROUP_GAP_DAYS: Final = 31

#: A group with fewer than this share of the readings, and fewer than this number, is stray. A garbled date comes in
#: ones; the last day of the Intel set has 120 readings, but it is no group of its own.
STRAY_SHARE: Final = 0.001
STRAY_READINGS: Final = 1_000


class EmptySourceError(SourceError):
    """The file holds no reading at all."""


@dataclass(frozen=True)
class Profile:
    """What a file holds.

    The span `first_day` … `last_day` is robust against garbled dates: dates are put into groups wherever GROUP_GAP_DAYS
    pass without a reading; a group of few readings (below STRAY_SHARE of all and below STRAY_READINGS) is left out,
    unless it is the largest. Readings outside the span (`outside_span`) are rejected by the load as
    `outside_dataset_span`. `readings` counts all that parsed; `end_offset` is the number of decompressed bytes,
    `size_bytes` that on disk.
    """

    lines: int
    readings: int
    rejected: dict[str, int]
    skipped: dict[str, int]
    first_ns: int
    last_ns: int
    first_day: dt.date
    days: int
    outside_span: int
    motes: list[int]
    size_bytes: int
    fingerprint: str
    end_offset: int

    @property
    def last_day(self) -> dt.date:
        """Last date of the span."""
        return self.first_day + dt.timedelta(days=self.days - 1)


@dataclass
class ProfileBuilder:
    """Sums up batches into a profile, in memory bounded by the number of dates and motes."""

    lines: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    _days: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # days since 1970: readings, first ns, last ns
    _motes: set[int] = field(default_factory=set)

    def add(self, batch: Batch) -> None:
        """Take one batch into account."""
        self.lines += batch.lines
        self.skipped.update(batch.skipped)
        if batch.rejects.height:
            self.rejected.update(dict(batch.rejects["reason"].value_counts().iter_rows()))
        if not batch.readings.height:
            return
        self._motes.update(batch.readings["mote_id"].unique().to_list())
        stamp = pl.col("timestamp")
        days = batch.readings.group_by(stamp.floordiv(_DAY_NS).alias("day")).agg(
            pl.len().alias("n"), stamp.min().alias("first"), stamp.max().alias("last")
        )
        for day, n, first, last in days.iter_rows():
            known = self._days.get(day, (0, first, last))
            self._days[day] = (known[0] + n, min(known[1], first), max(known[2], last))

    def build(self, path: Path, stream: SourceStream, digest: str) -> Profile:
        """The profile of all batches added. Raises: EmptySourceError."""
        if not self._days:
            raise EmptySourceError(
                f"{path} holds no reading: {self.lines:,} lines, of them {self.rejected.total():,} rejected "
                f"({', '.join(f'{reason} {n:,}' for reason, n in self.rejected.most_common()) or 'none'}); "
                "expected lines of `date time epoch mote temperature humidity light voltage`"
            )
        inside = self._span()
        total = sum(n for n, _, _ in self._days.values())
        return Profile(
            lines=self.lines,
            readings=total,
            rejected=dict(self.rejected),
            skipped=dict(self.skipped),
            first_ns=self._days[inside[0]][1],
            last_ns=self._days[inside[-1]][2],
            first_day=_EPOCH + dt.timedelta(days=inside[0]),
            days=inside[-1] - inside[0] + 1,
            outside_span=total - sum(n for day, (n, _, _) in self._days.items() if inside[0] <= day <= inside[-1]),
            motes=sorted(self._motes),
            size_bytes=path.stat().st_size,
            fingerprint=digest,
            end_offset=stream.position,
        )

    def _span(self) -> list[int]:
        """Days of all groups that are not stray, ascending."""
        days = np.array(sorted(self._days), dtype=np.int64)
        groups = np.split(days, np.flatnonzero(np.diff(days) > GROUP_GAP_DAYS) + 1)
        sizes = [sum(self._days[day][0] for day in group.tolist()) for group in groups]
        least = min(STRAY_READINGS, STRAY_SHARE * sum(sizes))
        largest = int(np.argmax(sizes))
        kept = [group for i, group in enumerate(groups) if i == largest or sizes[i] >= max(least, 2)]
        return np.concatenate(kept).tolist()


def profiled_batches(path: Path | str, batch_rows: int = 200_000) -> Iterator[tuple[Batch, Profile | None]]:
    """Every batch of a file, then one empty batch with the profile of them all. Raises: SourceError,
    EmptySourceError."""
    digest = content_digest()
    builder = ProfileBuilder()
    with SourceStream(path, digest) as stream:
        for block in line_blocks(stream, batch_rows):
            batch = parse_block(block)
            builder.add(batch)
            yield batch, None
        done = builder.build(Path(path), stream, digest.hexdigest())
    empty = Batch(
        pl.DataFrame(schema=BATCH_SCHEMA), pl.DataFrame(schema=REJECT_SCHEMA), {}, 0, done.end_offset, done.end_offset
    )
    yield empty, done


def profile(path: Path | str) -> Profile:
    """What a file holds, in one streaming pass. Raises: SourceError, EmptySourceError."""
    for _, done in profiled_batches(path):
        if done is not None:
            return done
    raise AssertionError("profiled_batches ends with a profile or an error")
