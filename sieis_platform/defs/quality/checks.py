"""Expectations about archive and hot store as asset checks; those that blame the platform stop what is built on them.

Belongs here: which days are judged, up to which moment stores are compared. Not here: the expectations
(analysis/quality), how verdicts are kept and shown (results).
"""

import datetime as dt
import time
from collections.abc import Iterator, Sequence
from typing import Final

import dagster as dg
import polars as pl

from sieis_platform.analysis.quality import tables
from sieis_platform.analysis.quality.verdict import Verdict
from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.quality.results import BATCH_DAYS, Judgement
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.assets import HOT_STORE
from sieis_platform.history import app_of
from sieis_platform.stores.fates import file_fates, stream_fates
from sieis_platform.stores.hot import HotStore, HotStoreUnavailableError
from sieis_platform.timeline import DAY_NS


def _check(name: str, asset: dg.AssetKey, description: str, *, blocking: bool = False) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=asset, description=description, blocking=blocking)


ARCHIVE_SPECS: Final = [
    _check("schema", ARCHIVE, "Columns and types as agreed, no null key. Error: stops all.", blocking=True),
    _check("positions_unique", ARCHIVE, "No position is stored twice. Error: stops all.", blocking=True),
    _check("keys_repeated", ARCHIVE, "On every day less than 1% of the rows repeat a mote and timestamp."),
    _check("ranges", ARCHIVE, "Of every quantity at most 1% of the values are physically impossible."),
    _check("nulls", ARCHIVE, "Of every quantity less than 5% of the values are null."),
    _check("completeness", ARCHIVE, "At least 90% of the days of all motes have 90% of the readings expected."),
    _check("freshness", ARCHIVE, "Every day has readings to within 30 minutes of its end, today to within 30 of now."),
    _check("parse_errors", ARCHIVE, "Less than 0.1% of a file's lines and of a day's records are without meaning."),
]
HOT_STORE_SPECS: Final = [
    _check("freshness", HOT_STORE, "The newest reading is at most 10 minutes old, or as new as the days judged."),
    _check("equals_archive", HOT_STORE, "Day by day and mote by mote the same readings as in the archive."),
]

#: Days judged where a check is started by hand, without a partition: the newest ones.
_RECENT_DAYS: Final = 7

#: A mote is missed if it sent anything in so many days before those judged; later it counts as taken away.
_REMEMBERED_DAYS: Final = 7

#: Hot store and archive are compared up to this long before the newest reading of the archive. Each takes the
#: partitions of the topic at its own pace: one mote's readings may be in while another's, as old, are on their way. A
#: hot store that is further behind lacks what the archive has, whatever keeps it.
_SETTLED_NS: Final = 3_600 * 1_000_000_000

#: Days of a mote, 2,880 rows each, that are fetched where the sums differ. Beyond these the sums are believed.
_LOOKED_AT_AGAIN: Final = 50


@dg.multi_asset_check(name="archive_expectations", specs=ARCHIVE_SPECS)
def archive_expectations(
    context: dg.AssetCheckExecutionContext, platform: PlatformResource
) -> Iterator[dg.AssetCheckResult]:
    """All expectations over the days of the run, each day read once."""
    with dagster_failures():
        stored = platform.archive()
        archive = Snapshot.of(stored)
        window = Window.of_tags(context.run.tags) or archive.recent(_RECENT_DAYS)
        judgement = Judgement(ARCHIVE, window, archive.version, context.run.run_id)
        sources: set[str] = set()
        for batch in window.batches(BATCH_DAYS):
            with stored.reading():
                rows = archive.rows(batch).collect()
            before = Window(batch.first - dt.timedelta(days=_REMEMBERED_DAYS), batch.first - dt.timedelta(days=1))
            if _judge_archive(judgement, rows, batch, archive.motes(before)):
                sources.update(rows["source"].drop_nulls().unique())
        streamed = stream_fates(stored, window.start_ns, window.end_ns)
        split = (source.partition(":") for source in sorted(sources))
        loaded = file_fates(stored, [app_of(name) for kind, _, name in split if kind == "history"])
        entries = [*streamed.entries, *loaded]
        deliveries = tables.deliveries(entries, streamed.committed, sources, window.first, window.last)
        judgement.evaluate("archive_deliveries", deliveries)
        context.op_execution_context.log_event(judgement.keep(platform.marts()))
    yield from judgement.results(platform.settings())


def _judge_archive(judgement: Judgement, rows: pl.DataFrame, batch: Window, known: Sequence[int]) -> bool:
    """Whether the columns are as agreed; if not, nothing else can be judged. `known`: motes seen shortly before."""
    shape = judgement.evaluate("archive_columns", tables.columns(rows), batch)
    if not all(verdict.passed for verdict in shape):
        told = {spec.name for spec in ARCHIVE_SPECS} - {"schema", "parse_errors"}
        text = "not judged: the columns of the archive are not as agreed"
        judgement.add([Verdict(name, "archive_columns", False, "warning", text) for name in sorted(told)], batch)
        return False
    now = time.time_ns()
    judgement.evaluate("archive_positions", tables.positions(rows), batch)
    judgement.evaluate("archive_readings", tables.readings(rows), batch)
    judgement.evaluate("archive_days", tables.days(rows, batch.first, batch.last, now), batch)
    judgement.evaluate("archive_mote_days", tables.mote_days(rows, batch.first, batch.last, now, known), batch)
    return True


@dg.multi_asset_check(name="hot_store_expectations", specs=HOT_STORE_SPECS)
def hot_store_expectations(
    context: dg.AssetCheckExecutionContext, platform: PlatformResource
) -> Iterator[dg.AssetCheckResult]:
    """Whether the hot store is up to date and has what the archive has; an outage fails the check, not the run."""
    with dagster_failures():
        archive = Snapshot.of(platform.archive())
        window = Window.of_tags(context.run.tags) or archive.recent(_RECENT_DAYS)
        judgement = Judgement(HOT_STORE, window, archive.version, context.run.run_id)
        try:
            with platform.hot() as hot:
                _judge_hot(judgement, hot, archive, platform.settings().hot_retention_days)
        except HotStoreUnavailableError as error:
            text = f"not judged: {error}"
            names = ("freshness", "equals_archive")
            judgement.add([Verdict(name, "hot_store_age", False, "warning", text) for name in names])
        context.op_execution_context.log_event(judgement.keep(platform.marts()))
    yield from judgement.results(platform.settings())


def _judge_hot(judgement: Judgement, hot: HotStore, archive: Snapshot, retention_days: int) -> None:
    now, window = time.time_ns(), judgement.window
    newest = hot.latest()["timestamp"].max()
    newest = newest if isinstance(newest, int) else None
    judgement.evaluate("hot_store_age", tables.age(newest, min(window.end_ns, now)))
    # Of the day on which the retention ends a part is gone: the next midnight is where comparing begins.
    start = max(window.start_ns, -(-(now - retention_days * DAY_NS) // DAY_NS) * DAY_NS)
    end = min(window.end_ns, min(archive.newest() or 0, now) - _SETTLED_NS)
    if start < end:
        judgement.evaluate("hot_store_mote_days", _compared(hot, archive, start, end))
        return
    text = (
        f"nothing to compare: the hot store keeps {retention_days} days, and of the archive's last hour some may still "
        "be on its way"
    )
    judgement.add([Verdict("equals_archive", "hot_store_mote_days", True, "warning", text)])


def _compared(hot: HotStore, archive: Snapshot, start_ns: int, end_ns: int) -> pl.DataFrame:
    """What both hold of start_ns (a midnight) <= timestamp < end_ns, by day and mote (tables.compared).

    Where the sums differ, the hot store's readings are fetched and added up here: its own sums may hold values that
    were overwritten (see HotStore.daily_sums).
    """
    inside = pl.col("timestamp").is_between(start_ns, end_ns, closed="left")
    days = Window(_date(start_ns), _date(end_ns - 1))
    archived = pl.concat(tables.daily_sums(archive.readings(days).filter(inside)) for days in days.batches(BATCH_DAYS))
    sums = hot.daily_sums(start_ns, end_ns)
    suspects = tables.differing(sums, archived).head(_LOOKED_AT_AGAIN)
    again = [
        tables.daily_sums(hot.readings(day, min(day + DAY_NS, end_ns), [mote])) for mote, day in suspects.iter_rows()
    ]
    settled = sums.join(suspects, on=suspects.columns, how="anti")
    return tables.compared(pl.concat([settled, *again]), archived)


def _date(ns: int) -> dt.date:
    return dt.datetime.fromtimestamp(ns // 1_000_000_000, dt.UTC).date()
