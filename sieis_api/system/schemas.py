"""Bodies of the system endpoints, as the OpenAPI document shows them.

Belongs here: shapes; tests hold the answers to them.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sieis_api.envelope import ErrorBody, Meta


class Component(BaseModel):
    """One part that the API needs."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["ok", "empty", "down"] = Field(description="`empty`: works, and holds nothing yet.")
    detail: str = Field(
        description="What it holds, or what is wrong with it.", examples=["54 motes, newest reading 3 s old"]
    )


class Health(BaseModel):
    """State of the platform as the API sees it."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["ok", "degraded", "down"] = Field(
        description="`down`: a required part is (hot_store). `degraded`: another one is; live values still come."
    )
    version: str = Field(description="Version of SIEIS; empty for callers without the key.", examples=["0.1.0"])
    components: dict[str, Component] = Field(description="Part by part; empty for callers without the key.")


class HealthDown(ErrorBody, Health):
    """The same report where a required part is down."""


class HealthDownEnvelope(BaseModel):
    """Health with status 503."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["error"]
    data: HealthDown
    meta: Meta
