"""The hot sink: at least once, and idempotent because the same mote and timestamp overwrite.

Belongs here: buffering between two writes. Not here: how a store writes (sieis_platform.stores).
"""

import polars as pl

from sieis_platform import crash
from sieis_platform.settings import Sink as SinkName
from sieis_platform.stores.hot import HotStore
from sieis_streaming.decode import Decoded
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.sinks.base import OffsetRange


class HotSink:
    """Writes every poll at once: freshness is what this store is for."""

    name: SinkName = "hot"

    def __init__(self, store: HotStore, metrics: ConsumerMetrics) -> None:
        self._store = store
        self._metrics = metrics
        self._frames: list[pl.DataFrame] = []
        self._next: dict[int, int] = {}

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
        if decoded.rows.height:
            self._frames.append(decoded.rows)
            ends = decoded.rows.group_by("source_partition").agg(pl.col("source_offset").max() + 1)
            for partition, end in ends.iter_rows():
                self._next[partition] = max(end, self._next.get(partition, 0))
        for letter in decoded.dead:
            self._next[letter.partition] = max(letter.offset + 1, self._next.get(letter.partition, 0))
            self._metrics.dead_letters.labels(self.name, letter.reason.value).inc()

    def due(self) -> bool:
        """Always, if there is anything."""
        return bool(self._next)

    def flush(self) -> dict[int, int]:
        """Write the buffered readings."""
        offsets = dict(self._next)
        if self._frames:
            rows = pl.concat(self._frames) if len(self._frames) > 1 else self._frames[0]
            crash.point("hot.before_write")
            outcome = self._store.write_readings(rows)
            crash.point("hot.after_write")
            self._metrics.flushes.labels(self.name).inc()
            self._metrics.written(self.name, rows, outcome.beyond_retention)
        self._clear()
        return offsets

    def committed(self) -> None:
        """Nothing to do but to be a place to die in a test."""
        crash.point("hot.after_kafka_commit")

    def _clear(self) -> None:
        self._frames, self._next = [], {}
