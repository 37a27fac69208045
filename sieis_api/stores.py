"""The stores as the API uses them, and the names of the marts it reads.

Belongs here: opening and closing them. Not here: any query.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.hot import AGGREGATE_MARTS, HotStore
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.open import open_archive, open_hot, open_marts

ANOMALIES: Final = "anomalies"
ANOMALY_MODEL: Final = "anomaly_model"
AGGREGATES: Final = AGGREGATE_MARTS


class Stores(NamedTuple):
    """The stores of an installation; archive and marts are made anew for each use: an instance serves one thread."""

    hot: HotStore
    archive: Callable[[], Archive]
    marts: Callable[[], Marts]


def open_stores(settings: Settings) -> Stores:
    """The stores that the settings name."""
    return Stores(open_hot(settings), lambda: open_archive(settings), lambda: open_marts(settings))
