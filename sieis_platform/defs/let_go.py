"""Deriving days of which the retention has let readings go: their rows of a mart are taken over, not derived.

Belongs here: which rows, and which windows are refused. Not here: what was let go (stores/let_go.py).
"""

import polars as pl

from sieis_platform.defs.partitions import Window
from sieis_platform.errors import FatalError
from sieis_platform.stores.let_go import LetGo
from sieis_platform.stores.marts import Marts


class LetGoError(FatalError):
    """Of none of the days asked for does the archive hold what it would take to derive them."""


def require_derivable(gone: LetGo, window: Window) -> None:
    """Raises: LetGoError where every reading of every day of the window was let go."""
    last = gone.wholly_until
    if last is not None and window.last <= last:
        raise LetGoError(
            f"the archive has let go of all readings up to {last} (SIEIS_ARCHIVE_RETENTION_DAYS): {window.first} to "
            f"{window.last} cannot be derived again, and what was derived of them stays as it is; choose days after "
            f"{last}"
        )


def taken_over(marts: Marts, mart: str, gone: LetGo, window: Window) -> pl.DataFrame | None:
    """Rows of a mart that stand for readings let go, and of the building (mote 0) on the window's days.

    None where nothing of the window was let go, or the mart is not there yet. Raises: MartUnavailableError, MartError.
    """
    if not gone.reaches(window.first) or not marts.exists(mart):
        return None
    with marts.reading(mart):
        date = pl.col("date")
        in_window = date.is_between(pl.lit(window.keys[0]), pl.lit(window.keys[-1]))
        chosen = (pl.col("mote_id") == 0) | gone.rows(date)
        return marts.scan(mart).filter(in_window).filter(chosen).collect()
