"""The archive put together. Belongs here: assembly. Not here: assets, jobs."""

import dagster as dg

from sieis_platform.defs.archive import assets, jobs, loaded, upkeep


def definitions(days: dg.DailyPartitionsDefinition) -> dg.Definitions:
    """The archive, its care, when it is cared for, and what loads have filled."""
    return dg.Definitions.merge(
        assets.definitions(), upkeep.definitions(days), jobs.definitions(), loaded.definitions()
    )
