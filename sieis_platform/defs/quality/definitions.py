"""Quality put together. Belongs here: assembly. Not here: checks, assets, schedules."""

import dagster as dg

from sieis_platform.defs.quality.assets import build_data_docs, data_docs, data_docs_schedule, quality_results
from sieis_platform.defs.quality.checks import archive_expectations, hot_store_expectations


def definitions() -> dg.Definitions:
    """The expectations, their history, and the site."""
    return dg.Definitions(
        assets=[quality_results, data_docs],
        asset_checks=[archive_expectations, hot_store_expectations],
        jobs=[build_data_docs],
        schedules=[data_docs_schedule],
    )
