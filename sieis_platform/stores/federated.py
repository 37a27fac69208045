"""One query over hot store and archive: each answers for its part of the time range, so that no row comes twice.

Belongs here: who answers for what, order, limit and paging. Not here: any query language.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Self

import polars as pl

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.hot import HotStore, HotStoreError, HotStoreUnavailableError
from sieis_platform.timeline import DAY_NS

Source = Literal["hot", "archive"]

#: A hot store whose first reading comes later than this after the moment it should begin at may be a new one (moved
#: disk, lost file): the archive is asked for what lies before. Motes report every 30 s: an hour of silence is unusual.
_COVERAGE_GAP_NS: Final = 3_600 * 1_000_000_000


class Cursor(NamedTuple):
    """The last row of a page; the next page begins after it in the order (timestamp, mote_id)."""

    timestamp: int
    mote_id: int


class Sources(tuple[Source, ...]):
    """The stores that gave rows, in the order of time; `degraded` says why the hot store did not answer, else empty."""

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


def readings(  # noqa: PLR0917 - the query as it is
    hot: HotStore,
    archive: Archive,
    start_ns: int,
    end_ns: int,
    mote_ids: Sequence[int] | None = None,
    limit: int | None = None,
    hot_from_ns: int | None = None,
    *,
    after: Cursor | None = None,
) -> Found:
    """Readings with start_ns <= timestamp < end_ns after the cursor, at most `limit`.

    From `hot_from_ns` on (now minus the retention; None: for all time) the hot store answers, which also has what no
    archive flush has written yet; before it the archive does. Where the hot store fails, or turns out to begin later
    than it should, the archive answers for that part as well.

    Raises: ArchiveUnavailableError, ArchiveError; not for a hot store that fails, nor for an archive not yet made.
    """
    start = start_ns if after is None else max(start_ns, after.timestamp)
    split = start if hot_from_ns is None else min(max(start, hot_from_ns), end_ns)
    archived = _Archived(archive, mote_ids, after)
    older = archived.readings(start, split, limit)
    if limit is not None:
        limit -= older.height
    if split >= end_ns or limit == 0:
        return Found(older, Sources(["archive"] if older.height else []))

    try:
        newer = _from_hot(hot, split, end_ns, mote_ids, limit, after)
    except (HotStoreUnavailableError, HotStoreError) as error:
        found = pl.concat([older, archived.readings(split, end_ns, limit)])
        return Found(found, Sources(["archive"] if found.height else [], degraded=str(error)))

    begins = newer["timestamp"][0] if newer.height else end_ns
    if begins - split > _COVERAGE_GAP_NS:
        older = pl.concat([older, gap := archived.readings(split, begins, limit)])
        if limit is not None:
            newer = newer.head(limit - gap.height)
    names: list[Source] = [*(["archive"] if older.height else []), *(["hot"] if newer.height else [])]
    return Found(pl.concat([older, newer]), Sources(names))


def _from_hot(  # noqa: PLR0917 - the query as it is
    hot: HotStore, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None, limit: int | None, after: Cursor | None
) -> pl.DataFrame:
    if after is None or after.timestamp < start_ns:
        return hot.readings(start_ns, end_ns, mote_ids, limit)
    # The rest of the cursor's own nanosecond (at most one row a mote), then everything later.
    rest = hot.readings(start_ns, min(start_ns + 1, end_ns), mote_ids).filter(pl.col("mote_id") > after.mote_id)
    if limit is not None:
        rest = rest.head(limit)
        limit -= rest.height
    if limit == 0 or start_ns + 1 >= end_ns:
        return rest
    return pl.concat([rest, hot.readings(start_ns + 1, end_ns, mote_ids, limit)])


@dataclass(frozen=True)
class _Archived:
    """What the archive has for one query."""

    archive: Archive
    mote_ids: Sequence[int] | None
    after: Cursor | None

    def readings(self, start_ns: int, end_ns: int, limit: int | None) -> pl.DataFrame:
        pages = [pl.DataFrame(schema=READING_SCHEMA)]
        if start_ns >= end_ns or not self.archive.exists():
            return pages[0]
        if limit is None:
            return self._read(start_ns, end_ns, None)
        # Which reading of a key wins is known only after all of them were seen, so a limit cannot be pushed into the
        # scan. Windows that double from one day keep a short page of a long range from reading all of it.
        width = DAY_NS
        while start_ns < end_ns and limit > 0:
            until = min(start_ns - start_ns % DAY_NS + width, end_ns)
            page = self._read(start_ns, until, limit)
            limit -= page.height
            pages.append(page)
            start_ns, width = until, 2 * width
        return pl.concat(pages)

    def _read(self, start_ns: int, end_ns: int, limit: int | None) -> pl.DataFrame:
        frame = self.archive.scan(start_ns, end_ns, self.mote_ids).select(READING_SCHEMA.names())
        if self.after is not None:
            later = pl.col("timestamp") > self.after.timestamp
            same = (pl.col("timestamp") == self.after.timestamp) & (pl.col("mote_id") > self.after.mote_id)
            frame = frame.filter(later | same)
        frame = frame.sort("timestamp", "mote_id").cast(READING_SCHEMA)
        with self.archive.reading():
            return (frame if limit is None else frame.head(limit)).collect()
