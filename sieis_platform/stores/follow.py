"""The hot store made to follow the archive where readings were changed or deleted there.

Belongs here: which readings are deleted and written for it. Not here: how they changed (corrections.py, rebuild.py).
"""

from collections.abc import Callable

import polars as pl

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.hot import HotStore

Archived = Callable[[int, int, int], pl.DataFrame]
"""What the archive holds of start_ns <= timestamp < end_ns and one mote: its arguments, in this order."""


def follow(hot: HotStore, archived: Archived, keys: pl.DataFrame, *, delete: bool) -> int:
    """Write the archived readings of `keys` (columns mote_id, timestamp) again; how many there were.

    With `delete` some of them are archived no longer: then all between the first and last key of each mote is replaced
    by what is archived. No further: what comes later may not have reached the archive yet.

    Raises: HotStoreUnavailableError, HotStoreError, and what `archived` raises.
    """
    spans = keys.group_by("mote_id").agg(
        pl.col("timestamp").min().alias("first"), (pl.col("timestamp").max() + 1).alias("end")
    )
    written = 0
    for mote, first, end in spans.sort("mote_id").iter_rows():
        rows = archived(first, end, mote).select(READING_SCHEMA.names())
        if delete:
            hot.delete_readings(first, end, [mote])
        else:
            rows = rows.join(keys.filter(mote_id=mote).select("timestamp").unique(), on="timestamp", how="semi")
        hot.write_readings(rows.sort("timestamp"))
        written += rows.height
    return written
