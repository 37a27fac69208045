"""History as an asset of days: gaps filled from the file of readings, or days replaced by it.

Belongs here: partitions, configuration and metadata. Not here: how a day is filled (sieis_platform/backfill.py).
"""

from typing import Final

import dagster as dg

from sieis_platform import crash
from sieis_platform.backfill import Backfill, history_file
from sieis_platform.defs.archive.told import told_of
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import OWNERS, columns, labels
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.stores.archive import ARCHIVE_SCHEMA

HISTORY: Final = dg.AssetKey("historical_readings")


class BackfillConfig(dg.Config):
    """How days are filled."""

    replace: bool = False
    """Put the file's rows in place of whatever the days hold, instead of only adding what is missing."""


def historical_asset(days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset of the days of history: a run over any range of days fills exactly those."""

    @dg.asset(
        key=HISTORY,
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="archive",
        pool="archive",  # one run at a time rewrites the archive's files
        kinds={"polars", "deltalake"},
        owners=OWNERS,
        tags=labels("raw", "archive"),
        description=(
            "Readings of the days before the stream began, from their file into the archive and, where recent enough, "
            "into the hot store. A run adds what is missing and nothing twice; with `replace: true` it puts the "
            "file's rows in place of whatever the days hold."
        ),
        metadata=columns(ARCHIVE_SCHEMA),
    )
    def historical_readings(
        context: dg.AssetExecutionContext, config: BackfillConfig, platform: PlatformResource
    ) -> dg.MaterializeResult:
        window = Window.of_keys(context.partition_key_range)
        settings = platform.settings()
        crash.arm(settings.crash_at)
        with dagster_failures(), platform.hot() as hot:
            archive = platform.archive()
            done = Backfill(settings, hot, archive).fill(
                history_file(settings), window.first, window.last, replace=config.replace
            )
            told = told_of(archive, archive.files(), window)
        context.log.info("%d of %d rows were missing from %s to %s", done.added, done.rows, window.first, window.last)
        return dg.MaterializeResult(
            metadata={
                **told,
                "file": dg.MetadataValue.text(done.file),
                "fingerprint": dg.MetadataValue.text(done.fingerprint),
                "archive_version": told["version"],
                "rows_in_file": dg.MetadataValue.int(done.rows),
                "rows_added": dg.MetadataValue.int(done.added),
                "rows_removed": dg.MetadataValue.int(done.removed),
                "rows_changed": dg.MetadataValue.int(done.changed),
                "rows_hot": dg.MetadataValue.int(done.rows_hot),
                "seconds": dg.MetadataValue.float(done.seconds),
                "rows_by_day": dg.MetadataValue.json({str(day): rows for day, rows in done.rows_by_day.items()}),
            }
        )

    return historical_readings
