"""The archive sink: exactly once, by putting rows, positions and ledger into one Delta commit.

Belongs here: the flush protocol (docs/architecture.md, Delivery). Not here: what a commit looks like (stores.archive),
nor when to poll, pause or retry (sieis_streaming.consumer).
"""

import math
import time

import polars as pl
import structlog

from sieis_platform import crash
from sieis_platform.analysis.duplicates import DuplicateWindow
from sieis_platform.settings import Settings
from sieis_platform.settings import Sink as SinkName
from sieis_platform.stores.archive import Archive, Commit, FenceError, LedgerEntry
from sieis_streaming.broker import TopicMissingError
from sieis_streaming.decode import STREAM_SCHEMA, DeadLetter, Decoded
from sieis_streaming.link import BrokerLink
from sieis_streaming.metrics import ConsumerMetrics
from sieis_streaming.sinks.base import (
    DEAD_BYTES,
    IncarnationChangedError,
    LogTruncatedError,
    OffsetRange,
    PositionBeyondEndError,
    PositionMovedError,
)

log = structlog.get_logger(__name__)

_NOWHERE = 1 << 62  # beyond every offset


class _PartitionBuffer:
    """What was read of one partition since its last flush: positions `start` .. `end`-1."""

    def __init__(self, position: int | None, start: int) -> None:
        self.expected = position  # the app transaction that the table must hold; None: it has none yet
        self.start = position or 0  # what the broker no longer has below `start` is a gap, accounted as lost
        self.begin = start  # where this assignment reads from: what lies below answers an older fetch
        self.end = start
        self.certain = start  # what lies below was read before the broker last said that the topic is the same
        self.told = start - self.start  # lost positions that the log knows of already
        self.dead: list[DeadLetter] = []

    @property
    def dirty(self) -> bool:
        return self.end > self.start

    def certain_dead(self) -> list[DeadLetter]:
        return [letter for letter in self.dead if letter.offset < self.certain]


class ArchiveSink:
    """Gathers rows per partition and flushes them by size or age."""

    name: SinkName = "archive"

    def __init__(
        self,
        archive: Archive,
        link: BrokerLink,
        settings: Settings,
        metrics: ConsumerMetrics,
    ) -> None:
        self._archive = archive
        self._link = link
        self._topic = settings.kafka_topic
        self._flush_rows = settings.archive_flush_rows
        self._flush_seconds = settings.flush_seconds
        self._metrics = metrics
        self._incarnation = ""
        self._window = DuplicateWindow(settings.duplicate_window_rows)
        self._buffers: dict[int, _PartitionBuffer] = {}
        self._frames: list[pl.DataFrame] = []  # certain to be of the topic that was assigned
        self._fresh: list[pl.DataFrame] = []  # read since the broker last said so
        self._gone = False  # the topic was missing or another when last asked for
        self._rows = 0
        self._letters = 0
        self._letter_bytes = 0
        self._oldest: float | None = None

    @property
    def ahead_rows(self) -> int:
        """As many as the next flush takes."""
        return self._flush_rows

    def assign(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
        """Read on where the table stands, not where Kafka's commit does."""
        self._incarnation = self._link.incarnation()
        self._archive.create()
        table = self._archive.table()
        positions = {partition: self._archive.position(self._app(partition), table) for partition in ranges}
        for partition, (_low, high, committed, cut) in ranges.items():
            self._require_whole(partition, positions[partition] or 0, high, committed if cut else None)
        starts: dict[int, int] = {}
        self._gone = False
        for partition, (low, *_) in ranges.items():
            position = positions[partition]
            starts[partition] = max(position or 0, low)
            self._buffers[partition] = _PartitionBuffer(position, starts[partition])
            if low > (position or 0):
                # Due at once: a loss is to be in ledger and metric now, not with the next rows.
                self._oldest = -math.inf
                self._tell_lost(partition, low - (position or 0), first=position or 0, last=low - 1)
        return starts

    def _require_whole(self, partition: int, position: int, end: int, cut_at: int | None) -> None:
        """Raises: LogTruncatedError, PositionBeyondEndError where the broker lost what is archived up to `position`."""
        if cut_at is not None:
            raise LogTruncatedError(
                f"{self._app(partition)} was archived up to {cut_at}, and its records before that are others "
                "now: the broker lost those, and gave their positions to new ones, which are not archived. See "
                "'The broker lost archived records' in docs/runbook.md before you start this again"
            )
        if position > end:
            raise PositionBeyondEndError(
                f"{self._app(partition)} is archived up to {position}, but the topic ends at {end}: the broker "
                "lost archived records. Delete and create the topic again (a new incarnation), then restart; see "
                "'The broker lost archived records' in docs/runbook.md",
                partition,
                position,
            )

    def revoke(self, partitions: list[int]) -> None:
        """Drop the buffers: the position in the table has not moved, so whoever is next reads them again.

        But of a topic that is gone nobody does: then they are told as lost.
        """
        for partition in partitions:
            buffer = self._buffers.pop(partition, None)
            if buffer is not None and buffer.dirty and self._gone:
                self._metrics.lost.labels(self.name).inc(buffer.end - buffer.start)
                log.error(
                    "the topic was deleted before it was certain that these records are its own: they are lost, but "
                    "for those that a topic made in its place has at the same positions",
                    topic=self._topic, incarnation=self._incarnation, partition=partition,
                    first=buffer.start, last=buffer.end - 1, lost_records=buffer.end - buffer.start,
                )  # fmt: skip
        self._frames = _without(self._frames, partitions)
        self._fresh = _without(self._fresh, partitions)
        self._weigh()
        self._window.forget(partitions)
        if not self._rows and not any(buffer.dirty for buffer in self._buffers.values()):
            self._oldest = None

    def add(self, decoded: Decoded) -> None:
        """Buffer one poll; what lies below the assignment's first offset answers an older fetch and is passed over.

        Raises: LogTruncatedError where a position comes that this assignment has passed already.
        """
        rows = decoded.rows
        ends = {partition: buffer.end for partition, buffer in self._buffers.items()}
        if rows.height:
            spans = rows.group_by("source_partition").agg(
                pl.col("source_offset").min().alias("first"), pl.col("source_offset").max().alias("last")
            )
            if any(first < ends.get(partition, _NOWHERE) for partition, first, _last in spans.iter_rows()):
                before = rows.filter(pl.col("source_offset") < _by(ends))
                for partition, offset in before.select("source_partition", "source_offset").iter_rows():
                    self._require_old(partition, offset)
                rows = rows.filter(pl.col("source_offset") >= _by(ends))
            for partition, _first, last in spans.iter_rows():
                if partition in self._buffers:
                    self._buffers[partition].end = max(self._buffers[partition].end, last + 1)
        for letter in decoded.dead:
            buffer = self._buffers.get(letter.partition)
            if buffer is None:
                continue
            if letter.offset < ends[letter.partition]:
                self._require_old(letter.partition, letter.offset)
                continue
            buffer.dead.append(letter)
            buffer.end = max(buffer.end, letter.offset + 1)
            self._letters += 1
            self._letter_bytes += letter.size
        if rows.height:
            self._fresh.append(rows)
            self._rows += rows.height
        if any(buffer.dirty for buffer in self._buffers.values()):
            self._touch()

    def confirm(self) -> None:
        """All that is buffered is of the topic that was assigned."""
        self._gone = False
        self._frames, self._fresh = [*self._frames, *self._fresh], []
        for buffer in self._buffers.values():
            buffer.certain = buffer.end

    def due(self) -> bool:
        """Enough records of either kind, dead letters of enough bytes, or old enough."""
        return (
            self._rows + self._letters >= self._flush_rows
            or self._letter_bytes >= DEAD_BYTES
            or (self._oldest is not None and time.monotonic() - self._oldest >= self._flush_seconds)
        )

    def flush(self) -> dict[int, int]:
        """One flush: incarnation, dead letters, then one commit of rows, positions and ledger.

        Of a topic that is gone, what was read before the broker last said that it is there is complete and its own, and
        is nowhere but here: that is stored under its name, and nothing else.

        Raises: IncarnationChangedError, PositionMovedError (drop the buffers and assign anew), RetriableError (the same
        call may succeed), FatalError.
        """
        if not any(buffer.dirty for buffer in self._buffers.values()):
            self._oldest = None
            return {}
        gone = self._look()
        offsets = self._flush_certain()
        if gone is not None:
            raise gone
        return offsets

    def _look(self) -> IncarnationChangedError | TopicMissingError | None:
        """Confirm what is buffered, or else why it cannot be. Raises: BrokerUnavailableError."""
        gone = None
        try:
            current = self._link.incarnation()
        except TopicMissingError as error:
            gone = error
        else:
            if current != self._incarnation:
                gone = IncarnationChangedError(
                    f"{self._topic} was {self._incarnation} and is now {current}: made again under us"
                )
        if gone is None:
            self.confirm()
        else:
            self._gone = True
        return gone

    def _flush_certain(self) -> dict[int, int]:
        dirty = {partition: buffer for partition, buffer in self._buffers.items() if buffer.certain > buffer.start}
        if not dirty:
            return {}
        crash.point("archive.before_dead_letters")
        dead = [letter for buffer in dirty.values() for letter in buffer.certain_dead()]
        if dead:
            self._link.publisher.publish(dead, self._topic, self._incarnation)
        crash.point("archive.after_dead_letters")
        rows = pl.concat(self._frames) if self._frames else None
        kept, window = self._window.split(rows) if rows is not None else (None, None)
        entries = self._entries(dirty, rows, kept)
        expected = {self._app(partition): buffer.expected for partition, buffer in self._buffers.items()}
        crash.point("archive.before_commit")
        try:
            self._archive.append(Commit(self._with_source(kept), entries, expected))
        except FenceError as error:
            raise PositionMovedError(str(error)) from error
        crash.point("archive.after_commit")
        if window is not None:
            self._window.remember(window)
        self._count(entries, dead, kept)
        for (partition, buffer), entry in zip(dirty.items(), entries, strict=True):
            if entry.lost > buffer.told:
                # Read on beyond a gap: while the flush waited for the archive, the retention overtook the position.
                self._tell_lost(partition, entry.lost - buffer.told, first=buffer.start, last=buffer.certain - 1)
            buffer.dead = [letter for letter in buffer.dead if letter.offset >= buffer.certain]
            buffer.expected, buffer.start, buffer.told = buffer.certain, buffer.certain, 0
        self._frames, self._oldest = [], None
        self._weigh()
        if any(buffer.dirty for buffer in self._buffers.values()):
            self._touch()
        return {partition: buffer.start for partition, buffer in dirty.items()}

    def committed(self) -> None:
        """Kafka's own offsets are a hint for lag displays only; a test may die here."""
        crash.point("archive.after_kafka_commit")

    def _entries(
        self, dirty: dict[int, _PartitionBuffer], rows: pl.DataFrame | None, kept: pl.DataFrame | None
    ) -> list[LedgerEntry]:
        read, stored = _by_partition(rows), _by_partition(kept)
        entries: list[LedgerEntry] = []
        for partition, buffer in dirty.items():
            good, dead = read.get(partition, 0), len(buffer.certain_dead())
            entries.append(
                LedgerEntry(
                    app=self._app(partition),
                    start=buffer.start,
                    end=buffer.certain,
                    stored=stored.get(partition, 0),
                    duplicates=good - stored.get(partition, 0),
                    dead=dead,
                    lost=buffer.certain - buffer.start - good - dead,
                )
            )
        return entries

    def _with_source(self, kept: pl.DataFrame | None) -> pl.DataFrame:
        if kept is None:
            kept = pl.DataFrame(schema=STREAM_SCHEMA)
        return kept.drop("record_ms").with_columns(pl.lit(f"stream:{self._incarnation}").alias("source"))

    def _count(self, entries: list[LedgerEntry], dead: list[DeadLetter], kept: pl.DataFrame | None) -> None:
        self._metrics.flushes.labels(self.name).inc()
        self._metrics.duplicates.labels(self.name).inc(sum(entry.duplicates for entry in entries))
        # Here, with the ledger, and not when a gap is seen: whoever is assigned the partition before this flush sees it
        # too, and it would count twice.
        self._metrics.lost.labels(self.name).inc(sum(entry.lost for entry in entries))
        for letter in dead:
            self._metrics.dead_letters.labels(self.name, letter.reason.value).inc()
        if kept is not None:
            self._metrics.written(self.name, kept)

    def _tell_lost(self, partition: int, lost: int, *, first: int, last: int) -> None:
        log.error(
            "the broker no longer has these positions: they are lost",
            topic=self._topic, partition=partition, first=first, last=last, lost_records=lost,
        )  # fmt: skip

    def _app(self, partition: int) -> str:
        return f"{self._topic}/{self._incarnation}/{partition}"

    def _require_old(self, partition: int, offset: int) -> None:
        """Raises: LogTruncatedError where `offset`, come again, is none of a fetch before this assignment."""
        buffer = self._buffers.get(partition)
        if buffer is not None and offset >= buffer.begin:
            raise LogTruncatedError(
                f"position {offset} of {self._app(partition)} came again after {buffer.end - 1}: the broker lost "
                "records that were read already, and gives their positions to others, which are not archived. See "
                "'The broker lost archived records' in docs/runbook.md before you start this again"
            )

    def _weigh(self) -> None:
        """Count anew what is buffered."""
        self._rows = sum(frame.height for frame in (*self._frames, *self._fresh))
        letters = [letter for buffer in self._buffers.values() for letter in buffer.dead]
        self._letters, self._letter_bytes = len(letters), sum(letter.size for letter in letters)

    def _touch(self) -> None:
        if self._oldest is None:
            self._oldest = time.monotonic()


def _by(ends: dict[int, int]) -> pl.Expr:
    """Of each row, what `ends` says of its partition."""
    return pl.col("source_partition").replace_strict(ends, default=_NOWHERE)


def _without(frames: list[pl.DataFrame], partitions: list[int]) -> list[pl.DataFrame]:
    kept = (frame.filter(~pl.col("source_partition").is_in(partitions)) for frame in frames)
    return [frame for frame in kept if frame.height]


def _by_partition(rows: pl.DataFrame | None) -> dict[int, int]:
    if rows is None:
        return {}
    return dict(rows.group_by("source_partition").len().iter_rows())
