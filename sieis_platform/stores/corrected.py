"""Archived rows as they were before a correction, and which corrections are in force.

Belongs here: the table of before-images and its reads, the mark that a correction is no longer in force. Not here:
correcting (corrections.py). The table lies in the marts but cannot be rebuilt: it needs a backup, as the archive does.
"""

from typing import Final

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from sieis_platform.stores.archive import Archive
from sieis_platform.stores.archive_layout import ARCHIVE_SCHEMA
from sieis_platform.stores.delta import KEEP_LOG
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.rewrite import POSITION, ROW_SCHEMA

IMAGES: Final = "correction_images"
APPLIED: Final = 1
UNDONE: Final = 2


def correction_app(correction: str) -> str:
    """The app transaction of a correction: APPLIED in every commit that changes rows for it, on the way back too (so
    that of two processes about the same piece the slower is refused), UNDONE once it is in force no longer."""
    return f"correction/{correction}"


def mark_undone(archive: Archive, correction: str) -> None:
    """End a correction all of whose rows are as they were, in a commit that changes none; twice is like once.

    A commit of its own, because the last piece of rows may hold nothing to change. Before it, a row that is back and
    one that is not are protected alike: nobody fills in a reading that the next piece brings.
    Raises: ArchiveUnavailableError, ArchiveError.
    """
    app = correction_app(correction)
    for table in archive.attempts():
        if archive.position(app, table) != APPLIED:
            return
        try:
            with archive.reading():
                write_deltalake(
                    table,
                    pl.DataFrame(schema=ARCHIVE_SCHEMA),
                    mode="append",
                    commit_properties=CommitProperties(
                        app_transactions=[Transaction(app, UNDONE)], max_commit_retries=100
                    ),
                    post_commithook_properties=KEEP_LOG,
                )
        except CommitFailedError:
            continue
        return
    raise archive.refused()


class CorrectionImages:
    """The before-images of all corrections: ROW_SCHEMA and `correction`, its id."""

    def __init__(self, marts: Marts) -> None:
        self._marts = marts

    def keep(self, correction: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Keep `rows` (ROW_SCHEMA) as the images of a correction; what is kept.

        Where it has images already they stay as they are: those taken by a run that was killed are the true ones.
        Raises: MartUnavailableError, MartError.
        """
        kept = self.of(correction)
        if not kept.is_empty() or rows.is_empty():
            return kept
        self._marts.append(IMAGES, rows.select(ROW_SCHEMA.names()).with_columns(correction=pl.lit(correction)))
        return self.of(correction)

    def of(self, correction: str) -> pl.DataFrame:
        """The images of one correction (ROW_SCHEMA), by position; none where there are none."""
        return self._read(pl.col("correction") == correction).drop("correction")

    def in_force(self, archive: Archive, table: DeltaTable) -> pl.DataFrame:
        """The images (ROW_SCHEMA) of the rows that corrections in force at this version have deleted or changed.

        Raises: MartUnavailableError, MartError, ArchiveUnavailableError, ArchiveError.
        """
        images = self._read(pl.lit(value=True))
        if images.is_empty():
            return images.drop("correction")
        applied = [
            one for one in images["correction"].unique() if archive.position(correction_app(one), table) == APPLIED
        ]
        return images.filter(pl.col("correction").is_in(applied)).drop("correction")

    def _read(self, chosen: pl.Expr) -> pl.DataFrame:
        schema = pl.Schema({**ROW_SCHEMA, "correction": pl.String()})
        if not self._marts.exists(IMAGES):
            return pl.DataFrame(schema=schema)
        rows = self._marts.scan(IMAGES).filter(chosen).select(list(schema))
        with self._marts.reading(IMAGES):
            # Two processes that completed the same correction at once may have kept its images twice.
            return rows.unique(["correction", *POSITION]).sort("correction", *POSITION).cast(schema).collect()
