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
from sieis_platform.stores.since import Mark, commits_since
from sieis_platform.stores.tiers import TIER_KEY
from sieis_platform.stores.upkeep import EXPIRED

_FOLDERS: Final = re.compile("/".join(rf"{name}=(\d+)" for name in ARCHIVE_PARTITIONS))


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
    that only let go what is older than the retention: what was derived of it stays. How far is looked: `commits_since`.

    Raises: ArchiveUnavailableError, LogUnavailableError, LogError, ArchiveError (also where a file has no date).
    """
    found = commits_since(archive, since)
    days: dict[dt.date, int] = {}
    for version, commit in found.commits.items():
        if TIER_KEY not in commit.told and not _expired(version, commit):
            days |= {_day(file): version for file in commit.files if file.data_change}
    return Touched(found.mark, days, found.gap)


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
