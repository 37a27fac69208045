"""What is told of the hot store with every event about it: rows, time range, the live values.

Belongs here: that metadata. Not here: who tells it, and what else.
"""

import time
from typing import Any

from sieis_platform.defs.metadata import moment, preview_of
from sieis_platform.stores.hot import HotStore


def told_of_hot(hot: HotStore) -> dict[str, Any]:
    """Metadata of the hot store as it is now. Raises: HotStoreUnavailableError, HotStoreError."""
    latest = hot.latest()
    first = hot.readings(0, time.time_ns(), limit=1)
    newest = latest["timestamp"].max()
    return {
        "dagster/row_count": hot.count_readings(),
        "first": moment(first["timestamp"][0] / 1e9) if first.height else "never",
        "last": moment(newest / 1e9) if isinstance(newest, int) else "never",
        "motes": latest.height,
        "preview": preview_of(latest),
    }
