"""Bodies of the mote endpoints, as the OpenAPI document shows them.

Belongs here: shapes; tests hold the answers to them.
"""

import datetime as dt

from pydantic import BaseModel, ConfigDict, Field


class Mote(BaseModel):
    """One mote."""

    model_config = ConfigDict(extra="forbid")

    mote_id: int = Field(examples=[17])
    x: float | None = Field(
        description="Metres from the plan's right edge, as the lab publishes it; null where it is not on the plan.",
        examples=[7.5],
    )
    y: float | None = Field(description="Metres from the floor plan's upper edge.", examples=[31.0])
    last_seen: dt.datetime | None = Field(
        description="Time of its newest reading (UTC); null where it sent none in the hot retention.",
        examples=["2026-02-19T23:59:59.123456Z"],
    )
    in_fleet: bool = Field(description="False for a mote_id beyond the configured fleet (SIEIS_FLEET_SIZE).")


class Motes(BaseModel):
    """The fleet, and whoever else was heard, ascending mote_id."""

    model_config = ConfigDict(extra="forbid")

    count: int
    motes: list[Mote]
