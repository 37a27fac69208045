"""One version of the archive, read consistently while others keep writing.

Belongs here: windows of readings at one table version. Not here: the table itself (stores/archive.py).
"""

import datetime as dt
from typing import Final, Self

import polars as pl

from sieis_platform.defs.partitions import Window, today
from sieis_platform.reading import ARCHIVE_PARTITIONS, KEY, READING_SCHEMA
from sieis_platform.stores.archive import Archive, last_wins
from sieis_platform.stores.files import TableFiles
from sieis_platform.stores.let_go import LetGo
from sieis_platform.stores.rewrite import POSITION
from sieis_platform.timeline import DAY_NS

#: The date (UTC, YYYY-MM-DD) of a reading.
DATE: Final = pl.from_epoch(pl.col("timestamp") // DAY_NS, time_unit="d").dt.strftime("%Y-%m-%d").alias("date")


class Snapshot:
    """The archive at the version it had when this was opened."""

    def __init__(self, archive: Archive, files: TableFiles) -> None:
        self._archive, self._files = archive, files
        self.version = files.version
        self.table_id = files.table_id
        self.let_go = LetGo.of(files.properties)

    @classmethod
    def of(cls, archive: Archive, version: int | None = None) -> Self:
        """The archive at `version`, or as it is now.

        Raises: ArchiveError where there is none, VersionGoneError, ArchiveUnavailableError.
        """
        return cls(archive, archive.files(version))

    def rows(self, window: Window) -> pl.LazyFrame:
        """Every archived row of the window (READING_SCHEMA and LINEAGE_SCHEMA), repeated keys included.

        Only the folders of its days are read.
        """
        return self._archive.scan_files(self._files, window.first, window.last).drop(ARCHIVE_PARTITIONS)

    def positions(self, window: Window) -> tuple[pl.Schema, pl.DataFrame]:
        """The columns that the archive has, and of every row of the window those of KEY and POSITION among them."""
        rows = self.rows(window)
        with self._archive.reading():
            found = rows.collect_schema()
            return found, rows.select(name for name in (*KEY, *POSITION) if name in found).collect()

    def motes(self, window: Window) -> list[int]:
        """The motes that have rows in the window, ascending; where folders name them, from the logs alone."""
        return self._archive.motes(self._files, window.first, window.last)

    def readings(self, window: Window) -> pl.DataFrame:
        """The readings of the window (READING_SCHEMA), one a key: the last wins. Ascending (mote_id, timestamp)."""
        with self._archive.reading():
            return last_wins(self.rows(window)).select(READING_SCHEMA.names()).collect()

    def derivable(self, window: Window) -> pl.DataFrame:
        """Those `readings` that are of no mote whose readings of that day were let go: what is left is not the day."""
        readings = self.readings(window)
        return readings.filter(~self.let_go.rows(DATE)) if self.let_go.reaches(window.first) else readings

    def readings_by_day(self, window: Window, gone: LetGo) -> dict[str, int]:
        """Readings (distinct keys) of each day of the window that has any but those of `gone`, by its date as text."""
        with self._archive.reading():
            counts = self.rows(window).select(KEY).filter(~gone.rows(DATE)).unique().group_by(DATE).len().collect()
        return {date: int(count) for date, count in counts.iter_rows()}

    def newest(self) -> int | None:
        """The newest timestamp (Unix ns), None where the archive is empty. Reads one day."""
        with self._archive.reading():
            return self.rows(self.recent(1)).select(pl.col("timestamp").max()).collect().item()

    def recent(self, days: int) -> Window:
        """The window of the newest `days` days that have readings; today where the archive is empty."""
        stored = self._archive.newest_days(self._files, days) or [today()]
        return Window(stored[0], stored[-1])

    def sample(self, rows: int) -> pl.DataFrame:
        """Up to `rows` readings (READING_SCHEMA) of the newest day that has any."""
        with self._archive.reading():
            return self.rows(self.recent(1)).select(READING_SCHEMA.names()).head(rows).collect()

    def rows_by_day(self) -> dict[dt.date, int]:
        """Archived rows of each day that has any, ascending, from the logs alone (repeated keys count)."""
        return self._archive.rows_by_day(self._files)
