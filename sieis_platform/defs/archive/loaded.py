"""Days that a load has filled, told of the asset `historical_readings`: `sieis load` itself knows nothing of Dagster.

Belongs here: the sensor and which days it tells of. Not here: loads (sieis_platform/history.py); backfills, which tell
of their days themselves (historical.py).
"""

import datetime as dt
from collections.abc import Collection, Iterator
from typing import Final

import dagster as dg
import polars as pl

from sieis_platform.defs.archive.historical import HISTORY
from sieis_platform.defs.archive.told import told_of
from sieis_platform.defs.partitions import Window, history_partitions
from sieis_platform.defs.resources import NO_ARCHIVE, PlatformResource
from sieis_platform.errors import RetriableError
from sieis_platform.history import SOURCE, is_whole
from sieis_platform.reading import ARCHIVE_PARTITIONS
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.files import TableFiles

_LOOK_SECONDS: Final = 60


@dg.sensor(
    name="loaded_history",
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Tells of the days of history that a load has filled, once the whole file is loaded, so that they do not show "
        "as missing."
    ),
)
def loaded_history(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult | dg.SkipReason:
    """One materialization of each day that has none yet and holds rows of a file that was loaded to its end."""
    settings, archive = platform.settings(), platform.archive()
    if not archive.exists():
        return dg.SkipReason(NO_ARCHIVE)
    keys = history_partitions(settings).get_partition_keys()
    missing = {dt.date.fromisoformat(key) for key in keys}
    missing -= {dt.date.fromisoformat(key) for key in context.instance.get_materialized_partitions(HISTORY)}
    try:
        files = archive.files()
        seen = f"{files.table_id}/{files.version}"
        if context.cursor == seen:
            return dg.SkipReason("the archive is as it was at the last look")
        told = [
            dg.AssetMaterialization(
                HISTORY,
                partition=day.isoformat(),
                metadata={
                    **(metadata := told_of(archive, files, Window(day, day))),
                    "archive_version": metadata["version"],
                    "loaded_from": ", ".join(sources),
                },
            )
            for day, sources in _filled(archive, files, missing)
        ]
    except RetriableError as error:
        return dg.SkipReason(str(error))
    if not told:
        return dg.SensorResult(skip_reason="no load has filled a day that was not told of", cursor=seen)
    return dg.SensorResult(asset_events=told, cursor=seen)


def _filled(archive: Archive, files: TableFiles, days: Collection[dt.date]) -> Iterator[tuple[dt.date, list[str]]]:
    """Those of the `days` that hold rows of wholly loaded files, ascending, each with these sources.

    Raises: ArchiveUnavailableError, ArchiveError.
    """
    # From the log: most looks end here, and read no row.
    held = [day for day in archive.rows_by_day(files) if day in days]
    if not held:
        return
    with archive.reading():
        rows = (
            archive.scan_files(files, held[0], held[-1])
            .filter(pl.col("source").str.starts_with(SOURCE))
            .group_by(pl.concat_str(ARCHIVE_PARTITIONS).str.to_date("%Y%m%d").alias("day"))
            .agg(pl.col("source").unique().sort())
            .sort("day")
            .collect(engine="streaming")
        )
    table = archive.table()
    whole = {source for source in rows["source"].explode().unique() if is_whole(archive, source, table)}
    for day, sources in rows.iter_rows():
        if day in days and (from_whole := [source for source in sources if source in whole]):
            yield day, from_whole


def definitions() -> dg.Definitions:
    """The sensor."""
    return dg.Definitions(sensors=[loaded_history])
