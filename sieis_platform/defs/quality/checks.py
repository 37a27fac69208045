"""Expectations about the archive's readings as asset checks; those that blame the platform stop what is built on them.

Belongs here: which days are judged, how verdicts become check results. Not here: the expectations (analysis/quality).
"""

import time
from collections.abc import Iterator
from typing import Final

import dagster as dg

from sieis_platform.analysis import quality
from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.reading import LINEAGE_SCHEMA, READING_SCHEMA

SPECS: Final = [
    dg.AssetCheckSpec(
        "schema",
        asset=ARCHIVE,
        blocking=True,
        description="Columns and types as agreed, no null key. Error: stops all.",
    ),
    dg.AssetCheckSpec(
        "positions_unique", asset=ARCHIVE, blocking=True, description="No position is stored twice. Error: stops all."
    ),
    dg.AssetCheckSpec(
        "keys_repeated", asset=ARCHIVE, description="Less than 1% of the rows repeat a mote and timestamp."
    ),
    dg.AssetCheckSpec("ranges", asset=ARCHIVE, description="At most 1% of the readings hold an impossible value."),
    dg.AssetCheckSpec("nulls", asset=ARCHIVE, description="Less than 5% of the values of every field are null."),
    dg.AssetCheckSpec(
        "completeness", asset=ARCHIVE, description="At least 90% of the readings expected of the motes seen are there."
    ),
]

_SEVERITIES: Final = {"error": dg.AssetCheckSeverity.ERROR, "warning": dg.AssetCheckSeverity.WARN}

#: Days judged where a check is started by hand, without a partition: the newest ones.
_RECENT_DAYS: Final = 7


@dg.multi_asset_check(name="archive_expectations", specs=SPECS)
def archive_expectations(
    context: dg.AssetCheckExecutionContext, platform: PlatformResource
) -> Iterator[dg.AssetCheckResult]:
    """All expectations over the days of the run, read once."""
    with dagster_failures():
        stored = platform.archive()
        archive = Snapshot.of(stored)
        window = Window.of_tags(context.run.tags) or archive.recent(_RECENT_DAYS)
        with stored.reading():
            rows = archive.rows(window).select([*READING_SCHEMA, *LINEAGE_SCHEMA]).collect()
    end_ns = min(window.end_ns, max(time.time_ns(), window.start_ns))
    for verdict in (
        quality.schema(rows),
        quality.positions_unique(rows),
        quality.keys_repeated(rows),
        quality.ranges(rows),
        quality.nulls(rows),
        quality.completeness(rows, window.start_ns, end_ns),
    ):
        yield dg.AssetCheckResult(
            asset_key=ARCHIVE,
            check_name=verdict.name,
            passed=verdict.passed,
            severity=_SEVERITIES[verdict.severity],
            description=verdict.text,
            metadata={
                "first_day": window.first.isoformat(),
                "last_day": window.last.isoformat(),
                "archive_version": archive.version,
                **verdict.numbers,
            },
        )


def definitions() -> dg.Definitions:
    """The expectations."""
    return dg.Definitions(asset_checks=[archive_expectations])
