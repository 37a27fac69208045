"""The archive: every reading for ever, one Delta table, with the positions and the ledger in the same commits.

Belongs here: appends under the fence, reads of live and cold days as one, in which the last reading of a key wins, the
ledger. Not here: who consumes what (sieis_streaming.sinks.archive), how days get cold (tiers), what is derived (marts).
"""

import datetime as dt
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from sieis_platform.reading import ARCHIVE_PARTITIONS
from sieis_platform.stores.archive_errors import (
    ArchiveError,
    ArchiveUnavailableError,
    FenceError,
    LedgerGapError,
    VersionGoneError,
    archive_translated,
)
from sieis_platform.stores.archive_layout import ARCHIVE_SCHEMA, PROPERTIES, WRITER, last_wins, layout
from sieis_platform.stores.cold import Cold, moved_until
from sieis_platform.stores.delta import KEEP_LOG, create_empty, scan, scan_days
from sieis_platform.stores.files import TableFiles, newest_files
from sieis_platform.stores.ledger import (
    LEDGER_KEY,
    LEDGER_MART,
    Ledger,
    LedgerCopy,
    LedgerEntry,
    counts_positions,
    of_commits,
)
from sieis_platform.stores.log import CommitLog
from sieis_platform.stores.objects import put

# Conflicts pass within one or two; a commit that is refused so often (over about 5 s) is tried again by the caller.
_ATTEMPTS: Final = 20
_HISTORY_ROUNDS: Final = 20


@dataclass(frozen=True)
class Commit:
    """What one append must do at once: rows, the new positions, and what became of every position between.

    `marks` are app transactions that are no positions of a ledger.
    """

    rows: pl.DataFrame
    entries: Sequence[LedgerEntry]
    expected: Mapping[str, int | None]
    marks: Mapping[str, int] = field(default_factory=dict)


class Archive:
    """The Delta table of readings at `uri` (a folder or s3://).

    Reads never list folders; every read goes through the Delta log. One instance may be used by one thread at a time.
    """

    def __init__(
        self,
        uri: str,
        storage_options: Mapping[str, str] | None = None,
        *,
        mote_folders: bool = True,
        ledger_copy: LedgerCopy | None = None,
        cold: Cold | None = None,
    ) -> None:
        self.uri = uri
        self.cold = cold or Cold()
        self.ledger_copy = ledger_copy
        self._storage_options = dict(storage_options or {})
        self.partition_columns = [*ARCHIVE_PARTITIONS, *(["mote_id"] if mote_folders else [])]

    def __repr__(self) -> str:
        return f"Archive({self.uri!r})"

    # -- the table -----------------------------------------------------------------------------------------------
    def exists(self) -> bool:
        """Whether the table has been created."""
        with archive_translated(self.uri):
            return DeltaTable.is_deltatable(self.uri, storage_options=self._storage_options)

    def create(self) -> None:
        """Create the empty table; nothing happens where it exists or another process creates it at this moment."""
        with archive_translated(self.uri):
            create_empty(
                self.uri,
                ARCHIVE_SCHEMA,
                partition_by=self.partition_columns,
                name="sensor_readings",
                description="Every reading, with the stream position or file offset it came from",
                storage_options=self._storage_options,
                configuration=PROPERTIES,
            )

    def table(self, version: int | None = None) -> DeltaTable:
        """The table at its newest version, or at an older one.

        Raises: ArchiveUnavailableError, ArchiveError (where it does not exist: load, or consume first),
        VersionGoneError.
        """
        with archive_translated(self.uri):
            table = DeltaTable(self.uri, storage_options=self._storage_options)
            if version is None or version == table.version():
                return table
            try:
                table.load_as_version(version)
            except TableNotFoundError as error:
                raise VersionGoneError(
                    f"version {version} of the archive at {self.uri} is gone: its log was cleaned up; read the newest"
                ) from error
            return table

    def files(self, version: int | None = None) -> TableFiles:
        """What a read needs of the table at its newest version, or at an older one; it never changes.

        Where this process has read the newest version before, only commits made since are read from the log.
        Raises: as `table`.
        """
        with archive_translated(self.uri):
            newest = newest_files(self.uri, self._storage_options)
        return newest if version is None or version == newest.version else TableFiles.of(self.table(version))

    def version(self) -> int:
        """Newest version of the table."""
        return self.files().version

    def log(self) -> CommitLog:
        """The table's commits, one by one."""
        return CommitLog(self.uri, self._storage_options)

    # -- appends -------------------------------------------------------------------------------------------------
    def position(self, app: str, table: DeltaTable | None = None) -> int | None:
        """The next position of one app transaction (`{topic}/{incarnation}/{partition}`, `history/{fingerprint}`)."""
        table = table or self.table()
        with archive_translated(self.uri):  # it may read the log
            return table.transaction_version(app)

    def positions(self) -> dict[str, int]:
        """The next position of every app transaction that any ledger entry names.

        Raises: LogUnavailableError, LogError.
        """
        return {app: position for app, position in self.log().positions().items() if counts_positions(app)}

    def append(self, commit: Commit) -> int:
        """ONE Delta commit of rows, positions and ledger; the version it made.

        The caller must have read the positions in `expected` and built `rows` for exactly them: they are compared with
        a freshly loaded table here, and the library's own fence covers what comes between this load and the commit.

        Raises: FenceError (a position moved: another writer was here), ArchiveUnavailableError (nothing was written:
        the same call may succeed), ArchiveError.
        """
        for table in self.attempts():
            for app, expected in commit.expected.items():
                found = self.position(app, table)
                if found != expected:
                    raise FenceError(app, expected, found)
            try:
                return self._write(table, commit)
            except CommitFailedError:
                # Either someone else's commit conflicts (a delete, an overwrite) or a zombie moved a position: the loop
                # reloads, and the comparison above tells which.
                continue
        raise self.refused()

    def attempts(self) -> Iterator[DeltaTable]:
        """The table, loaded anew for each attempt to commit to it, with growing pauses; ends when enough were tried.

        Raises: as `table`.
        """
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0.01, 0.05) * attempt)  # noqa: S311 - spreads writers, guards nothing
            yield self.table()

    def refused(self) -> ArchiveUnavailableError:
        """The error of a commit for which all `attempts` met a conflict."""
        return ArchiveUnavailableError(
            f"the archive at {self.uri} refused {_ATTEMPTS} commits in a row: others are writing all the time"
        )

    def _write(self, table: DeltaTable, commit: Commit) -> int:
        properties = CommitProperties(
            custom_metadata={LEDGER_KEY: msgspec.json.encode(list(commit.entries)).decode()},
            app_transactions=[
                *(Transaction(entry.app, entry.end) for entry in commit.entries),
                *(Transaction(app, version) for app, version in commit.marks.items()),
            ],
            max_commit_retries=100,
        )
        with archive_translated(self.uri):
            write_deltalake(
                table,
                layout(commit.rows),
                mode="append",
                writer_properties=WRITER,
                commit_properties=properties,
                post_commithook_properties=KEEP_LOG,
            )
        return table.version()

    # -- reads ---------------------------------------------------------------------------------------------------
    def scan_all(self, version: int | None = None) -> pl.LazyFrame:
        """Every archived row (ARCHIVE_SCHEMA), conflicting readings of one key included."""
        # Opened here: given an address, Polars would open it at `collect`, where the library's errors have no names.
        return self.scan_table(self.table(version))

    def scan_table(self, table: DeltaTable, first: dt.date | None = None, last: dt.date | None = None) -> pl.LazyFrame:
        """Every archived row of a table opened before, at its version; of the days `first` to `last`, inclusive.

        Raises: as `scan_files`.
        """
        everything = first is None and last is None
        live = scan(table, self._storage_options) if everything else self.scan_live(TableFiles.of(table), first, last)
        return self._with_cold(live, self.cold.at(table, first), first, last)

    def scan_files(self, files: TableFiles, first: dt.date | None, last: dt.date | None) -> pl.LazyFrame:
        """Every archived row of the days `first` to `last` (inclusive; None: without bound) at that version.

        Days that were moved are read from the cold table, which is opened only where some of `first` to `last` may lie
        there. Raises: ArchiveUnavailableError, ArchiveError.
        """
        return self._with_cold(self.scan_live(files, first, last), self.cold_files(files, first), first, last)

    def scan_live(self, files: TableFiles, first: dt.date | None, last: dt.date | None) -> pl.LazyFrame:
        """The same without what lies in the cold table."""
        return scan_days(files, self._storage_options, first, last)

    def _with_cold(
        self, live: pl.LazyFrame, cold: TableFiles | None, first: dt.date | None, last: dt.date | None
    ) -> pl.LazyFrame:
        if cold is None:
            return live
        moved = scan_days(cold, self.cold.storage_options, first, last)
        return pl.concat([live, moved.select(live.collect_schema().names())])

    def cold_files(self, files: TableFiles, first: dt.date | None = None) -> TableFiles | None:
        """What the cold table holds beside the live one at that version; None where no row of `first` or later is cold.

        Raises: ColdTierError, ArchiveUnavailableError, ArchiveError.
        """
        return self.cold.files(files, lambda: self.table(files.version), first)

    def require_cold(self, files: TableFiles) -> None:
        """Raises: ColdTierError where days were moved and the settings name no cold table; as `scan_files`."""
        if not self.cold.uri:
            self.cold_files(files)

    def scan(
        self, start_ns: int | None = None, end_ns: int | None = None, mote_ids: Sequence[int] | None = None
    ) -> pl.LazyFrame:
        """Readings with start_ns <= timestamp < end_ns, one row a key: of conflicting readings the last one wins.

        Columns: READING_SCHEMA and LINEAGE_SCHEMA. Only the partitions of the days asked for are read.
        """
        first = None if start_ns is None else _date(start_ns)
        last = None if end_ns is None else _date(end_ns - 1)
        frame = self.scan_files(self.files(), first, last)
        if start_ns is not None:
            frame = frame.filter(pl.col("timestamp") >= start_ns)
        if end_ns is not None:
            frame = frame.filter(pl.col("timestamp") < end_ns)
        if mote_ids is not None:
            frame = frame.filter(pl.col("mote_id").is_in(list(mote_ids)))
        return last_wins(frame.drop(ARCHIVE_PARTITIONS))

    def weight_by_day(self, files: TableFiles, first: dt.date | None = None) -> pl.DataFrame:
        """Rows (repeated keys count), files and bytes of each day (from `first` on) that has any, live or cold.

        DAY_WEIGHT_SCHEMA, ascending, from the logs alone. Raises: as `scan_files`.
        """
        weights = [weight_by_day(one) for one in (files, self.cold_files(files, first)) if one is not None]
        found = pl.concat(weights).group_by("date").agg(pl.col("rows", "files", "bytes").sum()).sort("date")
        return found if first is None else found.filter(pl.col("date") >= first)

    def rows_by_day(self, files: TableFiles) -> dict[dt.date, int]:
        """Archived rows of each day that has any, ascending, live or cold, from the logs alone (repeated keys count).

        Raises: as `scan_files`.
        """
        return dict(self.weight_by_day(files).select("date", "rows").iter_rows())

    def motes(self, files: TableFiles, first: dt.date, last: dt.date) -> list[int]:
        """The motes that have rows on the days `first` to `last`, live or cold, ascending.

        From the logs alone where the folders are those of motes, else the one column is read. Raises: as `scan_files`.
        """
        if "mote_id" not in files.folders:
            with self.reading():
                found = self.scan_files(files, first, last).select(pl.col("mote_id").unique()).collect()
            return sorted(found["mote_id"].drop_nulls())
        tables = [one for one in (files, self.cold_files(files, first)) if one is not None]
        listed = [one.listed_of_days(first, last) for one in tables]
        return sorted({mote for one in listed if not one.is_empty() for mote in one["partition.mote_id"]})

    def newest_days(self, files: TableFiles, count: int) -> list[dt.date]:
        """The newest `count` days that have rows, ascending; the cold table is asked only where the live has too few.

        Raises: as `scan_files`.
        """
        moved = moved_until(files.properties)
        live = [day for day in rows_by_day(files) if moved is None or day > moved][-count:]
        return live if len(live) == count else list(self.rows_by_day(files))[-count:]

    def put(self, path: str, content: bytes) -> None:
        """Write an object beside the table's folders; its path begins with `_`, which a vacuum passes over.

        Raises: ObjectUnavailableError.
        """
        put(self.uri, self._storage_options, path, content)

    def reading(self) -> AbstractContextManager[None]:
        """Context in which frames of this archive are collected: only then are the files read.

        Raises inside: ArchiveUnavailableError, ArchiveError.
        """
        return archive_translated(self.uri)

    def ledger(self, table: DeltaTable | None = None) -> list[LedgerEntry]:
        """Every ledger entry up to the version of `table` (None: the newest), each with the version that holds it.

        It costs as much as there is history (10 s for 300,000 entries): for `sieis verify`. What runs by the clock asks
        `positions`, fates.py or since.py. Raises: as `books`.
        """
        return self.books(table).entries

    def books(self, table: DeltaTable | None = None) -> Ledger:
        """Both sides of the ledger up to the version of `table` (None: the newest): from the log, and for what the log
        no longer holds from its copy.

        Raises: LedgerGapError, ArchiveUnavailableError (also where the log grows faster than it can be read),
        ArchiveError, MartUnavailableError, MartError.
        """
        table = table or self.table()
        upto = table.version()
        commits = self.commits()
        begins = commits[-1]["version"]
        older = self._copied(str(table.metadata().id), begins) if begins > 0 else Ledger([], [])
        newer = of_commits(commit for commit in commits if commit["version"] <= upto)
        return Ledger(older.entries + newer.entries, older.removed + newer.removed)

    def copy_ledger(self) -> int:
        """Copy what the log holds and the copy does not; how many commits. Raises: as `books`."""
        if self.ledger_copy is None:
            raise ArchiveError(f"the archive at {self.uri} was opened without a place for the copy of its ledger")
        return self.ledger_copy.add(str(self.table().metadata().id), self.commits())

    def ledger_covered(self) -> int:
        """Newest version up to which the ledger has been copied; -1 where nothing was.

        Raises: MartUnavailableError, MartError, ArchiveUnavailableError, ArchiveError.
        """
        return -1 if self.ledger_copy is None else self.ledger_copy.covered(str(self.table().metadata().id))

    def _copied(self, table_id: str, begins: int) -> Ledger:
        covered = -1 if self.ledger_copy is None else self.ledger_copy.covered(table_id)
        if self.ledger_copy is None or covered < begins - 1:
            raise LedgerGapError(
                f"the log of the archive at {self.uri} begins at version {begins}, but its ledger was copied up to "
                f"version {covered} only: restore the mart `{LEDGER_MART}` from a backup"
            )
        return self.ledger_copy.read(table_id, begins)

    def commits(self) -> list[dict[str, Any]]:
        """The commits that the log still holds, newest first, with their versions and metadata.

        The library lists the log as it is at the call, but numbers it from the version the table was loaded at: the
        numbers are right only if nothing was committed in between. 600 commits are read in 40 ms: a few rounds suffice.
        """
        for _ in range(_HISTORY_ROUNDS):
            table = self.table()
            with archive_translated(self.uri):
                commits = table.history()
            if self.version() == table.version():
                return commits
        raise ArchiveUnavailableError(
            f"the archive at {self.uri} is written faster than its log can be read; try again"
        )


def rows_by_day(files: TableFiles) -> dict[dt.date, int]:
    """Rows of each day that one table has any of, ascending, from its log alone (repeated keys count)."""
    return dict(weight_by_day(files).select("date", "rows").iter_rows())


DAY_WEIGHT_SCHEMA: Final = pl.Schema({"date": pl.Date(), "rows": pl.Int64(), "files": pl.Int64(), "bytes": pl.Int64()})


def weight_by_day(files: TableFiles) -> pl.DataFrame:
    """Rows (repeated keys count), files and bytes of each day that one table has any of, ascending, from its log."""
    if files.listed.is_empty():
        return DAY_WEIGHT_SCHEMA.to_frame()
    day = [f"partition.{name}" for name in ARCHIVE_PARTITIONS]
    return (
        files.listed.group_by(day)
        .agg(
            pl.col("num_records").sum().alias("rows"),
            pl.len().alias("files"),
            pl.col("size_bytes").sum().alias("bytes"),
        )
        .select(pl.concat_str(day).str.to_date("%Y%m%d").alias("date"), "rows", "files", "bytes")
        .cast(DAY_WEIGHT_SCHEMA)
        .sort("date")
    )


def _date(ns: int) -> dt.date:
    return dt.datetime.fromtimestamp(ns // 1_000_000_000, tz=dt.UTC).date()
