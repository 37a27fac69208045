"""Rows of the archive taken out or changed, in commits that say which: the one way in which it ever loses a row.

Belongs here: the accounting of such commits and their rivalry with appends. Not here: which rows, and why (retention,
closing of days, corrections decide).
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from sieis_platform.reading import LINEAGE_SCHEMA, READING_SCHEMA
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.archive_errors import ArchiveError
from sieis_platform.stores.archive_layout import ARCHIVE_SCHEMA, WRITER, in_layout
from sieis_platform.stores.delta import KEEP_LOG
from sieis_platform.stores.ledger import REMOVED_KEY, RemovedEntry
from sieis_platform.timeline import DAY_NS

#: Which row it is, whatever its values: no two rows of the table share it (`sieis verify` looks).
POSITION: Final = ("source", "source_partition", "source_offset")
ROW_SCHEMA: Final = pl.Schema({**READING_SCHEMA, **LINEAGE_SCHEMA})
#: Rows of a day held at once: 60 bytes each, several copies while they are sorted.
ROWS_AT_ONCE: Final = 2_000_000


@dataclass(frozen=True)
class Scope:
    """The part of the table that one rewrite reads and replaces: whole days, or some motes of them.

    `first` to `last` are both inclusive; `first` None reaches back to the beginning. `motes` None is every mote,
    `without_motes` are left alone.
    """

    last: dt.date
    first: dt.date | None = None
    motes: Sequence[int] | None = None
    without_motes: Sequence[int] = ()

    @classmethod
    def day(cls, day: dt.date, motes: Sequence[int] | None = None) -> "Scope":
        """One day."""
        return cls(day, day, motes)

    def rows(self) -> pl.Expr:
        """Which rows of a scan of the whole table lie in it; pushed down to folders."""
        date = pl.concat_str("year", "month", "day")
        chosen = date <= pl.lit(f"{self.last:%Y%m%d}")
        if self.first is not None:
            chosen &= date >= pl.lit(f"{self.first:%Y%m%d}")
        if self.motes is not None:
            chosen &= pl.col("mote_id").is_in(list(self.motes))
        if self.without_motes:
            chosen &= ~pl.col("mote_id").is_in(list(self.without_motes))
        return chosen

    def predicate(self) -> str:
        """The same as SQL for the Delta library. Only digits of dates and integers get into it."""
        parts = [_on_or_before(self.last)]
        if self.first == self.last:
            parts = [f"year = '{self.last:%Y}'", f"month = '{self.last:%m}'", f"day = '{self.last:%d}'"]
        elif self.first is not None:
            parts.append(f"NOT {_on_or_before(self.first - dt.timedelta(days=1))}")
        if self.motes is not None:
            parts.append(f"mote_id IN ({_integers(self.motes)})")
        if self.without_motes:
            parts.append(f"mote_id NOT IN ({_integers(self.without_motes)})")
        return " AND ".join(parts)


@dataclass(frozen=True)
class Rewrite:
    """What one commit took out or changed, as it was before (ROW_SCHEMA)."""

    version: int
    removed: pl.DataFrame = field(repr=False)
    changed: pl.DataFrame = field(repr=False)


def replace_rows(
    archive: Archive,
    scope: Scope,
    change: Callable[[pl.DataFrame], pl.DataFrame],
    *,
    reason: str,
    metadata: Mapping[str, str] | None = None,
    transactions: Mapping[str, int] | None = None,
) -> Rewrite | None:
    """Put `change(rows)` in place of the rows of `scope`, in ONE commit that accounts for what is gone.

    `change` gets and returns ROW_SCHEMA: it may leave rows out and alter their values, but neither add positions nor
    move a row to another day or mote. It is called again with newer rows where another commit was faster, so it must
    depend on its argument alone. `metadata` and `transactions` (app → version) go into the same commit. Without a
    difference nothing is committed and None is returned, so a second call changes nothing. The rows of the scope are
    held in memory.

    Appends go on meanwhile: those to other folders are not disturbed, and of those to the same folders no row is lost.
    Raises: ArchiveError (`change` broke the rule), ArchiveUnavailableError (nothing was written).
    """
    for table in archive.attempts():
        with archive.reading():
            # Without mote folders the library would have to cut files apart: the whole days are replaced instead.
            whole = scope if "mote_id" in archive.partition_columns else Scope(scope.last, scope.first)
            held = (
                archive.scan_table(table, whole.first, whole.last)
                .filter(whole.rows())
                .select(ROW_SCHEMA.names())
                .cast(ROW_SCHEMA)
                .collect()
            )
        if whole is scope:
            before, untouched = held, held.clear()
        else:
            chosen = _of_motes(scope)
            before, untouched = held.filter(chosen), held.filter(~chosen)
        after = change(before).select(ROW_SCHEMA.names()).cast(ROW_SCHEMA)  # pyright: ignore[reportArgumentType]
        removed, changed = _difference(before, after)
        if removed.is_empty() and changed.is_empty():
            return None
        try:
            # What lay in the cold table of this scope is among the rows: it comes back with them.
            moved = archive.cold.without(table, whole.first, whole.predicate())
            done = accounts(counted(removed.lazy(), reason), metadata, {**(transactions or {}), **moved})
            version = overwrite(archive, table, pl.concat([untouched, after]), whole.predicate(), done)
        except CommitFailedError:
            continue
        return Rewrite(version, removed, changed)
    raise archive.refused()


def remove(
    archive: Archive,
    scope: Scope,
    *,
    reason: str,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Take every row of `scope` out, in ONE commit that accounts for them; how many there were.

    Only the source columns are read. Nothing is committed where the scope is empty: twice is like once.
    Raises: ArchiveUnavailableError (nothing was written), ArchiveError.
    """
    for table in archive.attempts():
        with archive.reading():
            entries = counted(archive.scan_table(table, scope.first, scope.last).filter(scope.rows()), reason)
        if not entries:
            return 0
        try:
            moved = archive.cold.without(table, scope.first, scope.predicate())
            delete(archive, table, scope.predicate(), accounts(entries, metadata, moved))
        except CommitFailedError:
            continue
        return sum(entry.rows for entry in entries)
    raise archive.refused()


def overwrite(
    archive: Archive, table: DeltaTable, rows: pl.DataFrame, predicate: str, properties: CommitProperties
) -> int:
    """One commit to the live table: `rows` (ROW_SCHEMA) in place of what it holds of `predicate`; its version.

    Raises: CommitFailedError (another commit was faster), ArchiveUnavailableError, ArchiveError.
    """
    if rows.is_empty():
        return delete(archive, table, predicate, properties)
    with archive.reading():
        write_deltalake(
            table,
            in_layout(rows),
            mode="overwrite",
            predicate=predicate,
            writer_properties=WRITER,
            commit_properties=properties,
            post_commithook_properties=KEEP_LOG,
        )
    return table.version()


def delete(archive: Archive, table: DeltaTable, predicate: str, properties: CommitProperties) -> int:
    """One commit to the live table without what it holds of `predicate`, also where that is nothing; its version.

    Raises: as `overwrite`.
    """
    before = table.version()
    with archive.reading():
        table.delete(
            predicate, writer_properties=WRITER, commit_properties=properties, post_commithook_properties=KEEP_LOG
        )
        if table.version() == before:  # the library commits nothing where there is no row, but the accounts must stand
            write_deltalake(
                table,
                pl.DataFrame(schema=ARCHIVE_SCHEMA),
                mode="append",
                commit_properties=properties,
                post_commithook_properties=KEEP_LOG,
            )
    return table.version()


def day_scopes(archive: Archive, day: dt.date) -> list[Scope]:
    """A day in scopes of few enough rows to be held at once; whole where there are no folders of motes to part it by.

    Raises: ArchiveUnavailableError, ArchiveError.
    """
    files = archive.files()
    with archive.reading():
        counts = archive.scan_files(files, day, day).group_by("mote_id").agg(pl.len().alias("rows")).collect()
    if "mote_id" not in files.folders or counts["rows"].sum() <= ROWS_AT_ONCE:
        return [Scope.day(day)]
    return [Scope.day(day, motes) for motes in batches(counts.sort("mote_id"))]


def batches(counts: pl.DataFrame) -> Iterator[list[int]]:
    """Motes in groups of at most ROWS_AT_ONCE `rows` together (one alone may have more)."""
    motes: list[int] = []
    rows = 0
    for mote, count in counts.select("mote_id", "rows").iter_rows():
        if motes and rows + count > ROWS_AT_ONCE:
            yield motes
            motes, rows = [], 0
        motes.append(mote)
        rows += count
    if motes:
        yield motes


def _difference(before: pl.DataFrame, after: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of `before` that `after` lacks, and those that it holds with other values."""
    place = [*POSITION, "mote_id", pl.col("timestamp").floordiv(DAY_NS).alias("_day")]
    known = before.select(place).unique()
    strange = after.select(place).join(known, on=[*POSITION, "mote_id", "_day"], how="anti", nulls_equal=True)
    if strange.height or after.select(POSITION).is_duplicated().any():
        raise ArchiveError(
            f"a rewrite of the archive may leave rows out and change values, but {strange.height} of its rows have no "
            "position in what it was given (or one position came twice); nothing was written"
        )
    removed = before.join(after.select(POSITION), on=POSITION, how="anti", nulls_equal=True)
    same = before.join(after, on=before.columns, how="semi", nulls_equal=True)
    changed = before.join(pl.concat([removed, same]).select(POSITION), on=POSITION, how="anti", nulls_equal=True)
    return removed, changed


def counted(rows: pl.LazyFrame, reason: str) -> list[RemovedEntry]:
    """The ledger's entries for the removal of `rows`."""
    counts = rows.group_by("source", "source_partition").len().collect(engine="streaming")
    return [
        RemovedEntry(source=source, source_partition=partition or 0, rows=count, reason=reason)
        for source, partition, count in counts.sort("source", "source_partition").iter_rows()
    ]


def accounts(
    entries: Sequence[RemovedEntry], metadata: Mapping[str, str] | None, transactions: Mapping[str, int]
) -> CommitProperties:
    """What a commit that takes rows out must carry: its entries of the ledger, and app transactions."""
    return CommitProperties(
        custom_metadata={**(metadata or {}), REMOVED_KEY: msgspec.json.encode(list(entries)).decode()},
        app_transactions=[Transaction(app, version) for app, version in transactions.items()],
        max_commit_retries=100,
    )


def _of_motes(scope: Scope) -> pl.Expr:
    chosen = pl.lit(value=True) if scope.motes is None else pl.col("mote_id").is_in(list(scope.motes))
    return chosen & ~pl.col("mote_id").is_in(list(scope.without_motes))


def _integers(motes: Sequence[int]) -> str:
    return ", ".join(str(int(mote)) for mote in motes)


def _on_or_before(day: dt.date) -> str:
    """SQL for the folders `year`, `month`, `day` (text, zero-padded) up to a day, in parentheses."""
    year, month, number = f"{day:%Y}", f"{day:%m}", f"{day:%d}"
    return (
        f"(year < '{year}' OR (year = '{year}' AND (month < '{month}' OR (month = '{month}' AND day <= '{number}'))))"
    )
