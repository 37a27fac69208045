"""The hot store filled again from the archive and the marts: after it was lost, or moved to another server.

Belongs here: what is read and written, in which pieces. Not here: when it runs, nor what follows from it.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.hot import AGGREGATE_MARTS, AGGREGATE_SCHEMA, HotStore, Period
from sieis_platform.stores.marts import Marts
from sieis_platform.timeline import DAY_NS

#: Rows read at once, at most about: 150 MB while the last of each key is sought.
_PIECE_ROWS: Final = 2_000_000
_EPOCH: Final = dt.date(1970, 1, 1)


@dataclass
class RebuildSummary:
    """What one rebuild read and wrote; the refused are older than the hot store's retention, or malformed to it."""

    first: dt.date
    last: dt.date
    readings_archived: int = 0
    readings_written: int = 0
    beyond_retention: int = 0
    refused: int = 0
    aggregates_written: int = 0


def rebuild_hot(
    hot: HotStore,
    archive: Archive,
    marts: Marts,
    first: dt.date,
    last: dt.date,
    *,
    hourly_first: dt.date | None = None,
    on_day: Callable[[dt.date, int], None] = lambda _day, _rows: None,
) -> RebuildSummary:
    """Write the archive's readings and the marts' aggregates of the days `first` to `last` into the hot store.

    Hourly aggregates begin at `hourly_first` where that is given: they stay longer than the readings. Nothing is
    removed before: what the stream has written and the archive has not yet flushed stays. Same keys overwrite, so that
    running it again changes nothing. `on_day` is told each day and how many readings it had.

    Raises: RetriableError and FatalError of the three stores.
    """
    summary = RebuildSummary(first, last)
    by_day = archive.rows_by_day(archive.files())
    for day in _days(first, last):
        rows = 0
        for start_ns, end_ns in _pieces(day, by_day.get(day, 0)):
            frame = archive.scan(start_ns, end_ns).select(READING_SCHEMA.names())
            with archive.reading():
                readings = frame.collect()
            outcome = hot.write_readings(readings)
            rows += readings.height
            summary.readings_written += outcome.written
            summary.beyond_retention += outcome.beyond_retention
            summary.refused += outcome.refused
        summary.readings_archived += rows
        on_day(day, rows)
    for period in AGGREGATE_MARTS:
        begin = hourly_first if period == "hourly" and hourly_first is not None else first
        summary.aggregates_written += _aggregates(hot, marts, period, begin, last)
    return summary


def _aggregates(hot: HotStore, marts: Marts, period: Period, first: dt.date, last: dt.date) -> int:
    table = AGGREGATE_MARTS[period]
    if not marts.exists(table):
        return 0
    days = pl.col("date").is_between(pl.lit(first.isoformat()), pl.lit(last.isoformat()))
    with marts.reading(table):
        rows = marts.scan(table).filter(days).select(AGGREGATE_SCHEMA.names()).collect()
    midnights = [(day - _EPOCH).days * DAY_NS for day in (first, last + dt.timedelta(days=1))]
    hot.replace_aggregates(period, rows, *midnights)
    return rows.height


def _days(first: dt.date, last: dt.date) -> Iterator[dt.date]:
    for ahead in range((last - first).days + 1):
        yield first + dt.timedelta(days=ahead)


def _pieces(day: dt.date, rows: int) -> Iterator[tuple[int, int]]:
    """The day in equal spans of time of about _PIECE_ROWS each; nothing for a day without rows."""
    start = (day - _EPOCH).days * DAY_NS
    pieces = -(-rows // _PIECE_ROWS)
    for piece in range(pieces):
        yield start + DAY_NS * piece // pieces, start + DAY_NS * (piece + 1) // pieces
