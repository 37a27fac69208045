"""Bodies and parameters of the sensor endpoints, as the OpenAPI document shows them.

Belongs here: shapes. Lists are written from columns and never pass through these models; tests hold the two together.
"""

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sieis_api.params import MoteIds, Window


class Values(BaseModel):
    """The four quantities a mote measures; null where it sent none."""

    model_config = ConfigDict(extra="forbid")

    temperature: float | None = Field(description="°C. 122.153 is what a dying battery reports.", examples=[22.5])
    humidity: float | None = Field(description="Relative humidity, %.", examples=[45.3])
    light: float | None = Field(description="lux.", examples=[250.0])
    voltage: float | None = Field(
        description="Battery, V. Below 2.3 V the other values are rarely right.", examples=[2.68]
    )


class ReadingOut(Values):
    """One reading."""

    mote_id: int = Field(examples=[17])
    timestamp: dt.datetime = Field(description="When it was measured (UTC).", examples=["2026-02-19T23:59:59.123456Z"])


class LiveReading(ReadingOut):
    """The newest reading of a mote."""

    age_seconds: float = Field(
        description="How old it is now; negative where it lies ahead of the clock.", examples=[12.4]
    )
    in_fleet: bool = Field(description="False for a mote_id beyond the configured fleet (SIEIS_FLEET_SIZE).")


class LiveReadings(BaseModel):
    """The newest reading of every mote."""

    model_config = ConfigDict(extra="forbid")

    count: int
    readings: list[LiveReading]


class Readings(BaseModel):
    """One page of readings, ascending (timestamp, mote_id)."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(description="Readings in this page.")
    readings: list[ReadingOut]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last one.")
    sources: list[Literal["hot", "archive"]] = Field(
        description="Who gave the rows of this page: the hot store (recent), the archive (everything)."
    )


class ReadingsQuery(Window):
    """Parameters of `/sensors/readings`."""

    mote_id: MoteIds = Field([], description="Only these motes (repeat it); all where absent.", examples=[[1, 17]])
    cursor: str | None = Field(
        None, max_length=64, description="`next_cursor` of the page before; keep the other parameters as they were."
    )
