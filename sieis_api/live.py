"""The newest reading of every mote, held for a second for all who ask.

Belongs here: what several parts need of it (sensors, motes, health). Not here: the answers they make of it.
"""

import io
import time
from typing import Final, NamedTuple

import polars as pl

from sieis_api.cache import Cache, Slot
from sieis_api.coalesce import Coalesced
from sieis_api.envelope import iso
from sieis_platform.reading import FIELDS
from sieis_platform.stores.hot import HotStore

#: Motes report every 30 s; a second more does not show, and 50 clients cost the store one query (DESIGN 7).
MAX_AGE_SECONDS: Final = 1.0
_NS: Final = 1_000_000_000
_SCHEMA: Final = pl.Schema(
    {
        "mote_id": pl.Int32,
        "ns": pl.Int64,
        "timestamp": pl.String,
        **dict.fromkeys(FIELDS, pl.Float32),
        "in_fleet": pl.Boolean,
    }
)


class Latest(NamedTuple):
    """One row a mote, ascending: mote_id, ns (Unix), timestamp (ISO 8601 text), the values, in_fleet."""

    frame: pl.DataFrame

    @property
    def newest_ns(self) -> int | None:
        """Time of the newest reading of all, or None where there is none."""
        return None if self.frame.is_empty() else int(self.frame["ns"].max())  # pyright: ignore[reportArgumentType] - Int64

    def with_age(self, now_ns: int | None = None) -> pl.DataFrame:
        """The rows as the API gives them: `age_seconds` (negative: ahead of the clock) instead of `ns`."""
        now = time.time_ns() if now_ns is None else now_ns
        age = ((now - pl.col("ns")) / _NS).round(3).alias("age_seconds")
        return self.frame.select("mote_id", "timestamp", *FIELDS, age, "in_fleet")


def load_latest(hot: HotStore, fleet_size: int) -> Latest:
    """Ask the hot store (blocking). Raises: HotStoreUnavailableError, HotStoreError."""
    frame = hot.latest()
    return Latest(
        frame.select(
            "mote_id",
            pl.col("timestamp").alias("ns"),
            iso("timestamp"),
            *FIELDS,
            pl.col("mote_id").le(fleet_size).alias("in_fleet"),
        )
    )


def coalesced(hot: HotStore, fleet_size: int, cache: Cache) -> Coalesced[Latest]:
    """`load_latest` at most once a second, however many ask, in whatever processes share `cache`."""
    slot = Slot(cache, f"live:{fleet_size}", _encode, _decode)
    return Coalesced(lambda: load_latest(hot, fleet_size), MAX_AGE_SECONDS, shared=slot)


def _encode(latest: Latest) -> bytes:
    buffer = io.BytesIO()
    latest.frame.write_ipc(buffer)  # 54 motes: 4 kB
    return buffer.getvalue()


def _decode(kept: bytes) -> Latest | None:
    try:
        frame = pl.read_ipc(io.BytesIO(kept))
    except (pl.exceptions.PolarsError, OSError):
        return None
    return Latest(frame) if frame.schema == _SCHEMA else None
