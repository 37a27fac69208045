"""Archived rows as they were before a correction, and which corrections are in force.

Belongs here: the table of before-images and its reads. Not here: correcting (corrections.py). The table lies in the
marts but cannot be rebuilt: it needs a backup, as the archive does.
"""

from typing import Final

import polars as pl
from deltalake import DeltaTable

from sieis_platform.stores.archive import Archive
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.rewrite import POSITION, ROW_SCHEMA

IMAGES: Final = "correction_images"
APPLIED: Final = 1
UNDONE: Final = 2


def correction_app(correction: str) -> str:
    """The app transaction of a correction, in the commits that carry it out: APPLIED, then UNDONE."""
    return f"correction/{correction}"


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
