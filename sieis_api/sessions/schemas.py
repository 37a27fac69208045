"""Bodies of the session endpoints, as the OpenAPI document shows them.

Belongs here: shapes; tests hold the answers to them.
"""

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Opened(BaseModel):
    """A session that was opened; its token is in the cookie alone."""

    model_config = ConfigDict(extra="forbid")

    ends_at: dt.datetime = Field(description="When it ends (UTC).", examples=["2026-02-20T11:59:59Z"])


class Session(BaseModel):
    """Whether the cookie of this request stands for the API key."""

    model_config = ConfigDict(extra="forbid")

    needed: bool = Field(description="False where no SIEIS_API_KEY is set: there is nothing to sign in to.")
    signed_in: bool = Field(description="Whether the cookie that was sent is one of an open session.")
    ends_at: dt.datetime | None = Field(
        description="When the session ends (UTC); null without one.", examples=["2026-02-20T11:59:59Z"]
    )


class Ended(BaseModel):
    """How far it is known that the session has ended."""

    model_config = ConfigDict(extra="forbid")

    ended: Literal["everywhere", "here"] = Field(
        description="`here`: Redis does not answer; the other processes of the API learn of it as soon as it does."
    )
