"""The floor plan: where each mote hangs, from a text file of `mote_id x y` lines (metres).

Belongs here: reading that file, again when it changes. Not here: what is shown with it.
"""

import threading
from typing import Final

import polars as pl
import structlog

from sieis_platform.errors import FatalError
from sieis_platform.reading import MAX_MOTE_ID
from sieis_platform.settings import Settings

log = structlog.get_logger(__name__)

SCHEMA: Final = pl.Schema({"mote_id": pl.Int32(), "x": pl.Float64(), "y": pl.Float64()})
#: The lab's plan has 54 lines; a file far beyond any building's is not a floor plan.
_MAX_BYTES: Final = 10 << 20


class FloorPlanError(FatalError):
    """SIEIS_MOTE_LOCATIONS names a file that cannot be read."""


class FloorPlan:
    """Positions of the motes; without a file nobody has one. Safe for several threads."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.mote_locations or settings.data_dir / "data" / "mote_locs.txt"
        self._asked_for = settings.mote_locations is not None
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, int], pl.DataFrame] | None = None

    def positions(self) -> pl.DataFrame:
        """Columns mote_id, x, y, one row a mote; the last line of a mote wins.

        A file that was asked for and cannot be read raises FloorPlanError; the default one may be missing. A file that
        changed is read again.
        """
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            with self._lock:
                if self._read is None or self._read[0] != stamp:
                    self._read = (stamp, self._parse())
                return self._read[1]
        except OSError as error:
            if self._asked_for:
                raise FloorPlanError(f"SIEIS_MOTE_LOCATIONS={self._path} cannot be read: {error.strerror}") from error
            return pl.DataFrame(schema=SCHEMA)

    def _parse(self) -> pl.DataFrame:
        with self._path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", errors="replace")
        lines = pl.DataFrame({"line": text.splitlines()}, schema={"line": pl.String()}).filter(
            ~pl.col("line").str.strip_chars().str.starts_with("#"), pl.col("line").str.strip_chars() != ""
        )
        words = pl.col("line").str.extract_all(r"\S+")
        motes = lines.select(
            words.list.get(0, null_on_oob=True).cast(pl.Int32(), strict=False).alias("mote_id"),
            words.list.get(1, null_on_oob=True).cast(pl.Float64(), strict=False).alias("x"),
            words.list.get(2, null_on_oob=True).cast(pl.Float64(), strict=False).alias("y"),
        )
        good = motes.filter(pl.col("mote_id").is_between(1, MAX_MOTE_ID), pl.col("x", "y").is_finite())
        if good.height < motes.height:
            skipped = motes.height - good.height
            log.warning("floor plan has lines that are not `mote_id x y`", path=str(self._path), skipped=skipped)
        return good.unique("mote_id", keep="last").sort("mote_id")
