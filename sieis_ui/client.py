"""The typed client of the SIEIS API: one method an endpoint, answers as models, failures as named errors.

Belongs here: HTTP, the envelope, the shapes. Not here: anything Streamlit, and what a page makes of the answers.
The errors stand apart from sieis_platform.errors because the dashboard imports none of the other packages.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from sieis_ui.config import UiSettings

_API = "/api/v1"
M = TypeVar("M", bound=BaseModel)


class ApiError(Exception):
    """Base of what can go wrong between the dashboard and the API; the text is fit for a person to read."""


class ApiUnreachableError(ApiError):
    """Nothing answers at the API's address, or not in time."""


class ApiUnauthorisedError(ApiError):
    """The API wants a key, or another one than it was sent."""


class ApiRefusedError(ApiError):
    """The API answered with an error of its own (text: its code and message); one panel is affected, not the page."""


class ApiAnswerError(ApiError):
    """The answer has not the agreed shape: another program, or another version, listens at that address."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Reading(_Model):
    """The newest reading of one mote; values in °C, %RH, lux and V, null where the mote sent none."""

    mote_id: int
    timestamp: AwareDatetime
    temperature: float | None = None
    humidity: float | None = None
    light: float | None = None
    voltage: float | None = None
    age_seconds: float
    in_fleet: bool = True


class Mote(_Model):
    """A mote and where it stands (metres), if the platform knows."""

    mote_id: int
    x: float | None = None
    y: float | None = None
    last_seen: AwareDatetime | None = None
    in_fleet: bool = True


class Aggregate(_Model):
    """One period of one mote (0: the building); a statistic is null where nothing was plausible."""

    model_config = ConfigDict(frozen=True, extra="allow")

    mote_id: int
    period_start: AwareDatetime
    record_count: int
    null_count: int = 0
    out_of_range_count: int = 0

    def value(self, name: str) -> float | None:
        """A statistic such as `temp_avg`."""
        value = (self.model_extra or {}).get(name)
        return float(value) if isinstance(value, int | float) else None


class Anomaly(_Model):
    """One reading that a model finds strange (the higher the score, the stranger)."""

    mote_id: int
    timestamp: AwareDatetime
    score: float
    threshold: float | None = None
    temperature: float | None = None
    humidity: float | None = None
    light: float | None = None
    voltage: float | None = None


class Model(_Model):
    """The model behind the anomalies."""

    name: str
    version: str | int
    trained_at: AwareDatetime | None = None
    threshold: float | None = None


class Anomalies(_Model):
    """Anomalies of a window, and the model that found them (None: none has been trained yet)."""

    count: int
    truncated: bool = False
    model: Model | None = None
    anomalies: tuple[Anomaly, ...] = ()


class Component(_Model):
    """One part of the platform as /health sees it."""

    status: str
    detail: str | None = None


class Health(_Model):
    """The platform's own account of itself."""

    status: str
    version: str = ""
    components: Mapping[str, Component] = {}


class ApiClient:
    """Calls the API; safe to share between threads.

    Every method raises ApiUnreachableError, ApiUnauthorisedError, ApiRefusedError or ApiAnswerError.
    """

    def __init__(self, settings: UiSettings) -> None:
        headers = {"Accept": "application/json"}
        if settings.api_key is not None:
            headers["X-API-Key"] = settings.api_key.get_secret_value()
        self.url = settings.api_url.rstrip("/")
        # A proxy of the environment must not come between the dashboard and an API on the same machine.
        loopback = httpx.URL(self.url).host in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(
            base_url=self.url + _API,
            headers=headers,
            timeout=settings.ui_timeout_seconds,
            trust_env=not loopback,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the connections."""
        self._http.close()

    def health(self) -> Health:
        """The platform's state; also where it is down (status 503 carries the same account)."""
        return self._parse(Health, self._get("/health", accept=(200, 503)))

    def latest(self) -> tuple[Reading, ...]:
        """The newest reading of every mote."""
        return self._parse_list(Reading, self._get("/sensors/latest"), "readings")

    def motes(self) -> tuple[Mote, ...]:
        """Every mote the platform knows of."""
        return self._parse_list(Mote, self._get("/motes"), "motes")

    def hourly(self, mote_id: int = 0) -> tuple[Aggregate, ...]:
        """The last 24 h of hourly aggregates that there are, of a mote (0: the whole building)."""
        query = {"period": "hourly", "mote_id": mote_id}
        return self._parse_list(Aggregate, self._get("/analytics/aggregates", query), "aggregates")

    def anomalies(self, limit: int) -> Anomalies:
        """The newest `limit` of the last seven days of anomalies that there are, and their model."""
        return self._parse(Anomalies, self._get("/analytics/anomalies", {"limit": limit}))

    def _get(
        self,
        path: str,
        query: Mapping[str, str | int] | None = None,
        accept: Sequence[int] = (200,),
    ) -> Any:
        try:
            answer = self._http.get(path, params=query)
        except httpx.TimeoutException as error:
            raise ApiUnreachableError(f"The API at {self.url} did not answer in time.") from error
        except httpx.HTTPError as error:
            raise ApiUnreachableError(f"Nothing answers at {self.url}.") from error
        if answer.status_code in (401, 403):
            raise ApiUnauthorisedError(f"The API at {self.url} does not accept this dashboard's key.")
        try:
            envelope = answer.json()
            data = envelope["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise ApiAnswerError(
                f"What answers at {self.url} is not the SIEIS API (status {answer.status_code})."
            ) from error
        if answer.status_code not in accept or (envelope.get("status") == "error" and "components" not in (data or {})):
            raise ApiRefusedError(_refusal(answer.status_code, data))
        return data

    def _parse(self, model: type[M], data: Any) -> M:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the answer"
            raise ApiAnswerError(
                f"The API at {self.url} sent {field!r} in another shape than this version expects."
            ) from error

    def _parse_list(self, model: type[M], data: Any, key: str) -> tuple[M, ...]:
        rows = data.get(key) if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise ApiAnswerError(f"The API at {self.url} sent no {key!r}.")
        return tuple(self._parse(model, row) for row in rows)


def _refusal(status: int, data: Any) -> str:
    if isinstance(data, dict) and isinstance(data.get("message"), str):
        return f"{data['message']} ({data.get('code', status)})"
    return f"The API answered with status {status}."
