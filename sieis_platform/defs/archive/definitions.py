"""The archive put together. Belongs here: assembly. Not here: assets, jobs."""

import dagster as dg

from sieis_platform.defs.archive import assets, jobs, upkeep


def definitions(days: dg.DailyPartitionsDefinition) -> dg.Definitions:
    """The archive, its care, and when it is cared for."""
    return dg.Definitions.merge(assets.definitions(), upkeep.definitions(days), jobs.definitions())
