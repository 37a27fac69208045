"""Bodies and parameters of the analytics endpoints, as the OpenAPI document shows them.

Belongs here: shapes. Lists are written from columns and never pass through these models; tests hold the two together.
"""

import datetime as dt
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from sieis_api.params import BuildingOrMoteIds, MoteIds, Window
from sieis_platform.reading import FIELDS, QUANTITIES
from sieis_platform.stores.hot import SHORT_NAMES, STATISTICS, Period

_STATISTIC_NAMES = {
    "avg": "Mean",
    "min": "Minimum",
    "max": "Maximum",
    "std": "Sample standard deviation",
    "median": "Median",
}


class _AggregateBase(BaseModel):
    """One mote (0: the whole building) and one hour or day."""

    model_config = ConfigDict(extra="forbid")

    mote_id: int = Field(description="0 is the whole building.", examples=[17])
    period_start: dt.datetime = Field(description="When it begins (UTC).", examples=["2026-02-19T23:00:00Z"])
    record_count: int = Field(description="Readings in the period.", examples=[118])
    null_count: int = Field(description="Values that were missing, over the four quantities.")
    out_of_range_count: int = Field(description="Values that are physically impossible; they are in no statistic.")


# The columns come from where the stores take them: a statistic more there is a field more here.
_statistics: dict[str, Any] = {
    f"{SHORT_NAMES[field]}_{statistic}": (
        float | None,
        Field(description=f"{_STATISTIC_NAMES[statistic]} of {field}, {QUANTITIES[field].unit}; null: no valid value."),
    )
    for field in FIELDS
    for statistic in STATISTICS
}
Aggregate = create_model("Aggregate", __base__=_AggregateBase, __doc__=_AggregateBase.__doc__, **_statistics)


class Aggregates(BaseModel):
    """Aggregates, ascending (period_start, mote_id)."""

    model_config = ConfigDict(extra="forbid")

    count: int
    period: Period
    truncated: bool = Field(description="True where more matched than `limit`: these are the newest of them.")
    aggregates: list[Aggregate]  # pyright: ignore[reportInvalidTypeForm] - made by create_model


class AggregatesQuery(Window):
    """Parameters of `/analytics/aggregates`."""

    period: Period = Field("hourly", description="Length of the periods.")
    mote_id: BuildingOrMoteIds = Field(
        [], description="Only these motes (repeat it); 0 is the whole building; all where absent.", examples=[[0]]
    )


class Model(BaseModel):
    """The model that scores readings now."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(examples=["sieis-anomaly"])
    version: str = Field(description="Version in the model registry.", examples=["3"])
    trained_at: dt.datetime = Field(examples=["2026-02-19T02:10:00Z"])
    threshold: float = Field(description="A reading with a higher score is an anomaly.", examples=[0.61])


class Anomaly(BaseModel):
    """One reading that the model finds strange, with the model that found it."""

    model_config = ConfigDict(extra="forbid")

    mote_id: int = Field(examples=[17])
    timestamp: dt.datetime = Field(examples=["2026-02-19T23:59:59.123456Z"])
    score: float = Field(description="The higher, the stranger.", examples=[0.74])
    threshold: float = Field(description="The score it had to pass.", examples=[0.61])
    temperature: float | None = Field(description="°C", examples=[122.153])
    humidity: float | None = Field(description="Relative humidity, %", examples=[-3.9])
    light: float | None = Field(description="lux", examples=[11.04])
    voltage: float | None = Field(description="V", examples=[2.07])
    model_name: str
    model_version: str


class Anomalies(BaseModel):
    """Anomalies, the newest first."""

    model_config = ConfigDict(extra="forbid")

    count: int
    truncated: bool = Field(description="True where more matched than `limit`: these are the newest of them.")
    model: Model | None = Field(description="Null until a model has been trained.")
    anomalies: list[Anomaly]


class AnomaliesQuery(Window):
    """Parameters of `/analytics/anomalies`."""

    mote_id: MoteIds = Field([], description="Only these motes (repeat it); all where absent.", examples=[[1, 17]])
