"""Care of the archive: small files made large, days closed, old days let go, old versions deleted.

Belongs here: what is done to the table. Not here: when (defs.archive), or how rows are removed (rewrite).
"""

import datetime as dt
from collections.abc import Mapping
from typing import Final, NamedTuple

import polars as pl
from deltalake import CommitProperties
from deltalake.exceptions import CommitFailedError

from sieis_platform.reading import KEY
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.archive_layout import PROPERTIES, WRITER, last_wins
from sieis_platform.stores.delta import KEEP_LOG, Cleaned, clean, set_properties
from sieis_platform.stores.files import TableFiles
from sieis_platform.stores.let_go import LetGo, record
from sieis_platform.stores.rewrite import Scope, batches, remove, replace_rows

#: Why rows left the archive, as `sieis verify` and the ledger tell it.
SUPERSEDED: Final = "superseded"
EXPIRED: Final = "expired"


class Compacted(NamedTuple):
    """Files before and after, where a compaction replaced any."""

    removed: int
    added: int


def compact_day(archive: Archive, day: dt.date) -> Compacted:
    """Put the small files of each folder of a day together; no row changes, and writers go on meanwhile.

    Twice is like once. Raises: ArchiveUnavailableError, ArchiveError.
    """
    folder = [("year", "=", f"{day:%Y}"), ("month", "=", f"{day:%m}"), ("day", "=", f"{day:%d}")]
    for table in archive.attempts():
        try:
            with archive.reading():
                set_properties(table, PROPERTIES)  # a table of an earlier release lacks what keeps its log
                done = table.optimize.compact(
                    folder,
                    writer_properties=WRITER,
                    commit_properties=CommitProperties(max_commit_retries=100),
                    post_commithook_properties=KEEP_LOG,
                )
        except CommitFailedError:
            continue  # rows of these folders were removed or replaced meanwhile: compact what is left
        return Compacted(done["numFilesRemoved"], done["numFilesAdded"])
    raise archive.refused()


def drop_superseded(archive: Archive, day: dt.date) -> int:
    """Keep of every key of a day the reading that wins in every read; how many others were removed, accounted for.

    The last written wins (`last_wins`), also where its values are the same. Motes without a repeated key are not
    touched. Raises: ArchiveUnavailableError, ArchiveError.
    """
    with archive.reading():
        counts = (
            archive.scan_files(archive.files(), day, day)
            .group_by("mote_id")
            .agg(pl.len().alias("rows"), pl.struct(KEY).n_unique().alias("keys"))
            .sort("mote_id")
            .collect()
        )
    removed = 0
    for motes in batches(counts.filter(pl.col("rows") > pl.col("keys"))):
        done = replace_rows(
            archive, Scope.day(day, motes), lambda rows: last_wins(rows.lazy()).collect(), reason=SUPERSEDED
        )
        removed += done.removed.height if done else 0
    return removed


def expire(archive: Archive, today: dt.date, days: int | None, motes: Mapping[int, int]) -> int:
    """Remove whole days that ended longer ago than the retention; how many rows, all accounted for.

    `days` None keeps for ever; `motes` gives single motes a retention of their own, 0 for ever. The table itself says
    from then on what it has let go (let_go.py). The files stay until the next vacuum. Twice is like once.
    Raises: ArchiveUnavailableError, ArchiveError.
    """
    lasts = {mote: last_expired(today, kept) if kept else None for mote, kept in sorted(motes.items())}
    record(archive, LetGo(None if days is None else last_expired(today, days), lasts))
    removed = 0
    if days is not None:
        removed += remove(archive, Scope(last_expired(today, days), without_motes=sorted(motes)), reason=EXPIRED)
    by_days: dict[int, list[int]] = {}
    for mote, kept in sorted(motes.items()):
        by_days.setdefault(kept, []).append(mote)
    for kept, group in by_days.items():
        if kept:
            removed += remove(archive, Scope(last_expired(today, kept), motes=group), reason=EXPIRED)
    return removed


def last_expired(today: dt.date, days: int) -> dt.date:
    """The last day of which every reading is older than `days` days."""
    return today - dt.timedelta(days=days + 1)


def vacuum(archive: Archive, horizon_hours: int) -> Cleaned:
    """Copy the ledger, then delete files and log entries that no version younger than the horizon needs, cold ones too.

    The copy comes first in the same call: what the log loses is in the copy. App transactions live on in checkpoints.
    Raises: ArchiveUnavailableError, ArchiveError, MartUnavailableError, MartError.
    """
    archive.copy_ledger()
    live = _vacuum_live(archive, horizon_hours)
    for table in archive.attempts():
        try:
            cold = archive.cold.vacuum(table, horizon_hours)
        except CommitFailedError:
            continue  # it was put right first, or is being written
        return Cleaned(live.files + cold.files, live.log_entries)
    raise archive.refused()


def _vacuum_live(archive: Archive, horizon_hours: int) -> Cleaned:
    for table in archive.attempts():
        try:
            with archive.reading():
                set_properties(table, PROPERTIES)
                return clean(table, horizon_hours)
        except CommitFailedError:
            continue  # another writer committed while a property was set
    raise archive.refused()


def unfinished_days(files: TableFiles, small_file_bytes: int) -> list[dt.date]:
    """Days of which a folder holds several files, a small one among them: rows came after it was last compacted."""
    listed = files.listed
    if listed.is_empty():
        return []
    folders = [name for name in listed.columns if name.startswith("partition.")]
    loose = (
        listed.group_by(folders)
        .agg(pl.len().alias("files"), pl.col("size_bytes").min().alias("smallest"))
        .filter(pl.col("files") > 1, pl.col("smallest") < small_file_bytes)
    )
    day = pl.concat_str("partition.year", "partition.month", "partition.day").str.to_date("%Y%m%d")
    return loose.select(day.unique().sort()).to_series().to_list()
