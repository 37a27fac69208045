"""What of a file of history the archive holds already, whoever stored it, and what must not come back.

Belongs here: the questions that a load asks the archive before it writes. Not here: the load (history.py).
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final, Self

import polars as pl

from sieis_platform.reading import FIELDS, KEY, READING_SCHEMA
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.archive_layout import last_wins
from sieis_platform.stores.corrected import CorrectionImages
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.rewrite import Scope
from sieis_platform.timeline import DAY_NS

_KNOWN: Final = pl.Schema({**{name: READING_SCHEMA[name] for name in KEY}, "source_offset": pl.Int64()})
_EPOCH: Final = dt.date(1970, 1, 1)


@dataclass(frozen=True)
class AlreadyStored:
    """What a load need not write, at one moment: rows that backfills of its file have stored, and corrected readings.

    `counter` is that of the backfills' commits. `backfilled` (KEY, source_offset) are the rows that the load is still
    to come to, `corrected` (KEY) the readings, from whatever source, that a correction in force concerns.
    """

    counter: int | None
    backfilled: pl.DataFrame
    corrected: pl.DataFrame

    @classmethod
    def now(cls, archive: Archive, marts: Marts, *, source: str, backfills: str, position: int) -> Self:
        """As the archive is at this moment, for the load of `source` that has come to byte `position`.

        `backfills` is the app transaction that counts the commits of backfills from the same file.
        Raises: as Archive.table and CorrectionImages.in_force.
        """
        table = archive.table()
        counter = archive.position(backfills, table)
        backfilled = _KNOWN.to_frame()
        if counter is not None:
            mine = pl.col("source") == source, pl.col("source_offset") >= position
            with archive.reading():
                backfilled = archive.scan_table(table).filter(*mine).select(_KNOWN.names()).collect()
        corrected = CorrectionImages(marts).in_force(archive, table).select(KEY).unique()
        return cls(counter, backfilled, corrected)

    def there(self, rows: pl.DataFrame) -> pl.Series:
        """Which of the `rows` (KEY, source_offset) a backfill has stored: at the same position, or a later one of the
        same key."""
        latest = self.backfilled.group_by(KEY).agg(pl.col("source_offset").max().alias("_stored"))
        joined = rows.select(*KEY, "source_offset").join(latest, on=KEY, how="left", maintain_order="left")
        return joined.select((pl.col("_stored") >= pl.col("source_offset")).fill_null(value=False)).to_series()

    def taken_away(self, rows: pl.DataFrame) -> pl.Series:
        """Which of the `rows` (KEY) were corrected."""
        flagged = self.corrected.with_columns(_corrected=pl.lit(value=True))
        joined = rows.select(KEY).join(flagged, on=KEY, how="left", maintain_order="left")
        return joined["_corrected"].fill_null(value=False)


def said_by_others(archive: Archive, rows: pl.DataFrame, source: str) -> pl.Series:
    """Which of the `rows` (READING_SCHEMA) change nothing: the reading that counts is the same, from another source.

    So a file that has grown is loaded from where it grew, and one that overlaps another brings what is new in it.
    Where the `rows` contradict each other about a key, all of its rows are new: the last is to win.
    Raises: ArchiveUnavailableError, ArchiveError.
    """
    if rows.is_empty():
        return pl.Series(dtype=pl.Boolean())
    bounds = rows.select(pl.min("timestamp"), pl.max("timestamp").alias("last")).row(0)
    first, last = (_EPOCH + dt.timedelta(days=ns // DAY_NS) for ns in bounds)
    days = Scope(last, first, rows["mote_id"].unique().sort().to_list())
    stored = archive.scan_table(archive.table(), first, last).filter(days.rows())
    with archive.reading():
        elsewhere = stored.filter(pl.col("source") != source).select(KEY).unique().collect()
        if elsewhere.is_empty():
            return pl.repeat(value=False, n=rows.height, eager=True, dtype=pl.Boolean())
        counts = last_wins(stored.join(elsewhere.lazy(), on=KEY, how="semi")).filter(pl.col("source") != source)
        held = counts.select(*KEY, *FIELDS).collect()
    same = rows.select(*KEY, *FIELDS).join(
        held.with_columns(_same=pl.lit(value=True)),
        on=[*KEY, *FIELDS],
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    return same.select(pl.col("_same").fill_null(value=False).all().over(KEY)).to_series()
