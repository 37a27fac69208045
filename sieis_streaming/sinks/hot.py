"""The hot sink: at least once, and idempotent because the same mote and timestamp overwrite.

Belongs here: buffering between two writes. Not here: how a store writes (sieis_platform.stores).
"""

import time
from typing import Final

import polars as pl

from sieis_platform import crash
from sieis_platform.settings import Sink as SinkName
from sieis_platform.stores.hot import HotStore
from sieis_streaming.decode import Decoded
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.sinks.base import OffsetRange

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

    @property
    def ahead_rows(self) -> int:
        """Two polls under load: the write after this one is then no larger than it pays."""
        return _AHEAD_ROWS

    def assign(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
        """The group's own offsets serve: a repeated write changes nothing."""
        del ranges
        return {}

    def revoke(self, partitions: list[int]) -> None:
        """Forget all that is buffered: positions are uncommitted, so whoever is next reads it again."""
        del partitions
        self._clear()

    def add(self, decoded: Decoded) -> None:
        """Buffer the readings; dead letters are the archive group's business, here only their offsets count."""
        if not self._next:
            self._since = time.monotonic()
        if decoded.rows.height:
            self._frames.append(decoded.rows)
            self._rows += decoded.rows.height
            ends = decoded.rows.group_by("source_partition").agg(pl.col("source_offset").max() + 1)
            for partition, end in ends.iter_rows():
                self._next[partition] = max(end, self._next.get(partition, 0))
        for letter in decoded.dead:
            self._next[letter.partition] = max(letter.offset + 1, self._next.get(letter.partition, 0))
            self._metrics.dead_letters.labels(self.name, letter.reason.value).inc()

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
        self._clear()
        return offsets

    def committed(self) -> None:
        """Nothing to do but to be a place to die in a test."""
        crash.point("hot.after_kafka_commit")

    def _clear(self) -> None:
        self._frames, self._rows, self._next = [], 0, {}
