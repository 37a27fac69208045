"""One query over hot store and archive: each answers for its part of the time range, so that no row comes twice.

Belongs here: who answers for what, order, limit and paging. Not here: any query language.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, Self

import polars as pl

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.hot import HotStore, HotStoreError, HotStoreUnavailableError
from sieis_platform.timeline import DAY_NS

Source = Literal["hot", "archive"]

#: A hot store whose first reading comes later than this after the moment it should begin at may be a new one (moved disk,
#: lost file): the archive is asked for what lies before. Motes report every 30 s, so an hour of silence is unusual.
_COVERAGE_GAP_NS: Final = 3_600 * 1_000_000_000


class Cursor(NamedTuple):
    """The last row of a page; the next page begins after it in the order (timestamp, mote_id)."""

    timestamp: int
    mote_id: int


class Sources(tuple[Source, ...]):
    """The stores that gave rows, in the order of time; `degraded` says why the hot store did not answer, else it is empty."""

    degraded: str

    def __new__(cls, names: Iterable[Source], degraded: str = "") -> Self:
        """Sources `names`."""
        made = super().__new__(cls, names)
        made.degraded = degraded
        return made


class Found(NamedTuple):
    """Readings (READING_SCHEMA), ascending (timestamp, mote_id), and who gave them."""

    frame: pl.DataFrame
    sources: Sources


def readings(
    hot: HotStore,
    archive: Archive,
    start_ns: int,
    end_ns: int,
    mote_ids: Sequence[int] | None = None,
    limit: int | None = None,
    hot_from_ns: int | None = None,
    after: Cursor | None = None,
) -> Found:
    """Readings with start_ns <= timestamp < end_ns after the cursor, at most `limit`.

    From `hot_from_ns` on (now minus the retention; None: for all time) the hot store answers, which also has what no archive flush
    has written yet; before it the archive does. Where the hot store fails, or turns out to begin later than it should, the
    archive answers for that part as well.

    Raises: ArchiveUnavailableError, ArchiveError; never for a hot store that does not answer, nor for a missing archive.
    """
    start = start_ns if after is None else max(start_ns, after.timestamp)
    split = start if hot_from_ns is None else min(max(start, hot_from_ns), end_ns)
    older = _empty()
    if split > start:
        older = _from_archive(archive, start, split, mote_ids, limit, after)
    missing = None if limit is None else limit - older.height
    newer, newer_source, degraded = _empty(), "hot", ""
    if split < end_ns and (missing is None or missing > 0):
        newer_after = after if split == start else None
        try:
            newer = _from_hot(hot, split, end_ns, mote_ids, missing, newer_after)
            begins = newer["timestamp"][0] if newer.height else end_ns
            if begins - split > _COVERAGE_GAP_NS:
                gap = _from_archive(archive, split, begins, mote_ids, missing, newer_after)
                older = pl.concat([older, gap])
                newer = newer if missing is None else newer.head(max(0, missing - gap.height))
        except (HotStoreUnavailableError, HotStoreError) as error:
            degraded = str(error)
            newer_source = "archive"
            newer = _from_archive(archive, split, end_ns, mote_ids, missing, newer_after)
    names: list[Source] = []
    if older.height or (newer.height and newer_source == "archive"):
        names.append("archive")
    if newer.height and newer_source == "hot":
        names.append("hot")
    return Found(pl.concat([older, newer]), Sources(names, degraded))


def _from_hot(
    hot: HotStore, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None, limit: int | None, after: Cursor | None
) -> pl.DataFrame:
    if after is None or after.timestamp < start_ns:
        return hot.readings(start_ns, end_ns, mote_ids, limit)
    # The rest of the cursor's own nanosecond (at most one row a mote), then everything later.
    rest = hot.readings(after.timestamp, min(after.timestamp + 1, end_ns), mote_ids)
    rest = rest.filter(pl.col("mote_id") > after.mote_id)
    if limit is not None:
        rest = rest.head(limit)
        if rest.height == limit:
            return rest
        limit -= rest.height
    if after.timestamp + 1 >= end_ns:
        return rest
    return pl.concat([rest, hot.readings(after.timestamp + 1, end_ns, mote_ids, limit)])


def _from_archive(
    archive: Archive,
    start_ns: int,
    end_ns: int,
    mote_ids: Sequence[int] | None,
    limit: int | None,
    after: Cursor | None,
) -> pl.DataFrame:
    if not archive.exists():
        return _empty()
    if limit is None:
        return _read(archive, start_ns, end_ns, mote_ids, None, after)
    # Which reading of a key wins is known only after all of them were seen, so a limit cannot be pushed into the scan.
    # Windows that double from one day keep a short page of a long range from reading all of it.
    pages = [_empty()]
    width = DAY_NS
    while start_ns < end_ns and limit > 0:
        until = min(start_ns - start_ns % DAY_NS + width, end_ns)
        page = _read(archive, start_ns, until, mote_ids, limit, after)
        limit -= page.height
        pages.append(page)
        start_ns, width = until, 2 * width
    return pl.concat(pages)


def _read(
    archive: Archive,
    start_ns: int,
    end_ns: int,
    mote_ids: Sequence[int] | None,
    limit: int | None,
    after: Cursor | None,
) -> pl.DataFrame:
    frame = archive.scan(start_ns, end_ns, mote_ids).select(READING_SCHEMA.names())
    if after is not None:
        later = pl.col("timestamp") > after.timestamp
        frame = frame.filter(later | ((pl.col("timestamp") == after.timestamp) & (pl.col("mote_id") > after.mote_id)))
    frame = frame.sort("timestamp", "mote_id")
    return (frame if limit is None else frame.head(limit)).cast(READING_SCHEMA).collect()


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema=READING_SCHEMA)
