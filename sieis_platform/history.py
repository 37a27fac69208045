"""The historical load: a file of readings into both stores, without Kafka, each line once however often it is killed.

Belongs here: the order of the writes, what is skipped and why.
Not here: the file's grammar (sources), the layout (stores).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import polars as pl
from deltalake import DeltaTable

from sieis_platform import crash
from sieis_platform.already_stored import AlreadyStored, said_by_others
from sieis_platform.analysis.duplicates import DuplicateWindow
from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings
from sieis_platform.sources.chosen import remember
from sieis_platform.sources.grammar import Batch, RejectReason
from sieis_platform.sources.intel_lab import read_batches
from sieis_platform.sources.profiles import Profile, profile
from sieis_platform.sources.rejects import RejectsFile
from sieis_platform.sources.stream import Unchanged
from sieis_platform.stores.archive import Archive, Commit, FenceError, LedgerEntry
from sieis_platform.stores.hot import HotStore, WriteOutcome
from sieis_platform.stores.open import open_marts
from sieis_platform.timeline import DAY_NS, Timeline, TimelineFile

#: What `source` of the rows of every file begins with.
SOURCE: Final = "history:"


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
class Prepared:
    """One batch on the platform's dates, ready to be written."""

    batch: Batch
    rows: pl.DataFrame
    rejects: pl.DataFrame
    skipped: Counter[str]
    duplicates: int

    def without(self, stored: AlreadyStored) -> "Prepared":
        """Less the rows that a backfill has put in place, and the readings that were corrected."""
        new = self._skip(stored.there(self.rows), "already_backfilled")
        return new._skip(stored.taken_away(new.rows), "corrected")

    def without_repeats(self, archive: Archive, source: str) -> "Prepared":
        """Less the rows that say what the archive says already; they count as duplicates."""
        repeated = said_by_others(archive, self.rows, source)
        return replace(self, rows=self.rows.filter(~repeated), duplicates=self.duplicates + int(repeated.sum()))

    def _skip(self, which: pl.Series, reason: str) -> "Prepared":
        if not which.any():
            return self
        skipped = self.skipped + Counter({reason: int(which.sum())})
        return replace(self, rows=self.rows.filter(~which), skipped=skipped)


class Preparer:
    """Batches of one file to rows as the archive keeps them; the same for whoever writes them."""

    def __init__(self, settings: Settings, timeline: Timeline, facts: Profile) -> None:
        self._timeline = timeline
        self._facts = facts
        self._window = DuplicateWindow(settings.duplicate_window_rows)

    def prepare(self, batch: Batch) -> Prepared:
        """The batch on the platform's dates. Batches must come in the order of the file: repeats are found by it."""
        skipped = Counter(batch.skipped)
        rows = batch.readings.with_columns(self._timeline.to_platform(), pl.col("timestamp").alias("dataset_timestamp"))
        rejects = batch.rejects
        outside = rows.filter(pl.col("timestamp").is_null())
        if outside.height:
            rows = rows.filter(pl.col("timestamp").is_not_null())
            rejects = pl.concat([rejects, _outside(outside)])
        live_from_ns = _ns(self._timeline)
        live = rows.filter(pl.col("timestamp") >= live_from_ns)
        if live.height:
            # These dates belong to the stream (only `year` and `none` put any there).
            skipped["on_or_after_the_anchor_date"] = live.height
            rows = rows.filter(pl.col("timestamp") < live_from_ns)
        rows = rows.drop("dataset_timestamp").with_columns(
            pl.lit(source_of(self._facts.fingerprint)).alias("source"), pl.lit(0, pl.Int32).alias("source_partition")
        )
        stored, window = self._window.split(rows)
        self._window.remember(window)
        return Prepared(batch, stored, rejects, skipped, rows.height - stored.height)


class HistoricalLoad:
    """Loads one file. The hot store is always ahead of the archive, whose commit moves the position.

    A batch goes to the hot store first (idempotent), then to the archive in one commit with the position behind it; the
    hot store takes the next batch meanwhile. Killed anywhere, the next run goes on at the archive's position (what
    comes before is read, not written, so that repeats of it are recognised) and at most repeats batches the hot store
    has already, which changes nothing.
    """

    def __init__(self, settings: Settings, hot: HotStore, archive: Archive) -> None:
        self._settings = settings
        self._hot = hot
        self._archive = archive

    def load(
        self, path: Path, on_progress: Callable[[Progress], None] = lambda _: None, *, remembered: bool = True
    ) -> LoadSummary:
        """Load `path`, or what is left of it; `remembered` as the data set of this installation, which is replayed.

        Raises: SourceError (the file; SourceChangedError where it is written to meanwhile), LoadInProgressError,
        TimelineError, RetriableError and FatalError of the stores.
        Whatever was committed before stays, and the next call goes on from there.
        """
        started = time.monotonic()
        unchanged = Unchanged(path)
        facts = profile(path)
        unchanged.check()
        timeline = TimelineFile.of(self._settings).fix(self._settings, facts.first_day, facts.days)
        self._archive.create()
        position = self._archive.position(app_of(facts.fingerprint))
        summary = LoadSummary(str(path), facts.fingerprint, resumed_at_byte=position or 0)
        rejected, skipped = Counter[str](), Counter[str]()
        if (position or 0) < facts.end_offset:
            with RejectsFile(self._settings.data_dir, facts.fingerprint, path.name) as kept:
                for done in self._written(unchanged, timeline, facts, position, kept):
                    self._add(summary, done, rejected, skipped)
                    on_progress(Progress(done.prepared.batch.end_offset, facts.end_offset, summary.rows_loaded))
                if rejected:
                    summary.rejects_file = str(kept.path)
        if remembered:
            remember(self._settings, path, facts.fingerprint)
        summary.rejected, summary.skipped = dict(rejected), dict(skipped)
        summary.seconds = time.monotonic() - started
        return summary

    def _written(
        self, file: Unchanged, timeline: Timeline, facts: Profile, position: int | None, kept: RejectsFile
    ) -> Iterator["_Written"]:
        """Write batch after batch; while the archive commits one, the hot store already takes the next."""
        preparer = Preparer(self._settings, timeline, facts)
        self._read_again(preparer, file.path, position or 0)
        known = self._known(facts, position)
        with ThreadPoolExecutor(1, thread_name_prefix="hot") as hot_thread:
            waiting: tuple[Prepared, Future[WriteOutcome]] | None = None
            batches = read_batches(
                file.path,
                start_offset=position or 0,
                end_offset=facts.end_offset,
                batch_rows=self._settings.load_batch_rows,
            )
            for batch in batches:
                prepared = (
                    preparer.prepare(batch).without(known).without_repeats(self._archive, source_of(facts.fingerprint))
                )
                future = hot_thread.submit(self._write_hot, prepared.rows)
                if waiting is not None:
                    file.check()
                    done, known = self._finish(*waiting, facts=facts, position=position, known=known, kept=kept)
                    yield done
                    position = done.prepared.batch.end_offset
                waiting = (prepared, future)
            if waiting is not None:
                file.check()
                yield self._finish(*waiting, facts=facts, position=position, known=known, kept=kept)[0]

    def _read_again(self, preparer: Preparer, path: Path, position: int) -> None:
        """What a killed load had come to: lines behind `position` may repeat those before it.

        From the file, not from the archive: there a correction may have changed the values, or another source have said
        them first. It costs what the file's profile costs, once more at most.
        """
        for batch in read_batches(path, end_offset=position, batch_rows=self._settings.load_batch_rows):
            preparer.prepare(batch)

    def _known(self, facts: Profile, position: int | None) -> AlreadyStored:
        return AlreadyStored.now(
            self._archive,
            open_marts(self._settings),
            source=source_of(facts.fingerprint),
            backfills=backfill_app(facts.fingerprint),
            position=position or 0,
        )

    def _write_hot(self, rows: pl.DataFrame) -> WriteOutcome:
        crash.point("load.before_hot")
        outcome = self._hot.write_readings(rows)
        crash.point("load.after_hot")
        return outcome

    def _finish(
        self,
        prepared: Prepared,
        future: Future[WriteOutcome],
        *,
        facts: Profile,
        position: int | None,
        known: AlreadyStored,
        kept: RejectsFile,
    ) -> "tuple[_Written, AlreadyStored]":
        outcome = future.result()
        app, batch = app_of(facts.fingerprint), prepared.batch
        marks = {_whole_app(facts.fingerprint): batch.end_offset} if batch.end_offset == facts.end_offset else {}
        if prepared.rejects.height:
            kept.add(prepared.rejects)
        while True:
            prepared = prepared.without(known)
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
                expected = {app: position, backfill_app(facts.fingerprint): known.counter}
                self._archive.append(Commit(prepared.rows, [entry], expected, marks))
            except FenceError as error:
                if error.app_id == app:
                    if (error.found or 0) != (position or 0):
                        raise LoadInProgressError(
                            f"another process is loading the same file ({error}); let it finish"
                        ) from error
                    position = error.found  # where there was none a backfill has written 0, which is the same place
                # A backfill wrote meanwhile: perhaps rows of this very batch.
                known = self._known(facts, position)
                continue
            crash.point("load.after_commit")
            return _Written(prepared, outcome), known

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
    prepared: Prepared
    outcome: WriteOutcome


def app_of(fingerprint: str) -> str:
    """The app transaction of a load: its version is the byte to go on from."""
    return f"history/{fingerprint}"


def backfill_app(fingerprint: str) -> str:
    """The app transaction of the backfills from a file: its version counts their commits."""
    return f"backfill/{fingerprint}"


def source_of(fingerprint: str) -> str:
    """`source` of the rows of a file."""
    return f"{SOURCE}{fingerprint}"


def is_whole(archive: Archive, source: str, table: DeltaTable) -> bool:
    """Whether a load of the file whose rows have that `source` has come to the file's end.

    Raises: ArchiveUnavailableError, ArchiveError.
    """
    return archive.position(_whole_app(source.removeprefix(SOURCE)), table) is not None


def _whole_app(fingerprint: str) -> str:
    """The app transaction of the commit by which a load has come to the end of its file; its version is that byte."""
    return f"whole/{fingerprint}"


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
