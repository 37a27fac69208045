"""The rollups put together. Belongs here: assembly. Not here: assets, checks."""

import dagster as dg

from sieis_platform.defs.rollups.assets import MARTS, rollup_asset
from sieis_platform.defs.rollups.checks import counts_check


def definitions(days: dg.DailyPartitionsDefinition) -> dg.Definitions:
    """Both periods' aggregates and the checks between them and what is built on them."""
    return dg.Definitions(
        assets=[rollup_asset(period, days) for period in MARTS],
        asset_checks=[counts_check(period) for period in MARTS],
    )
