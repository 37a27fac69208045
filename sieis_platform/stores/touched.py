"""Which days of the archive changed since a moment, from its log alone: late rows, backfills, deletes, rewrites.

Belongs here: that question. Not here: what is done about those days (defs/rollups/late.py).
"""

import datetime as dt
import re
from typing import Final, NamedTuple

import msgspec

from sieis_platform.reading import ARCHIVE_PARTITIONS
from sieis_platform.stores.archive import Archive, ArchiveError
from sieis_platform.stores.ledger import of_commits
from sieis_platform.stores.log import File, LoggedCommit
from sieis_platform.stores.tiers import TIER_KEY
from sieis_platform.stores.upkeep import EXPIRED

_FOLDERS: Final = re.compile("/".join(rf"{name}=(\d+)" for name in ARCHIVE_PARTITIONS))

#: Commits read in one call, one request each: 500 take about 5 s on an S3 server that answers in 10 ms.
_COMMITS: Final = 500


class Mark(NamedTuple):
    """A moment in the life of one table: an archive made anew under the same address has another id."""

    table: str
    version: int


class Touched(NamedTuple):
    """`mark` is how far was looked; `days` holds each touched day and the newest version that touched it.

    `gap` is the newest version that the log no longer tells of, else None: any day may have been touched up to it.
    """

    mark: Mark
    days: dict[dt.date, int]
    gap: int | None = None


def touched_days(archive: Archive, since: Mark | None) -> Touched:
    """The days whose rows changed after `since` (None, or a mark of another table: from the beginning).

    Commits that only move rows to other files (compaction) or to the cold table and back touch nothing, nor do those
    that only let go what is older than the retention: what was derived of it stays. Commits made while this runs come
    next time, and so do all beyond the first 500: then `mark` is not the newest version.

    Raises: ArchiveUnavailableError, LogUnavailableError, LogError, ArchiveError (also where a file has no date).
    """
    newest = archive.files()
    mark = Mark(newest.table_id, newest.version)
    known = since is not None and since.table == mark.table and since.version <= mark.version
    first = since.version + 1 if since is not None and known else 0
    if first > mark.version:
        return Touched(mark, {})
    log = archive.log()
    days: dict[dt.date, int] = {}
    held = [version for version in log.versions(first) if version <= mark.version]
    # Entries have no gap: what lies below the oldest was cleaned up.
    oldest = held[0] if held else mark.version + 1
    gap = oldest - 1 if oldest > first else None
    if len(held) > _COMMITS:
        held = held[:_COMMITS]
        mark = Mark(mark.table, held[-1])
    for version in held:
        commit = log.commit(version)
        if commit is None:
            gap = version
        elif TIER_KEY not in commit.told and not _expired(version, commit):
            days |= {_day(file): version for file in commit.files if file.data_change}
    return Touched(mark, days, gap)


def _expired(version: int, commit: LoggedCommit) -> bool:
    """Whether all that the commit took out was older than the retention (`upkeep.expire`)."""
    try:
        removed = of_commits([{**commit.told, "version": version}]).removed
    except msgspec.MsgspecError as error:
        raise ArchiveError(
            f"version {version} of the archive does not say what it took out ({error}); what else writes to it?"
        ) from error
    return bool(removed) and all(entry.reason == EXPIRED for entry in removed)


def _day(file: File) -> dt.date:
    values = file.partition_values or {}
    parts = [values.get(name) for name in ARCHIVE_PARTITIONS]
    if not all(parts):  # a `remove` need not carry them; the library's paths do
        found = _FOLDERS.search(file.path)
        parts = list(found.groups()) if found else []
    try:
        return dt.date(*(int(part or "") for part in parts))
    except (TypeError, ValueError) as error:
        raise ArchiveError(
            f"the archive's log names a file without a date ({file.path[:200]}); was it written by something else?"
        ) from error
