"""What `SIEIS_PROFILE=services` asks of the settings: a server for every part.

Belongs here: which settings that takes, and the one error that names all that are missing. Not here: whether a server
answers; what the embedded profile ignores (sieis_platform.settings).
"""

from collections.abc import Iterator
from typing import Final

from pydantic import SecretStr

from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings

#: Setting -> what it must be, in the order of docs/architecture.md. The S3 endpoint is missing on purpose: without one
#: it is AWS.
_NEEDED: Final = {
    "kafka_bootstrap": "host:port of Kafka",
    "influx_url": "http(s)://host:port of InfluxDB 2.7",
    "archive_uri": "s3://bucket/path of the archive",
    "marts_uri": "s3://bucket/path of the derived tables",
    "s3_access_key_id": "access key of the S3 server",
    "s3_secret_access_key": "secret key of the S3 server",
    "state_url": "postgresql+psycopg://user:password@host:5432/database of the operational state",
    "dagster_database_url": "postgresql://user:password@host:5432/database of Dagster",
    "mlflow_database_url": "postgresql+psycopg://user:password@host:5432/database of MLflow",
    "redis_url": "redis://:password@host:6379/0",
}
_ON_S3: Final = ("archive_uri", "marts_uri")
_ADVICE: Final = """\
Bring servers up with `make services-up` (by docker compose where an engine answers, else without Docker) and name them
in .env with `.venv/bin/python -m tools.services env --write`, which without --write prints them, for `> .env`;
then `.venv/bin/sieis setup`.
Or leave SIEIS_PROFILE unset: then each part goes by its own address."""


class ProfileError(FatalError):
    """The services profile is asked for, and parts of it have no server."""


def require_servers(settings: Settings) -> None:
    """Raises: ProfileError, one line for each setting without which a part would not be on its server."""
    missing = list(_missing(settings))
    if missing:
        raise ProfileError("\n".join(["SIEIS_PROFILE=services, but these are not set:", *missing, _ADVICE]))


def _missing(settings: Settings) -> Iterator[str]:
    for name, form in _NEEDED.items():
        value = _text(getattr(settings, name))
        if not value:
            yield f"  SIEIS_{name.upper()}: {form}"
        elif name in _ON_S3 and not value.startswith("s3://"):
            yield f"  SIEIS_{name.upper()}: is a folder, must be {form}"
    if settings.archive_cold_uri and not settings.archive_cold_uri.startswith("s3://"):
        yield "  SIEIS_ARCHIVE_COLD_URI: is a folder, must be s3://bucket/path of the archive's cold table, or unset"
    if not _text(settings.influx_token) and not _text(settings.influx_admin_token):
        yield "  SIEIS_INFLUX_TOKEN: token of InfluxDB; or SIEIS_INFLUX_ADMIN_TOKEN, with which `sieis setup` makes it"


def _text(value: str | SecretStr | None) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value or ""
