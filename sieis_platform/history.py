"""The historical load: a file of readings into both stores, without Kafka, each line once however often it is killed.

Belongs here: the order of the writes, what is skipped and why.
Not here: the file's grammar (sources), the layout (stores).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl

from sieis_platform import crash
from sieis_platform.analysis.duplicates import DuplicateWindow
from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings
from sieis_platform.sources.chosen import remember
from sieis_platform.sources.grammar import Batch, RejectReason
from sieis_platform.sources.intel_lab import read_batches
from sieis_platform.sources.profiles import Profile, profile
from sieis_platform.sources.rejects import RejectsFile
from sieis_platform.stores.archive import Archive, Commit, FenceError, LedgerEntry
from sieis_platform.stores.hot import HotStore, WriteOutcome
from sieis_platform.timeline import DAY_NS, Timeline, TimelineFile


class LoadInProgressError(FatalError):
    """Another process is loading the same file."""


@dataclass
class LoadSummary:
    """What became of the lines of one file in this run."""

    file: str
    fingerprint: str
    resumed_at_byte: int = 0
    lines_read: int = 0
    rows_loaded: int = 0
    rows_archive: int = 0
    rows_hot: int = 0
    hot_beyond_retention: int = 0
    duplicates: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    rejects_file: str | None = None
    commits: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """How far a load is, in bytes of the decompressed file; `rows` are readings of this run."""

    bytes_done: int
    bytes_total: int
    rows: int


@dataclass(frozen=True)
class _Prepared:
    """One batch on the platform's dates, ready to be written."""

    batch: Batch
    rows: pl.DataFrame
    rejects: pl.DataFrame
    skipped: Counter[str]
    duplicates: int


class HistoricalLoad:
    """Loads one file. The hot store is always ahead of the archive, whose commit moves the position.

    A batch goes to the hot store first (idempotent), then to the archive in one commit with the position behind it; the
    hot store takes the next batch meanwhile. Killed anywhere, the next run reads on at the archive's position and at
    most repeats batches the hot store has already, which changes nothing.
    """

    def __init__(self, settings: Settings, hot: HotStore, archive: Archive) -> None:
        self._settings = settings
        self._hot = hot
        self._archive = archive
        self._window = DuplicateWindow(settings.duplicate_window_rows)

    def load(self, path: Path, on_progress: Callable[[Progress], None] = lambda _: None) -> LoadSummary:
        """Load `path`, or what is left of it.

        Raises: SourceError (the file), LoadInProgressError, TimelineError, RetriableError and FatalError of the stores.
        Whatever was committed before stays, and the next call goes on from there.
        """
        started = time.monotonic()
        facts = profile(path)
        timeline = TimelineFile.of(self._settings).fix(self._settings, facts.first_day, facts.days)
        self._archive.create()
        position = self._archive.position(_app(facts))
        summary = LoadSummary(str(path), facts.fingerprint, resumed_at_byte=position or 0)
        rejected, skipped = Counter[str](), Counter[str]()
        if (position or 0) < facts.end_offset:
            with RejectsFile(self._settings.data_dir, facts.fingerprint, path.name) as kept:
                for done in self._written(path, timeline, facts, position, kept):
                    self._add(summary, done, rejected, skipped)
                    on_progress(Progress(done.prepared.batch.end_offset, facts.end_offset, summary.rows_loaded))
                if rejected:
                    summary.rejects_file = str(kept.path)
        remember(self._settings, path, facts.fingerprint)
        summary.rejected, summary.skipped = dict(rejected), dict(skipped)
        summary.seconds = time.monotonic() - started
        return summary

    def _written(
        self, path: Path, timeline: Timeline, facts: Profile, position: int | None, kept: RejectsFile
    ) -> Iterator["_Written"]:
        """Write batch after batch; while the archive commits one, the hot store already takes the next."""
        with ThreadPoolExecutor(1, thread_name_prefix="hot") as hot_thread:
            waiting: tuple[_Prepared, Future[WriteOutcome]] | None = None
            batches = read_batches(path, start_offset=position or 0, batch_rows=self._settings.load_batch_rows)
            for batch in batches:
                prepared = self._prepare(batch, timeline, facts)
                future = hot_thread.submit(self._write_hot, prepared.rows)
                if waiting is not None:
                    yield self._finish(*waiting, app=_app(facts), position=position, kept=kept)
                    position = waiting[0].batch.end_offset
                waiting = (prepared, future)
            if waiting is not None:
                yield self._finish(*waiting, app=_app(facts), position=position, kept=kept)

    def _prepare(self, batch: Batch, timeline: Timeline, facts: Profile) -> _Prepared:
        skipped = Counter(batch.skipped)
        rows = batch.readings.with_columns(timeline.to_platform(), pl.col("timestamp").alias("dataset_timestamp"))
        rejects = batch.rejects
        outside = rows.filter(pl.col("timestamp").is_null())
        if outside.height:
            rows = rows.filter(pl.col("timestamp").is_not_null())
            rejects = pl.concat([rejects, _outside(outside)])
        live_from_ns = _ns(timeline)
        live = rows.filter(pl.col("timestamp") >= live_from_ns)
        if live.height:
            # These dates belong to the stream (only `year` and `none` put any there).
            skipped["on_or_after_the_anchor_date"] = live.height
            rows = rows.filter(pl.col("timestamp") < live_from_ns)
        rows = rows.drop("dataset_timestamp").with_columns(
            pl.lit(f"history:{facts.fingerprint}").alias("source"), pl.lit(0, pl.Int32).alias("source_partition")
        )
        stored, window = self._window.split(rows)
        self._window.remember(window)
        return _Prepared(batch, stored, rejects, skipped, rows.height - stored.height)

    def _write_hot(self, rows: pl.DataFrame) -> WriteOutcome:
        crash.point("load.before_hot")
        outcome = self._hot.write_readings(rows)
        crash.point("load.after_hot")
        return outcome

    def _finish(
        self, prepared: _Prepared, future: Future[WriteOutcome], *, app: str, position: int | None, kept: RejectsFile
    ) -> "_Written":
        outcome = future.result()
        batch = prepared.batch
        if prepared.rejects.height:
            kept.add(prepared.rejects)
        entry = LedgerEntry(
            app=app,
            start=position or 0,
            end=batch.end_offset,
            stored=prepared.rows.height,
            duplicates=prepared.duplicates,
            dead=prepared.rejects.height,
            skipped=prepared.skipped.total(),
        )
        crash.point("load.before_commit")
        try:
            self._archive.append(Commit(prepared.rows, [entry], {app: position}))
        except FenceError as error:
            raise LoadInProgressError(f"another process is loading the same file ({error}); let it finish") from error
        crash.point("load.after_commit")
        return _Written(prepared, outcome)

    @staticmethod
    def _add(summary: LoadSummary, done: "_Written", rejected: Counter[str], skipped: Counter[str]) -> None:
        prepared = done.prepared
        summary.lines_read += prepared.batch.lines
        summary.rows_loaded += prepared.rows.height
        summary.rows_archive += prepared.rows.height
        summary.rows_hot += done.outcome.written
        summary.hot_beyond_retention += done.outcome.beyond_retention
        summary.duplicates += prepared.duplicates
        summary.commits += 1
        rejected.update(dict(prepared.rejects["reason"].value_counts().iter_rows()))
        skipped.update(prepared.skipped)


@dataclass(frozen=True)
class _Written:
    prepared: _Prepared
    outcome: WriteOutcome


def _app(facts: Profile) -> str:
    return f"history/{facts.fingerprint}"


def _ns(timeline: Timeline) -> int:
    return (timeline.anchor.toordinal() - _EPOCH_ORDINAL) * DAY_NS


_EPOCH_ORDINAL = 719_163  # date(1970, 1, 1).toordinal()


def _outside(rows: pl.DataFrame) -> pl.DataFrame:
    """Rejects for readings far from the data set's dates; the line is told by what was read of it."""
    text = pl.format(
        "{} mote {}",
        pl.from_epoch(pl.col("dataset_timestamp"), time_unit="ns").dt.to_string("iso"),
        pl.col("mote_id"),
    )
    return rows.select(
        pl.col("source_offset").alias("byte_offset"),
        pl.lit(RejectReason.OUTSIDE_DATASET_SPAN.value).alias("reason"),
        text.cast(pl.Binary).alias("line"),
    )
