"""Chosen days of history from the file of readings into both stores: gaps filled, or the days replaced.

Belongs here: which rows are missing, and the order of the writes. Not here: loading a whole file (history.py), Dagster.
"""

import datetime as dt
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl
from deltalake import DeltaTable

from sieis_platform import crash
from sieis_platform.errors import FatalError
from sieis_platform.history import Preparer, app_of, backfill_app, source_of
from sieis_platform.reading import FIELDS, KEY, READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.sources.chosen import recall, remember
from sieis_platform.sources.download import readings_path
from sieis_platform.sources.intel_lab import read_batches
from sieis_platform.sources.profiles import Profile, profile
from sieis_platform.stores.archive import Archive, Commit, FenceError, LedgerEntry
from sieis_platform.stores.corrected import CorrectionImages
from sieis_platform.stores.hot import HotStore
from sieis_platform.stores.open import open_marts
from sieis_platform.stores.rewrite import ROW_SCHEMA, Scope, replace_rows
from sieis_platform.timeline import DAY_NS, Timeline, TimelineFile

#: Rows gathered in memory between two commits (about 80 bytes each: 160 MB); the file is read once for each.
_ROWS_AT_ONCE: Final = 2_000_000
_ROUNDS: Final = 20
_EPOCH: Final = dt.date(1970, 1, 1)


class NoHistoryError(FatalError):
    """There is no file that history could be filled from."""


class LiveDayError(FatalError):
    """A day that belongs to the stream was to be filled from a file."""


class OutsideHistoryError(FatalError):
    """A day that history does not reach to was to be filled."""


class LoadRunningError(FatalError):
    """A load of the same file keeps writing the days that are to be filled."""


@dataclass
class BackfillSummary:
    """What one backfill did. `rows` are the readings that the file has for the days."""

    file: str
    fingerprint: str
    first: dt.date
    last: dt.date
    rows: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    rows_hot: int = 0
    seconds: float = 0.0
    rows_by_day: dict[dt.date, int] = field(default_factory=dict)


def history_file(settings: Settings) -> Path:
    """The file that history comes from: the setting, the one loaded last, or the downloaded one.

    Raises: NoHistoryError.
    """
    downloaded = readings_path(settings)
    found = settings.data_file or recall(settings) or (downloaded if downloaded.exists() else None)
    if found is None:
        raise NoHistoryError(
            "no file of readings is known: load one (`sieis load FILE`), fetch it (`sieis data download`), or set "
            "SIEIS_DATA_FILE"
        )
    return found


class Backfill:
    """Fills days of history from one file, each day whole in one commit.

    A row is missing where its key (mote, time) is nowhere in the archive, whoever may have written it, and no
    correction in force concerns that key, from whatever source the corrected reading came. Every commit also names the
    position of the load of that file, so that of a load and a backfill at the same time the slower is refused, and
    looks again.
    """

    def __init__(self, settings: Settings, hot: HotStore, archive: Archive) -> None:
        self._settings = settings
        self._hot = hot
        self._archive = archive
        self._images = CorrectionImages(open_marts(settings))

    def fill(self, path: Path, first: dt.date, last: dt.date, *, replace: bool = False) -> BackfillSummary:
        """Fill the days `first` to `last`, or put the file's rows in place of whatever they hold. Twice is like once.

        Raises: LiveDayError, OutsideHistoryError (nothing was written), LoadRunningError, SourceError, TimelineError,
        RetriableError and FatalError of the stores. What was committed before stays.
        """
        started = time.monotonic()
        facts = profile(path)
        timeline = TimelineFile.of(self._settings).fix(self._settings, facts.first_day, facts.days)
        _check(timeline, first, last)
        self._archive.create()
        remember(self._settings, path, facts.fingerprint)
        summary = BackfillSummary(str(path), facts.fingerprint, first, last)
        for days in _pieces(facts, first, last):
            rows = self._gather(path, timeline, facts, days)
            summary.rows += rows.height
            summary.rows_by_day |= _by_day(rows)
            self._add_missing(rows, facts, days, summary, by_position=replace)
            if replace:
                self._replace(rows, facts, days, summary)
        summary.seconds = time.monotonic() - started
        return summary

    def _gather(self, path: Path, timeline: Timeline, facts: Profile, days: Scope) -> pl.DataFrame:
        """What the file has for the days, in its order, without identical repeats: as a load writes it."""
        preparer = Preparer(self._settings, timeline, facts)
        start_ns, end_ns = _bounds(days)
        inside = pl.col("timestamp").is_between(start_ns, end_ns, closed="left")
        found = [pl.DataFrame(schema=_FILE_SCHEMA)]
        for batch in read_batches(path, batch_rows=self._settings.load_batch_rows):
            prepared = preparer.prepare(batch).rows.filter(inside)
            if prepared.height:
                found.append(prepared.select(_FILE_SCHEMA.names()).cast(_FILE_SCHEMA))  # pyright: ignore[reportArgumentType]
        return pl.concat(found)

    def _add_missing(
        self, rows: pl.DataFrame, facts: Profile, days: Scope, summary: BackfillSummary, *, by_position: bool
    ) -> None:
        app, counter = app_of(facts.fingerprint), backfill_app(facts.fingerprint)
        for _ in range(_ROUNDS):
            table = self._archive.table()
            at, count = self._archive.position(app, table), self._archive.position(counter, table)
            missing = self._missing(rows, facts, days, table, by_position=by_position)
            if missing.is_empty():
                return
            entries = [
                # Nothing moves, but the commit then meets that of a load made at the same time.
                LedgerEntry(app=app, start=at or 0, end=at or 0, stored=0),
                LedgerEntry(app=counter, start=count or 0, end=(count or 0) + 1, stored=missing.height),
            ]
            if not by_position:
                summary.rows_hot += self._hot.write_readings(missing).written
            crash.point("backfill.before_commit")
            try:
                self._archive.append(Commit(missing, entries, {app: at, counter: count}))
            except FenceError:
                continue
            crash.point("backfill.after_commit")
            summary.added += missing.height
            return
        raise LoadRunningError(
            f"another process is loading {summary.file} and was faster {_ROUNDS} times; let it finish, then fill again"
        )

    def _missing(
        self, rows: pl.DataFrame, facts: Profile, days: Scope, table: DeltaTable, *, by_position: bool
    ) -> pl.DataFrame:
        stored = self._archive.scan_table(table, days.first, days.last).filter(days.rows())
        rows = rows.join(self._corrected(table), on=KEY, how="anti", maintain_order="left")
        if by_position:
            known = stored.filter(pl.col("source") == source_of(facts.fingerprint)).select("source_offset")
            on = ["source_offset"]
        else:
            known, on = stored.select(KEY), list(KEY)
        with self._archive.reading():
            return rows.join(known.collect(), on=on, how="anti", maintain_order="left")

    def _corrected(self, table: DeltaTable) -> pl.DataFrame:
        """The keys that corrections in force concern."""
        return self._images.in_force(self._archive, table).select(KEY).unique().sort(KEY)

    def _replace(self, rows: pl.DataFrame, facts: Profile, days: Scope, summary: BackfillSummary) -> None:
        """Every row of the file is there by now: give them the file's values and take out all others.

        What stands under a correction stays as it was corrected, whoever wrote it.
        """
        wanted = rows.select("source_offset", *FIELDS)
        mine = pl.col("source") == source_of(facts.fingerprint)

        def change(held: pl.DataFrame) -> pl.DataFrame:
            # Newer than `held`, perhaps: a correction made since then makes the commit fail, and this is called again.
            corrected = self._corrected(self._archive.table())
            kept = held.join(corrected, on=KEY, how="semi")
            new = (
                held.filter(mine)
                .join(corrected, on=KEY, how="anti")
                .drop(FIELDS)
                .join(wanted, on="source_offset", how="inner")
                .with_columns(
                    # Of conflicting lines the later one wins, whenever each of them was written.
                    pl.col("ingested_at").max().over(KEY)
                )
            )
            return pl.concat([kept, new.select(ROW_SCHEMA.names())])

        done = replace_rows(self._archive, days, change, reason="replaced")
        if done is not None:
            summary.removed += done.removed.height
            summary.changed += done.changed.height
        crash.point("backfill.before_hot")
        summary.rows_hot += self._follow(days)

    def _follow(self, days: Scope) -> int:
        """Make the hot store agree with the archive; how many readings were written to it.

        Again where a correction was made meanwhile: what was read before it must not be the last that is written.
        """
        start_ns, end_ns = _bounds(days)
        while True:
            corrected = self._corrected(self._archive.table())
            with self._archive.reading():
                now = self._archive.scan(start_ns, end_ns).select(READING_SCHEMA.names()).collect()
            self._hot.delete_readings(start_ns, end_ns)
            written = self._hot.write_readings(now).written
            if corrected.equals(self._corrected(self._archive.table())):
                return written


_FILE_SCHEMA: Final = pl.Schema({name: kind for name, kind in ROW_SCHEMA.items() if name != "ingested_at"})


def _check(timeline: Timeline, first: dt.date, last: dt.date) -> None:
    if last >= timeline.anchor:
        raise LiveDayError(
            f"{max(first, timeline.anchor)} belongs to the stream, which writes every day from {timeline.anchor} on; "
            f"history can be filled up to {timeline.anchor - dt.timedelta(days=1)}"
        )
    history = timeline.history_days
    if not history or first < history[0] or last > history[-1]:
        span = f"reaches from {history[0]} to {history[-1]}" if history else "has no day"
        raise OutsideHistoryError(f"history {span}: {first} to {last} cannot be filled from the file")


def _pieces(facts: Profile, first: dt.date, last: dt.date) -> Iterator[Scope]:
    """The days in pieces that fit into memory, by the file's average."""
    width = dt.timedelta(days=max(1, _ROWS_AT_ONCE * facts.days // max(facts.readings, 1)) - 1)
    while first <= last:
        yield Scope(min(last, first + width), first)
        first += width + dt.timedelta(days=1)


def _bounds(days: Scope) -> tuple[int, int]:
    first = days.first or days.last
    return (first - _EPOCH).days * DAY_NS, ((days.last - _EPOCH).days + 1) * DAY_NS


def _by_day(rows: pl.DataFrame) -> dict[dt.date, int]:
    day = pl.from_epoch(pl.col("timestamp").floordiv(DAY_NS), time_unit="d").alias("day")
    return dict(rows.group_by(day).len().sort("day").iter_rows())
