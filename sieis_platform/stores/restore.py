"""Rows put back into the archive as they were, in a commit that accounts for them: the undoing of a removal.

Belongs here: that commit. Not here: what was removed and why (corrections.py), taking rows out (rewrite.py).
"""

from collections.abc import Mapping

import msgspec
import polars as pl
from deltalake import CommitProperties, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from sieis_platform.stores.archive import Archive
from sieis_platform.stores.archive_layout import WRITER, in_layout
from sieis_platform.stores.delta import KEEP_LOG
from sieis_platform.stores.ledger import REMOVED_KEY, RemovedEntry
from sieis_platform.stores.rewrite import POSITION, Scope


def put_back(
    archive: Archive,
    scope: Scope,
    rows: pl.DataFrame,
    *,
    reason: str,
    metadata: Mapping[str, str],
    transactions: Mapping[str, int],
) -> int:
    """Append those `rows` (ROW_SCHEMA, all within `scope`) whose position the archive lacks; how many there were.

    They keep their position and `ingested_at`. In `sieis.removed` they count below zero: they are removed no longer.
    Twice is like once, also for two processes at once: both name the same app transactions.
    Raises: ArchiveUnavailableError (nothing was written), ArchiveError.
    """
    for table in archive.attempts():
        with archive.reading():
            held = archive.scan_table(table, scope.first, scope.last).filter(scope.rows()).select(POSITION).collect()
        absent = rows.join(held, on=POSITION, how="anti", nulls_equal=True)
        if absent.is_empty():
            return 0
        counts = absent.group_by("source", "source_partition").len().sort("source", "source_partition")
        entries = [
            RemovedEntry(source=source, source_partition=partition or 0, rows=-count, reason=reason)
            for source, partition, count in counts.iter_rows()
        ]
        properties = CommitProperties(
            custom_metadata={**metadata, REMOVED_KEY: msgspec.json.encode(entries).decode()},
            app_transactions=[Transaction(app, version) for app, version in transactions.items()],
            max_commit_retries=100,
        )
        try:
            with archive.reading():
                write_deltalake(
                    table,
                    in_layout(absent),
                    mode="append",
                    writer_properties=WRITER,
                    commit_properties=properties,
                    post_commithook_properties=KEEP_LOG,
                )
        except CommitFailedError:
            continue
        return absent.height
    raise archive.refused()
