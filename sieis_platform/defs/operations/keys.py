"""Keys of the assets that operations keep, for those that depend on them.

Belongs here: the keys. Not here: the assets.
"""

from typing import Final

import dagster as dg

INBOX: Final = dg.AssetKey("inbox")
ALERTS: Final = dg.AssetKey("alerts")
RUN_HISTORY: Final = dg.AssetKey("run_history")
