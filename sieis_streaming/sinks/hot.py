"""The hot sink: at least once, and idempotent because the same mote and timestamp overwrite.

Belongs here: buffering between two writes, and noticing what the broker no longer had. Not here: how a store writes
(sieis_platform.stores).
"""

import time
from typing import Final

import polars as pl
import structlog

from sieis_platform import crash
from sieis_platform.settings import Sink as SinkName
from sieis_platform.stores.hot import HotStore
from sieis_streaming.decode import Decoded
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.sinks.base import OffsetRange

log = structlog.get_logger(__name__)

_AHEAD_ROWS: Final = 40_000


class HotSink:
    """Writes every poll at once, as freshness is what this store is for, or what pays where each write has a price.

    That is at least `batch_rows`, or what there is once the oldest has waited for `batch_seconds`.
    """

    name: SinkName = "hot"

    def __init__(
        self, store: HotStore, metrics: ConsumerMetrics, *, batch_rows: int = 1, batch_seconds: float = 0.0
    ) -> None:
        self._store = store
        self._batch_rows = batch_rows
        self._batch_seconds = batch_seconds
        self._since = 0.0
        self._rows = 0
        self._metrics = metrics
        self._frames: list[pl.DataFrame] = []
        self._next: dict[int, int] = {}
        self._expected: dict[int, int] = {}
        self._lost = 0

    @property
    def ahead_rows(self) -> int:
        """Two polls under load: the write after this one is then no larger than it pays."""
        return _AHEAD_ROWS

    def assign(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
        """Read on where the group stands: a repeated write changes nothing.

        Where that is none of the broker's records, it is the first it has: a group that stands before it has lost what
        lies between; one that stands behind the last has seen records that the broker lost, and reads all anew.
        """
        starts: dict[int, int] = {}
        for partition, (low, high, committed, cut) in ranges.items():
            starts[partition] = low if committed is None or cut or not low <= committed <= high else committed
            self._expected[partition] = starts[partition]
            if committed is not None and committed < low:
                if not self._next:
                    self._since = time.monotonic()
                self._next[partition] = low  # due and committed though nothing was read: then it counts once
                self._lose(partition, first=committed, last=low - 1, lost=low - committed)
        return starts

    def revoke(self, partitions: list[int]) -> None:
        """Forget all that is buffered: positions are uncommitted, so whoever is next reads it again."""
        for partition in partitions:
            self._expected.pop(partition, None)
        self._clear()

    def add(self, decoded: Decoded) -> None:
        """Buffer the readings; dead letters are the archive group's business, here only their offsets count."""
        if not self._next:
            self._since = time.monotonic()
        seen: dict[int, tuple[int, int, int]] = {}  # partition -> first offset, last offset, records
        if decoded.rows.height:
            self._frames.append(decoded.rows)
            self._rows += decoded.rows.height
            offset = pl.col("source_offset")
            spans = decoded.rows.group_by("source_partition").agg(
                offset.min().alias("first"), offset.max().alias("last"), pl.len().alias("records")
            )
            seen = {part: (first, last, records) for part, first, last, records in spans.iter_rows()}
        for letter in decoded.dead:
            first, last, records = seen.get(letter.partition, (letter.offset, letter.offset, 0))
            seen[letter.partition] = min(first, letter.offset), max(last, letter.offset), records + 1
            self._metrics.dead_letters.labels(self.name, letter.reason.value).inc()
        for partition, (first, last, records) in seen.items():
            self._next[partition] = max(last + 1, self._next.get(partition, 0))
            expected = self._expected.get(partition, first)
            # While the store was down its partitions were not read, and the retention may have overtaken them. Read
            # again from further back is what the broker lost and got anew: that is no gap.
            lost = last + 1 - expected - records
            if first >= expected and lost > 0:
                self._lose(partition, first=expected, last=last, lost=lost)
            self._expected[partition] = last + 1

    def due(self) -> bool:
        """Whether a batch is full, or the oldest of what there is has waited long enough."""
        return bool(self._next) and (
            self._rows >= self._batch_rows or time.monotonic() - self._since >= self._batch_seconds
        )

    def flush(self) -> dict[int, int]:
        """Write the buffered readings."""
        offsets = dict(self._next)
        if self._frames:
            rows = pl.concat(self._frames) if len(self._frames) > 1 else self._frames[0]
            crash.point("hot.before_write")
            outcome = self._store.write_readings(rows)
            crash.point("hot.after_write")
            self._metrics.flushes.labels(self.name).inc()
            self._metrics.written(self.name, rows, outcome.beyond_retention, outcome.refused)
        # Here, with the offsets, and not when the gap is seen: who takes the partition over before sees it too.
        self._metrics.lost.labels(self.name).inc(self._lost)
        self._clear()
        return offsets

    def committed(self) -> None:
        """Nothing to do but to be a place to die in a test."""
        crash.point("hot.after_kafka_commit")

    def confirm(self) -> None:
        """Nothing to do: what was read is true, whatever became of its topic."""

    def _lose(self, partition: int, *, first: int, last: int, lost: int) -> None:
        self._lost += lost
        log.error(
            "the broker no longer has these positions: the hot store lacks them. If the archive has them, the job "
            "rebuild_hot_store brings them back",
            sink=self.name, partition=partition, first=first, last=last, lost_records=lost,
        )  # fmt: skip

    def _clear(self) -> None:
        self._frames, self._rows, self._next, self._lost = [], 0, {}, 0
