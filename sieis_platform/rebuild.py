"""The hot store filled again from the archive and the marts: after it was lost, or moved to another server.

Belongs here: what is read and written, in which pieces, and that others write meanwhile. Not here: when it runs, nor
what follows from it.

Whoever else changes archive or marts (a correction, a backfill, a refresh) does that first and then brings the hot
store up to it. What was read before must therefore not be the last that is written: after each write it is asked
whether there was such a change since the read, and then what was written is put right (decision 021).
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl

from sieis_platform.reading import FIELDS, KEY, READING_SCHEMA
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.follow import follow
from sieis_platform.stores.hot import AGGREGATE_MARTS, AGGREGATE_SCHEMA, HotStore, Period
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.touched import Mark, touched_days
from sieis_platform.timeline import DAY_NS

#: Rows read at once, at most about: 150 MB while the last of each key is sought.
_PIECE_ROWS: Final = 2_000_000
_EPOCH: Final = dt.date(1970, 1, 1)


@dataclass
class RebuildSummary:
    """What one rebuild read and wrote; the refused are older than the hot store's retention, or malformed to it.

    `changed_meanwhile`: readings and aggregates that had changed once they were written, and were put right.
    """

    first: dt.date
    last: dt.date
    readings_archived: int = 0
    readings_written: int = 0
    beyond_retention: int = 0
    refused: int = 0
    aggregates_written: int = 0
    changed_meanwhile: int = 0


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
            rows += _readings(hot, archive, day, start_ns, end_ns, summary)
        summary.readings_archived += rows
        on_day(day, rows)
    for period in AGGREGATE_MARTS:
        begin = hourly_first if period == "hourly" and hourly_first is not None else first
        _aggregates(hot, marts, period, begin, last, summary)
    return summary


def _readings(  # noqa: PLR0917 - a span of a day
    hot: HotStore, archive: Archive, day: dt.date, start_ns: int, end_ns: int, summary: RebuildSummary
) -> int:
    """Write the readings of a span of the day, until all that was written is still archived; how many there were."""
    mark, rows = _archived(archive, start_ns, end_ns)
    outcome = hot.write_readings(rows)
    summary.readings_written += outcome.written
    summary.beyond_retention += outcome.beyond_retention
    summary.refused += outcome.refused
    count, deleted = rows.height, False
    while _touched(archive, mark, day):
        mark, now = _archived(archive, start_ns, end_ns)
        gone = rows.join(now, on=KEY, how="anti")
        other = _other_values(rows, now)
        if deleted:  # spans, in which others may have written what `now` has for the first time
            other = pl.concat([other, now.join(rows, on=KEY, how="anti").select(KEY)])
        if gone.is_empty() and other.is_empty():
            break  # rows were added: whoever did that writes them to the hot store as well

        def archived(first: int, end: int, mote: int, now: pl.DataFrame = now) -> pl.DataFrame:
            return now.filter(pl.col("mote_id") == mote, pl.col("timestamp").is_between(first, end, closed="left"))

        follow(hot, archived, gone, delete=True)
        follow(hot, archived, other, delete=False)
        summary.changed_meanwhile += gone.height + other.height
        rows, deleted = now, not gone.is_empty()
    return count


def _archived(archive: Archive, start_ns: int, end_ns: int) -> tuple[Mark, pl.DataFrame]:
    """What counts of a span, and a version of the archive that it is at least of."""
    files = archive.files()
    frame = archive.scan(start_ns, end_ns).select(READING_SCHEMA.names())
    with archive.reading():
        return Mark(files.table_id, files.version), frame.collect()


def _touched(archive: Archive, since: Mark, day: dt.date) -> bool:
    """Whether a commit after `since` may have changed the day."""
    newest = archive.version()
    while True:
        found = touched_days(archive, since)
        if day in found.days or found.gap is not None:
            return True
        if found.mark.version >= newest:
            return False
        since = found.mark  # there is more of the log than is read at once


def _other_values(rows: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """The keys of both that have another value `now`."""
    differs = [pl.col(field).ne_missing(pl.col(f"{field}_now")) for field in FIELDS]
    return rows.join(now, on=KEY, how="inner", suffix="_now").filter(pl.any_horizontal(differs)).select(KEY)


def _aggregates(  # noqa: PLR0917 - a window of a mart
    hot: HotStore, marts: Marts, period: Period, first: dt.date, last: dt.date, summary: RebuildSummary
) -> None:
    """Show the days of a mart; those again that have become others by then."""
    table = AGGREGATE_MARTS[period]
    if not marts.exists(table):
        return
    version, rows = _derived(marts, table, first, last)
    hot.replace_aggregates(period, pl.concat([_NO_AGGREGATES, *rows.values()]), _start_ns(first), _end_ns(last))
    summary.aggregates_written += sum(map(len, rows.values()))
    while marts.version(table) != version:
        version, now = _derived(marts, table, first, last)
        others = [day for day in {**rows, **now} if not _of(now, day).equals(_of(rows, day))]
        if not others:
            break  # other days, or other files with the same rows
        for day in others:
            hot.replace_aggregates(period, _of(now, day), _start_ns(day), _end_ns(day))
            summary.changed_meanwhile += len(_of(now, day))
        rows = now


_NO_AGGREGATES: Final = AGGREGATE_SCHEMA.to_frame()
_Days = dict[dt.date, pl.DataFrame]


def _of(rows: _Days, day: dt.date) -> pl.DataFrame:
    return rows.get(day, _NO_AGGREGATES)


def _derived(marts: Marts, table: str, first: dt.date, last: dt.date) -> tuple[int, _Days]:
    """The aggregates of each day that has any, ordered, and a version of the mart that they are at least of."""
    version = marts.version(table)
    days = pl.col("date").is_between(pl.lit(first.isoformat()), pl.lit(last.isoformat()))
    with marts.reading(table):
        rows = marts.scan(table).filter(days).select("date", *AGGREGATE_SCHEMA.names()).collect()
    ordered = rows.cast(dict(AGGREGATE_SCHEMA)).sort("period_start", "mote_id")  # pyright: ignore[reportArgumentType]
    parts = ordered.partition_by("date", as_dict=True, include_key=False)
    return version, {dt.date.fromisoformat(date): part for (date,), part in parts.items()}


def _start_ns(day: dt.date) -> int:
    return (day - _EPOCH).days * DAY_NS


def _end_ns(day: dt.date) -> int:
    return _start_ns(day) + DAY_NS


def _days(first: dt.date, last: dt.date) -> Iterator[dt.date]:
    for ahead in range((last - first).days + 1):
        yield first + dt.timedelta(days=ahead)


def _pieces(day: dt.date, rows: int) -> Iterator[tuple[int, int]]:
    """The day in equal spans of time of about _PIECE_ROWS each; nothing for a day without rows."""
    start = _start_ns(day)
    pieces = -(-rows // _PIECE_ROWS)
    for piece in range(pieces):
        yield start + DAY_NS * piece // pieces, start + DAY_NS * (piece + 1) // pieces
