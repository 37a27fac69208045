"""The list of motes: the fleet, the floor plan and the live readings put together.

Belongs here: that. Not here: HTTP.
"""

import asyncio

import polars as pl

from sieis_api.deps import State


async def motes(state: State) -> pl.DataFrame:
    """Every mote of the fleet and every other that was heard, ascending: mote_id, x, y, last_seen, in_fleet.

    Raises: HotStoreUnavailableError, FloorPlanError.
    """
    live = (await state["live"].get()).frame
    positions = await asyncio.to_thread(state["floor_plan"].positions)
    size = state["settings"].fleet_size
    fleet = pl.select(pl.int_range(1, size + 1, dtype=pl.Int32()).alias("mote_id"))
    return (
        pl.concat([fleet, live.select("mote_id")])
        .unique()
        .join(positions, on="mote_id", how="left")
        .join(live.select("mote_id", pl.col("timestamp").alias("last_seen")), on="mote_id", how="left")
        .with_columns(pl.col("mote_id").le(size).alias("in_fleet"))
        .sort("mote_id")
    )
