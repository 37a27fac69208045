"""The two stores compared: inside the hot retention both must hold the same readings.

Belongs here: that comparison. Not here: what was sent (harness.py), nor waiting until a store has caught up.
"""

import time

import polars as pl

from sieis_platform.reading import FIELDS, KEY
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.timeline import DAY_NS

_EDGE_NS = 3_600 * 1_000_000_000
"""What is about to leave the hot store is not compared: it may go between the two reads."""

_SHOWN = 5


def hot_equals_archive(settings: Settings) -> int:
    """Assert that hot store and archive hold the same (mote_id, timestamp, values); the number of readings compared.

    Of the last `hot_retention_days` but their first hour. Of conflicting readings of one key the last one counts, in
    both. Values are compared as float32, null equal to null. The archive is read first: a reading written in between
    is then in the hot store only, and the comparison fails, so both must stand still.
    """
    start_ns = time.time_ns() - settings.hot_retention_days * DAY_NS + _EDGE_NS
    columns = [*KEY, *FIELDS]
    archive = open_archive(settings)
    with archive.reading():
        archived = archive.scan(start_ns).select(columns).collect()
    hot = open_hot(settings)
    try:
        held = hot.readings(start_ns, 1 << 62).select(columns)
    finally:
        hot.close()
    differences = {
        "only in the archive": archived.join(held, on=KEY, how="anti"),
        "only in the hot store": held.join(archived, on=KEY, how="anti"),
        "with other values in the hot store": archived.join(held, on=KEY, how="semi").join(
            held, on=columns, how="anti", nulls_equal=True
        ),
        "twice in the hot store": held.filter(pl.struct(KEY).is_duplicated()),
    }
    found = [
        f"{frame.height} readings {what}: {frame.sort(KEY).head(_SHOWN).rows()}"
        for what, frame in differences.items()
        if not frame.is_empty()
    ]
    assert not found, f"{archived.height} archived, {held.height} hot; " + "; ".join(found)
    return archived.height
