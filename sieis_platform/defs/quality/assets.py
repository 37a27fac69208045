"""The history of the checks' results and the site made of it.

Belongs here: what they are, where the site lies, when it is made. Not here: who writes the history (results.py).
"""

import dagster as dg
import polars as pl

from sieis_platform.analysis.quality.verdict import RESULTS_SCHEMA
from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import OWNERS, columns, kept, labels, times_of
from sieis_platform.defs.quality.results import RESULTS, RESULTS_LINEAGE
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.assets import HOT_STORE
from sieis_platform.stores.marts import Marts
from sieis_platform.telemetry import silence

#: Days of results the site is made from; the mart keeps all.
_DAYS = 31

quality_results = dg.AssetSpec(
    RESULTS,
    deps=[ARCHIVE, HOT_STORE],
    description="The result of every check: one row a run, check and window of days, with the first unexpected rows.",
    group_name="quality",
    kinds={"deltalake", "great_expectations"},
    owners=OWNERS,
    tags=labels("derived", "marts"),
    metadata={
        **columns(RESULTS_SCHEMA, {"judged_at": "Unix ns, UTC", "results": "Great Expectations' own, JSON"}),
        **RESULTS_LINEAGE,
    },
)


@dg.asset(
    deps=[RESULTS],
    group_name="quality",
    kinds={"great_expectations", "html"},
    owners=OWNERS,
    tags=labels("derived", "folder"),
    pool="data_docs",
    description="Great Expectations' Data Docs: the suites and the newest results of each, as pages that stand alone. "
    "The API shows them at /data-docs/index.html.",
)
def data_docs(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    """Make the site anew."""
    silence()
    from sieis_platform.analysis.quality.docs import build  # noqa: PLC0415 - takes seconds to import

    settings = platform.settings()
    with dagster_failures():
        marts = platform.marts()
        results = _recent(marts)
        version = marts.version(RESULTS.to_user_string()) if results.height else -1
        index = build(results, settings.data_docs_path)
    pages = sum(1 for _ in index.parent.resolve().rglob("*.html"))
    context.log.info("%d pages at %s", pages, settings.data_docs_url)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(index)),
            "url": dg.MetadataValue.url(settings.data_docs_url),
            "pages": dg.MetadataValue.int(pages),
            "results": dg.MetadataValue.int(results.height),
            **kept(
                results.height,
                results.sort("judged_at", descending=True).select("judged_at", "asset", "check_name", "passed", "text"),
                mart_version=version,
                times=times_of(results, "judged_at"),
            ),
        }
    )


def _recent(marts: Marts) -> pl.DataFrame:
    """The results of the last days that have any (RESULTS_SCHEMA)."""
    name = RESULTS.to_user_string()
    if not marts.exists(name):
        return pl.DataFrame(schema=RESULTS_SCHEMA)
    with marts.reading(name):
        table = marts.scan(name)
        days = table.select(pl.col("date").unique().sort().tail(_DAYS)).collect().to_series().to_list()
        return table.filter(pl.col("date") >= days[0]).select(RESULTS_SCHEMA.names()).collect()


build_data_docs = dg.define_asset_job(
    "build_data_docs",
    tags={"dagster/max_runtime": "1800"},
    selection=dg.AssetSelection.assets("data_docs"),
    description="Make the site of the checks' results anew.",
)


# Not part of the jobs that check: what comes after a blocking check does not run where it failed, and then above all
# the site is wanted. The refresh of five past the hour takes seconds.
@dg.schedule(
    cron_schedule="15 * * * *",
    target=build_data_docs,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Hourly, after the refresh.",
)
def data_docs_schedule(
    context: dg.ScheduleEvaluationContext, platform: PlatformResource
) -> dg.RunRequest | dg.SkipReason:
    """Once there are results."""
    if not platform.marts().exists(RESULTS.to_user_string()):
        return dg.SkipReason("no check has been made yet; there is nothing to show")
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())
