"""All definitions of the platform, put together for one installation.

Belongs here: assembly from settings. Not here: any definition. Nothing is opened; only the files of timeline
and first day are read.
"""

import dagster as dg

from sieis_platform.defs.archive import definitions as archive
from sieis_platform.defs.archive.historical import historical_asset
from sieis_platform.defs.ml import assets as ml
from sieis_platform.defs.operations import (
    alerting,
    dead_letters,
    freshness,
    hot_retention,
    inbox,
    jobs,
    rebuild,
    run_history,
    ticks,
)
from sieis_platform.defs.partitions import daily_partitions, history_partitions
from sieis_platform.defs.quality import definitions as quality
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups import definitions as rollups
from sieis_platform.defs.rollups.late import late_data
from sieis_platform.defs.stream import assets as stream
from sieis_platform.defs.stream import report
from sieis_platform.settings import Settings


def build_definitions(settings: Settings, platform: PlatformResource | None = None) -> dg.Definitions:
    """The definitions of the installation that `settings` describes; `platform` replaces the resource made of them.

    Steps run in one process: each takes seconds, and starting a process for it would take as long again.
    """
    days = daily_partitions(settings)
    return dg.Definitions.merge(
        stream.definitions(settings),
        archive.definitions(days),
        quality.definitions(),
        rollups.definitions(days),
        ml.definitions(days),
        jobs.definitions(),
        report.definitions(),
        alerting.definitions(),
        freshness.definitions(),
        ticks.definitions(),
        dead_letters.definitions(),
        inbox.definitions(settings),
        rebuild.definitions(),
        hot_retention.definitions(),
        run_history.definitions(),
        dg.Definitions(assets=[historical_asset(history_partitions(settings))], sensors=[late_data]),
        dg.Definitions(
            resources={"platform": platform or PlatformResource.of(settings)}, executor=dg.in_process_executor
        ),
    )
