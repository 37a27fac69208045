"""The check that stands between the aggregates and everything built on them.

Belongs here: comparing an aggregate with the archive it came from. Not here: expectations about the readings (quality).
"""

import datetime as dt
from collections.abc import Mapping
from typing import Final, NamedTuple

import dagster as dg
import polars as pl

from sieis_platform.analysis.quality.tables import counted
from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import archive_version_of
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.quality.results import Judgement
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups.assets import LET_GO, MARTS, READINGS
from sieis_platform.stores.archive import Archive, VersionGoneError
from sieis_platform.stores.hot import Period
from sieis_platform.stores.let_go import LetGo

#: Partitions whose materializations are looked up at once (the API's own limit is 1,000 records a call).
_LOOKUP: Final = 1_000


def counts_check(period: Period) -> dg.AssetChecksDefinition:
    """Blocking: every reading that the archive held when the days were aggregated is counted in them, once."""
    mart = MARTS[period]
    key = dg.AssetKey(mart)

    @dg.asset_check(
        asset=key,
        name="counts_equal_archive",
        blocking=True,
        description="record_count, of the building and summed over motes, equals the archive's readings of those days, "
        "less what the retention has let go.",
    )
    def counts_equal_archive(context: dg.AssetCheckExecutionContext, platform: PlatformResource) -> dg.AssetCheckResult:
        with dagster_failures():
            marts = platform.marts()
            table = marts.scan(mart)
            with marts.reading(mart):
                window = Window.of_tags(context.run.tags) or _last_day(table)
                aggregates = (
                    table.filter(
                        pl.col("date").is_between(pl.lit(window.first.isoformat()), pl.lit(window.last.isoformat()))
                    )
                    .select("date", "mote_id", "record_count")
                    .collect()
                )
            archive = platform.archive()
            made = _made(context.instance, key, window, Snapshot.of(archive))
            archived = _archived(archive, made, window)
            judgement = Judgement(key, window, None, context.run.run_id)
            derived, partial = _derived(aggregates, made)
            judgement.evaluate("aggregates_days", counted(derived, archived, partial))
            context.op_execution_context.log_event(judgement.keep(marts))
        readings = dg.MetadataValue.int(sum(archived.values()))
        return next(judgement.results(platform.settings(), readings=readings))

    return counts_equal_archive


def _last_day(table: pl.LazyFrame) -> Window:
    """What a check that was started by hand looks at: the newest day that has aggregates."""
    newest = table.select(pl.col("date").max()).collect().item()
    if newest is None:
        raise dg.Failure(description="there are no aggregates yet; materialize some days", allow_retries=False)
    return Window(dt.date.fromisoformat(newest), dt.date.fromisoformat(newest))


class _Made(NamedTuple):
    """What the newest materialization of a day says: the archive's version, the readings it found there, and what was
    let go by then.
    """

    version: int | None
    readings: int | None
    gone: LetGo


def _derived(aggregates: pl.DataFrame, made: Mapping[str, _Made]) -> tuple[pl.DataFrame, list[str]]:
    """The aggregates without those taken over from before, and the days whose building had such motes in it."""
    derived, partial = [aggregates.clear()], []
    for day, one in made.items():
        rows = aggregates.filter(date=day)
        kept = rows.filter(one.gone.rows(pl.col("date")))
        derived.append(rows.join(kept, on=["date", "mote_id"], how="anti"))
        partial += [day] if kept.height else []
    return pl.concat(derived), partial


def _archived(archive: Archive, made: Mapping[str, _Made], window: Window) -> dict[str, int]:
    """Readings by date, each day at the archive version it was aggregated from: the stream writes on meanwhile.

    A version older than the vacuum's horizon is gone; then what the materialization itself counted stands for it.
    """
    counts: dict[str, int] = {}
    for version, gone in {(one.version, one.gone.text()): one.gone for one in made.values()}.items():
        days = [day for day, one in made.items() if (one.version, one.gone) == (version[0], gone)]
        recorded = {day: made[day].readings for day in days}
        try:
            by_day: Mapping[str, int | None] = Snapshot.of(archive, version[0]).readings_by_day(window, gone)
        except VersionGoneError:
            by_day = recorded
            if None in recorded.values():  # aggregated before counts were recorded
                by_day = Snapshot.of(archive).readings_by_day(window, gone)
        counts |= {day: count for day in days if (count := by_day.get(day))}
    return counts


def _made(instance: dg.DagsterInstance, asset: dg.AssetKey, window: Window, archive: Snapshot) -> dict[str, _Made]:
    """Of each day; a materialization made from another archive is none."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=window.keys), limit=_LOOKUP
    ).records
    made: dict[str, _Made] = dict.fromkeys(window.keys, _Made(None, None, archive.let_go))
    for record in reversed(records):  # they come newest first: the newest is written last
        event = record.asset_materialization
        if event and event.partition in made and "archive_version" in event.metadata:
            version, readings = archive_version_of(event, archive.table_id), event.metadata.get(READINGS)
            told = event.metadata.get(LET_GO)
            counted_then = int(str(readings.value)) if readings and version is not None else None
            made[event.partition] = _Made(version, counted_then, LetGo.decoded(str(told.value)) if told else LetGo())
    return made
