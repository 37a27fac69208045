"""Answers out of the marts: aggregates and anomalies of a window.

Belongs here: which rows, in which order. Not here: HTTP, and how the marts are filled (defs).
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import polars as pl

from sieis_api.analytics.schemas import AggregatesQuery, AnomaliesQuery
from sieis_api.deps import State
from sieis_api.envelope import iso
from sieis_api.params import Window
from sieis_api.stores import AGGREGATES, ANOMALIES, ANOMALY_MODEL
from sieis_platform.reading import FIELDS
from sieis_platform.stores.hot import AGGREGATE_SCHEMA, Period
from sieis_platform.stores.marts import Marts
from sieis_platform.timeline import DAY_NS

#: Default windows: what one looks at first. A day of hours, a month of days, a week of anomalies.
_SPAN_NS: Final[dict[Period, int]] = {"hourly": DAY_NS, "daily": 30 * DAY_NS}
_ANOMALIES_SPAN_NS: Final = 7 * DAY_NS

_ANOMALY_COLUMNS: Final = ("mote_id", "timestamp", "score", "threshold", *FIELDS, "model_name", "model_version")


class Rows(NamedTuple):
    """The newest rows that matched, and whether there were more."""

    frame: pl.DataFrame
    truncated: bool


async def aggregates(state: State, query: AggregatesQuery) -> Rows:
    """Aggregates ascending (period_start, mote_id); none where the mart has not been materialized.

    Raises: MartUnavailableError.
    """

    def ask() -> Rows:
        table, span = AGGREGATES[query.period], _SPAN_NS[query.period]
        found = _newest(
            state["stores"].marts(), table, "period_start", query=query, mote_ids=query.mote_id, span_ns=span
        )
        columns = [iso(name) if name == "period_start" else pl.col(name) for name in AGGREGATE_SCHEMA]
        if found is None:
            return Rows(_empty(AGGREGATE_SCHEMA), False)
        return Rows(found.frame.reverse().select(columns), found.truncated)

    return await state["scans"].run(ask)


async def anomalies(state: State, query: AnomaliesQuery) -> tuple[Rows, dict[str, Any] | None]:
    """Anomalies, the newest first, and the model that scores now (None until one was trained).

    Raises: MartUnavailableError.
    """

    def ask() -> tuple[Rows, dict[str, Any] | None]:
        marts = state["stores"].marts()
        found = _newest(marts, ANOMALIES, "timestamp", query=query, mote_ids=query.mote_id, span_ns=_ANOMALIES_SPAN_NS)
        if found is None:
            return Rows(_empty(_ANOMALY_COLUMNS), False), _model(marts)
        columns = [iso(name) if name == "timestamp" else pl.col(name) for name in _ANOMALY_COLUMNS]
        return Rows(found.frame.select(columns), found.truncated), _model(marts)

    return await state["scans"].run(ask)


def _newest(
    marts: Marts, table: str, time_column: str, *, query: Window, mote_ids: Sequence[int], span_ns: int
) -> Rows | None:
    """The newest `query.limit` rows of the window, descending (time, mote); None where there is no such mart."""
    if not marts.exists(table):
        return None
    scan = marts.scan(table)
    if mote_ids:
        scan = scan.filter(pl.col("mote_id").is_in(sorted(set(mote_ids))))
    newest = 0
    if query.end is None:
        with marts.reading(table):
            newest = scan.select(pl.col(time_column).max()).collect().item()
        newest = time.time_ns() if newest is None else newest
    start, end = query.resolve(newest, span_ns)
    first, last = (_date(ns) for ns in (start, max(start, end - 1)))
    found = (
        scan.filter(pl.col("date").is_between(first, last), pl.col(time_column) >= start, pl.col(time_column) < end)
        .sort(time_column, "mote_id", descending=True)
        .head(query.limit + 1)
    )
    with marts.reading(table):
        rows = found.collect()
    return Rows(rows.head(query.limit), rows.height > query.limit)


def _model(marts: Marts) -> dict[str, Any] | None:
    if not marts.exists(ANOMALY_MODEL):
        return None
    newest = marts.scan(ANOMALY_MODEL).sort("trained_at").tail(1)
    with marts.reading(ANOMALY_MODEL):
        row = newest.select("name", pl.col("version").cast(pl.String()), iso("trained_at"), "threshold").collect()
    return None if row.is_empty() else row.to_dicts()[0]


def _date(ns: int) -> pl.Expr:
    return pl.from_epoch(pl.lit(ns // DAY_NS, pl.Int64), time_unit="d").dt.strftime("%Y-%m-%d")


def _empty(columns: Iterable[str]) -> pl.DataFrame:
    return pl.DataFrame(schema=dict.fromkeys(columns, pl.String()))
