"""The dashboard's own few settings: where the API is and how to be let in.

Belongs here: these settings. Not here: settings of the platform, which the dashboard knows only through the API.
"""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class UiSettings(BaseSettings):
    """Configuration of the dashboard; the environment wins over `.env`, which wins over the defaults."""

    model_config = SettingsConfigDict(env_prefix="SIEIS_", env_file=".env", extra="ignore", hide_input_in_errors=True)

    api_url: str = Field(
        default="http://127.0.0.1:8000",
        pattern=r"^https?://\S+$",
        description="Address of the SIEIS API.",
    )
    api_key: SecretStr | None = Field(
        default=None, description="Key sent to the API as X-API-Key; unset: none is sent."
    )
    ui_refresh_seconds: float = Field(
        default=3, ge=1, le=3600, description="Time between two refreshes of a dashboard page."
    )
    ui_timeout_seconds: float = Field(default=5, gt=0, le=60, description="Longest wait for one answer of the API.")
