"""Days of the archive moved between the live and the cold table: no row lost or read twice, whenever it is interrupted.

Belongs here: the two ways of a day. Not here: which days and when (defs.archive), how the tables hold together (cold).
"""

import datetime as dt
from typing import Final, NamedTuple

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from sieis_platform import crash
from sieis_platform.stores.archive import Archive, rows_by_day
from sieis_platform.stores.archive_layout import last_wins
from sieis_platform.stores.files import TableFiles
from sieis_platform.stores.rewrite import (
    POSITION,
    ROW_SCHEMA,
    Scope,
    accounts,
    counted,
    day_scopes,
    delete,
    overwrite,
)
from sieis_platform.stores.upkeep import SUPERSEDED

#: Metadata of a commit that only moves rows: nothing that is derived of them changes (touched.py).
TIER_KEY: Final = "sieis.tier"


class Moved(NamedTuple):
    """What one call moved; `superseded` rows of repeated keys were removed on the way, accounted for."""

    days: int = 0
    rows: int = 0
    superseded: int = 0


def movable_days(archive: Archive, last: dt.date) -> list[dt.date]:
    """The days up to `last` that the live table has rows of, ascending.

    Raises: ArchiveUnavailableError, ArchiveError.
    """
    return [day for day in rows_by_day(archive.files()) if day <= last]


def move_day(archive: Archive, day: dt.date) -> Moved:
    """Move what the live table has of a day into the cold one, and close it there: one row a key, one file a folder.

    1. The cold table gets the day as both hold it together. Nobody reads that yet.
    2. ONE commit to the live table lets go of exactly those rows and names the cold table's new version.
    Whatever else commits to the day in between (late rows, a correction, a load) makes the second one fail; then both
    are done again. Rows that come later lie in the live table and move with the next call. Twice is like once.
    Raises: ColdTierError, ArchiveUnavailableError (no row moved, or not all), ArchiveError.
    """
    for table in archive.attempts():
        try:
            archive.cold.begin(table, day)
        except CommitFailedError:
            continue
        break
    else:
        raise archive.refused()
    done = [_move(archive, scope) for scope in day_scopes(archive, day)]
    rows = sum(one.rows for one in done)
    return Moved(int(rows > 0), rows, sum(one.superseded for one in done))


def bring_back(archive: Archive, last: dt.date | None = None) -> Moved:
    """Move every day (up to `last`) of the cold table back into the live one; twice is like once.

    Raises: as `move_day`.
    """
    cold = archive.cold_files(archive.files())
    days = [day for day in (rows_by_day(cold) if cold is not None else {}) if last is None or day <= last]
    rows = sum(_return(archive, scope) for day in days for scope in day_scopes(archive, day))
    return Moved(len(days), rows)


def _move(archive: Archive, scope: Scope) -> Moved:
    for table in archive.attempts():
        try:
            cold = archive.cold.settled(table)
            with archive.reading():
                live = archive.scan_live(TableFiles.of(table), scope.first, scope.last).filter(scope.rows())
                rows = int(live.select(pl.len()).collect().item())
            if not rows:
                return Moved()
            held = _rows(archive, table, scope)
            kept = last_wins(held.lazy()).collect()
            superseded = held.join(kept.select(POSITION), on=POSITION, how="anti", nulls_equal=True)
            crash.point("cold.before_cold")
            moved = archive.cold.put(cold, kept, scope.predicate())
            removed = counted(superseded.lazy(), SUPERSEDED)
            delete(archive, table, scope.predicate(), accounts(removed, {TIER_KEY: "cold"}, moved))
        except CommitFailedError:
            continue
        crash.point("cold.after_live")
        return Moved(1, rows, superseded.height)
    raise archive.refused()


def _return(archive: Archive, scope: Scope) -> int:
    for table in archive.attempts():
        try:
            held = _rows(archive, table, scope)
            moved = archive.cold.without(table, scope.first, scope.predicate())
            if not moved:
                return 0
            overwrite(archive, table, held, scope.predicate(), accounts([], {TIER_KEY: "live"}, moved))
        except CommitFailedError:
            continue
        crash.point("cold.after_live")
        return held.height
    raise archive.refused()


def _rows(archive: Archive, table: DeltaTable, scope: Scope) -> pl.DataFrame:
    """The rows of the scope (ROW_SCHEMA), wherever they lie."""
    with archive.reading():
        rows = archive.scan_table(table, scope.first, scope.last).filter(scope.rows())
        return rows.select(ROW_SCHEMA.names()).cast(ROW_SCHEMA).collect()  # pyright: ignore[reportArgumentType]
