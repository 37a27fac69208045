"""Answers about readings: live ones from the second-old cache, past ones from hot store and archive together.

Belongs here: which window, which page. Not here: HTTP, and any query language (stores).
"""

import time
from typing import Final, NamedTuple

import polars as pl
import structlog

from sieis_api.deps import State
from sieis_api.errors import InvalidRequestError, MoteNotFoundError
from sieis_api.params import PageCursor, Window, decode_cursor
from sieis_api.sensors.schemas import ReadingsQuery
from sieis_platform.stores import federated
from sieis_platform.stores.hot import HotStoreError, HotStoreUnavailableError
from sieis_platform.timeline import DAY_NS

log = structlog.get_logger(__name__)

HOUR_NS: Final = 3_600 * 1_000_000_000
#: The oldest hour of the hot store's retention is left to the archive: it is being expired while we read.
_EXPIRY_MARGIN_NS: Final = HOUR_NS


class Page(NamedTuple):
    """One page of readings, who gave it, and the cursor of the next."""

    frame: pl.DataFrame
    sources: tuple[federated.Source, ...]
    next_cursor: str | None


async def latest(state: State) -> pl.DataFrame:
    """The newest reading of every mote with its age. Raises: HotStoreUnavailableError."""
    return (await state["live"].get()).with_age()


async def latest_of(state: State, mote_id: int) -> pl.DataFrame:
    """The newest reading of one mote, one row. Raises: MoteNotFoundError, HotStoreUnavailableError."""
    found = (await latest(state)).filter(pl.col("mote_id") == mote_id)
    if found.is_empty():
        days = state["settings"].hot_retention_days
        raise MoteNotFoundError(f"mote {mote_id} has sent nothing in {days} days; /api/v1/motes lists who has")
    return found


async def readings(state: State, query: ReadingsQuery) -> Page:
    """One page of readings. Raises: InvalidRequestError (cursor), RetriableError where no store can answer."""
    mote_ids = sorted(set(query.mote_id)) or None
    if query.cursor is None:
        after = None
        start, end = await _window(state, query, mote_ids)
    else:
        after, end = decode_cursor(query.cursor)
        start = query.start or 0
        if query.end not in (None, end):
            raise InvalidRequestError(
                "query.cursor", "it belongs to another `end`; keep the parameters or drop the cursor"
            )
        if start > after.timestamp:
            raise InvalidRequestError("query.cursor", "it lies before `start`; keep the parameters or drop the cursor")
    retention = state["settings"].hot_retention_days * DAY_NS
    hot_from = time.time_ns() - retention + _EXPIRY_MARGIN_NS
    stores = state["stores"]

    def ask() -> federated.Found:
        # One row more than asked for tells whether there is a next page.
        return federated.readings(
            stores.hot, stores.archive(), start, end, mote_ids, query.limit + 1, hot_from, after=after
        )

    found = await (state["scans"] if start < hot_from else state["recent"]).run(ask)
    if found.sources.degraded:
        log.warning("the archive answers for the hot store", reason=found.sources.degraded)
    frame = found.frame.head(query.limit)
    more = found.frame.height > query.limit
    cursor = PageCursor(frame["timestamp"][-1], frame["mote_id"][-1]).encode(end) if more else None
    return Page(frame, found.sources, cursor)


async def _window(state: State, query: Window, mote_ids: list[int] | None) -> tuple[int, int]:
    if query.end is not None:
        return query.resolve(0, HOUR_NS)  # `newest` matters only for a window without an end
    return query.resolve(await _newest(state, mote_ids), HOUR_NS)


async def _newest(state: State, mote_ids: list[int] | None) -> int:
    """Time of the newest reading of these motes (of all where none of them is heard), where nothing is known now."""
    try:
        live = await state["live"].get()
    except (HotStoreUnavailableError, HotStoreError) as error:
        log.warning("the archive tells the newest reading for the hot store", reason=str(error))
        newest = None
    else:
        asked = live.frame if mote_ids is None else live.frame.filter(pl.col("mote_id").is_in(mote_ids))
        newest = live._replace(frame=asked).newest_ns or live.newest_ns
    if newest is None:
        newest = await state["scans"].run(lambda: _newest_archived(state))
    return newest if newest is not None else time.time_ns()


def _newest_archived(state: State) -> int | None:
    """Newest timestamp in the archive: the log tells the last day, and only that day's files are read."""
    archive = state["stores"].archive()
    if not archive.exists():
        return None
    files = archive.files()
    last = archive.newest_days(files, 1)
    if not last:
        return None
    with archive.reading():
        return archive.scan_files(files, last[0], last[0]).select(pl.col("timestamp").max()).collect().item()
