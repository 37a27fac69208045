"""A small file in the Intel Lab format, and what must come of it. Belongs here: what tests of history share."""

import datetime as dt
from pathlib import Path

import polars as pl

from sieis_platform.reading import FIELDS, KEY
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.open import open_archive, open_hot

ANCHOR = dt.datetime.now(dt.UTC).date()
"""The first live date: today, so that all of history lies in the hot store's reach."""
DAYS = 6
MOTES = 4
A_DAY = 2_880
"""Readings of one mote on one day; every line of the file becomes a reading."""
ROWS = DAYS * MOTES * A_DAY


def write(path: Path, a_day: int = A_DAY) -> Path:
    """The file: MOTES motes one after the other, as in the real one, each over DAYS days of `a_day` readings."""
    lines = []
    for mote in range(1, MOTES + 1):
        for number in range(DAYS * a_day):
            day, slot = divmod(number, a_day)
            slot *= A_DAY // a_day
            stamp = f"2004-03-{1 + day:02d} {slot // 120:02d}:{slot // 2 % 60:02d}:{30 * (slot % 2) + mote:02d}.5"
            values = f"{20 + number % 40 / 8} {40 + mote / 4} {100 + number % 64} 2.625"
            lines.append(f"{stamp} {number % 100} {mote} {values}")
    path.write_text("\n".join(lines) + "\n")
    return path


def day(number: int) -> dt.date:
    """The date of history `number` days before the anchor."""
    return ANCHOR - dt.timedelta(days=number)


def archived(settings: Settings) -> pl.DataFrame:
    """Every row of the archive, in the file's order, without when it came."""
    return open_archive(settings).scan_all().drop("ingested_at").sort("source", "source_offset").collect()


def hot_rows(settings: Settings) -> pl.DataFrame:
    """Every reading of the hot store, by mote and time."""
    hot = open_hot(settings)
    try:
        return hot.readings(0, 1 << 62).select(*KEY, *FIELDS).sort(*KEY)
    finally:
        hot.close()


def won(archive: Archive) -> pl.DataFrame:
    """One row a key of the archive, as every read sees it, by mote and time."""
    return archive.scan().select(*KEY, *FIELDS).sort(*KEY).collect()
