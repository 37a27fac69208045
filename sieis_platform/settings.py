"""The one Settings class: every knob, typed, described, read once at the edge from SIEIS_* variables or `.env`.

Belongs here: names, types, defaults and what they mean (docs/settings.md and .env.example are made from them).
Not here: what a setting does.
"""

import datetime as dt
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sieis_platform import stray

TimelineMode = Literal["align", "year", "none"]
Sink = Literal["hot", "archive"]
Profile = Literal["embedded", "services"]

#: What moves a part to a server; the embedded profile leaves it unset. (Archive and marts: where they are on s3://.)
SERVER_ADDRESSES: Final = (
    *("kafka_bootstrap", "influx_url", "redis_url"),
    *("state_url", "dagster_database_url", "mlflow_database_url", "mlflow_uri", "dagster_code"),
)

DATA_DOCS_ADDRESS: Final = "/data-docs"
"""Where the API serves the site of the checks' results, and links to it lead."""

_UNREADABLE: Final = re.compile(r"[\[\]*?#]|%[0-9A-Fa-f]{2}")


class Settings(BaseSettings):
    """Configuration of every part of SIEIS; the environment wins over `.env`, which wins over the defaults."""

    model_config = SettingsConfigDict(env_prefix="SIEIS_", env_file=".env", extra="ignore", hide_input_in_errors=True)

    # -- where things lie ----------------------------------------------------------------------------------------
    profile: Profile | None = Field(
        None,
        description="services: every part must be on its server, and what is missing is named; embedded: addresses of "
        "servers are ignored; unset: each part goes by its own address, and `demo` is embedded.",
    )
    data_dir: Path = Field(Path("var"), description="Folder of everything the embedded setting keeps.")
    data_file: Path | None = Field(
        None, description="Readings file that `simulate` and `demo` replay; unset: the downloaded one, else generated."
    )
    data_url: str = Field(
        "http://db.csail.mit.edu/labdata/data.txt.gz",
        description="Address `sieis data download` fetches the readings from.",
    )
    data_sha256: str = Field(
        "", description="Expected SHA-256 of the downloaded readings; empty: only the gzip checksum is verified."
    )
    mote_locations_url: str = Field(
        "http://db.csail.mit.edu/labdata/mote_locs.txt",
        description="Address `sieis data download` fetches the floor plan from.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="How log lines look; auto: console on a terminal, JSON elsewhere."
    )

    # -- the building --------------------------------------------------------------------------------------------
    fleet_size: int = Field(
        54, ge=1, description="Mote ids 1 to this are the known fleet; others are taken in and flagged."
    )
    mote_locations: Path | None = Field(
        None,
        description="Floor plan, lines of `mote_id x y` in metres; unset: the downloaded one, where present.",
    )
    timeline_mode: TimelineMode = Field(
        "align",
        description="How dataset dates become platform dates: align (replay for ever), year (this year), none.",
    )
    timeline_phase: int = Field(
        7, ge=0, description="Day of the data set shown on the anchor date (align only; below its number of days)."
    )
    anchor_date: dt.date | None = Field(None, description="First live date, fixed at first use; unset: that day, UTC.")

    # -- stream --------------------------------------------------------------------------------------------------
    kafka_bootstrap: str = Field(
        "", description="host:port list of the Kafka brokers; empty: the embedded broker of this data directory."
    )
    kafka_topic: str = Field(
        "sensor_readings", pattern=r"^[A-Za-z0-9._-]{1,200}$", description="Topic of the readings."
    )
    kafka_dlq_topic: str = Field(
        "sensor_readings.dlq", pattern=r"^[A-Za-z0-9._-]{1,200}$", description="Topic of the dead letters."
    )
    kafka_group: str = Field(
        "sieis-consumer",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Prefix of the consumer groups (`.hot`, `.archive`).",
    )
    kafka_partitions: int = Field(
        6, ge=1, le=10_000, description="Partitions of the readings topic that `sieis setup` makes; growing moves keys."
    )
    kafka_replication: int = Field(
        1, ge=1, le=7, description="Copies of each partition; 3 where there are three brokers or more."
    )
    kafka_retention_hours: float = Field(24, gt=0, description="Hours Kafka keeps the readings.")
    kafka_segment_bytes: int = Field(
        100 * 1024 * 1024, ge=1024 * 1024, description="Size of a log segment; retention drops whole ones."
    )
    kafka_security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        "plaintext", description="How Kafka is spoken to."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How Kafka checks the password (sasl_plaintext, sasl_ssl)."
    )
    kafka_sasl_username: str = Field("", description="User name at Kafka (sasl_plaintext, sasl_ssl).")
    kafka_sasl_password: SecretStr | None = Field(None, description="Password at Kafka (sasl_plaintext, sasl_ssl).")
    kafka_ssl_ca_location: Path | None = Field(
        None, description="Certificates that Kafka's is checked against (PEM); unset: those of the system."
    )
    kafka_ssl_certificate_location: Path | None = Field(
        None,
        description="Our own certificate (PEM, with its chain), where Kafka asks its clients for one (ssl, sasl_ssl).",
    )
    kafka_ssl_key_location: Path | None = Field(None, description="The key of our own certificate (PEM).")
    kafka_ssl_key_password: SecretStr | None = Field(None, description="Password of that key; unset: it has none.")
    kafka_session_timeout_seconds: float = Field(
        30,
        ge=1,
        le=300,
        description="A member silent for so long is put out of its group; the embedded broker uses 3.5 to 6.",
    )
    poll_records: int = Field(1_000, ge=1, le=1_000_000, description="Records taken in one poll at low traffic.")
    poll_records_loaded: int = Field(
        20_000, ge=1, le=1_000_000, description="Records taken in one poll while there is a backlog."
    )
    poll_seconds: float = Field(0.1, gt=0, le=10, description="Longest wait of one poll for its records.")
    max_skew_seconds: float = Field(
        300, ge=0, description="A timestamp further ahead of Kafka's record time is a dead letter; 0: not judged."
    )
    archive_flush_rows: int = Field(
        200_000, ge=1, description="Archive flush by size: rows buffered at most before a commit."
    )
    archive_flush_seconds: float | None = Field(
        None, gt=0, description="Archive flush by age; unset: 600 on Kafka, 30 on the embedded broker (it forgets)."
    )
    duplicate_window_rows: int = Field(
        50_000, ge=0, description="Last keys per partition an identical reading is recognised against as a duplicate."
    )

    # -- simulator -----------------------------------------------------------------------------------------------
    simulator_motes: int = Field(42, ge=1, description="Motes emitted (the lowest ids of the data set).")
    simulator_speed: float = Field(100, gt=0, description="Catch-up speed factor over the wall clock.")
    simulator_interval_seconds: float = Field(
        0.1, gt=0, le=60, description="Time between two ticks of the live simulator."
    )
    simulator_embedded_rate: float = Field(
        4_000, gt=0, description="Records a second at most while catching up on the embedded broker."
    )
    filter_today_only: bool = Field(
        True, description="A first start begins at today 00:00 UTC, not at the anchor date."
    )

    # -- stores --------------------------------------------------------------------------------------------------
    archive_uri: str = Field(
        "",
        description="Delta table of the archive, a folder or s3://bucket/path; empty: `archive/` in the data folder.",
    )
    marts_uri: str = Field(
        "",
        description="Root of the derived tables, a folder or s3://bucket/path; empty: `marts/` in the data directory.",
    )
    s3_endpoint_url: str = Field("", description="Address of the S3 server, http(s)://host:port; empty: AWS.")
    s3_region: str = Field("us-east-1", description="Region of the buckets; most servers other than AWS ignore it.")
    s3_access_key_id: str = Field("", description="Access key of the S3 server.")
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret key of the S3 server.")
    s3_session_token: SecretStr | None = Field(
        None, description="Session token that belongs to temporary keys of AWS; unset: the keys are lasting ones."
    )
    s3_allow_http: bool = Field(False, description="Speak to the S3 server without TLS.")
    s3_timeout_seconds: float = Field(
        10, ge=1, le=300, description="An S3 server silent for so long does not answer; it is tried again later."
    )
    archive_mote_folders: bool = Field(
        True, description="Partition the archive by mote_id too; turn off for thousands of motes."
    )
    archive_retention_days: int | None = Field(
        None, ge=1, description="Days the archive keeps; unset: every reading for ever."
    )
    archive_retention_motes: Annotated[dict[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0)]], NoDecode] = (
        Field(
            default_factory=dict,
            description="Days the archive keeps of single motes, `7=30,9=90` or JSON; 0: for ever. Others: "
            "archive_retention_days.",
        )
    )
    archive_cold_uri: str = Field(
        "",
        description="Delta table that old days of the archive are moved to, a folder or s3://bucket/path, for instance "
        "in a bucket of a cheaper storage class; empty: all stay. What was moved is read only while it is set.",
    )
    archive_cold_after_days: int = Field(
        30, ge=1, description="Days that ended longer ago are moved to archive_cold_uri."
    )
    archive_vacuum_hours: int = Field(
        168,
        ge=1,
        description="Files and log entries of older versions stay so long: no reader or query may take longer.",
    )
    archive_small_file_bytes: int = Field(
        8 * 1024 * 1024, ge=1, description="A file below this is small: the storage report counts them."
    )
    hot_retention_days: int = Field(
        30,
        ge=1,
        description="Days the hot store keeps readings and daily aggregates; the archive and the marts keep more.",
    )
    hot_hourly_retention_days: int = Field(90, ge=1, description="Days the hot store keeps hourly aggregates.")
    state_url: SecretStr | None = Field(
        None,
        description="Database of the operational state (postgresql+psycopg://…); unset: SQLite in the data directory.",
    )
    redis_url: SecretStr | None = Field(
        None,
        description="Redis that the API's processes share for live values, rate limits and sessions (redis://…/0), a "
        "database of its own; unset: each process for itself.",
    )
    redis_prefix: str = Field(
        "sieis:",
        pattern=r"^[A-Za-z0-9._:-]{1,64}$",
        description="How the names of all keys in Redis begin; two installations on one Redis need two.",
    )
    hot_piece_milliseconds: float = Field(
        50, gt=0, description="Bulk writes to SQLite commit in pieces of about this long."
    )
    influx_url: str = Field(
        "",
        pattern=r"^(https?://[^/@?#\s]+(/[^@?#\s]*)?)?$",
        description="Address of InfluxDB 2.7, without credentials; empty: the hot store is SQLite.",
    )
    influx_org: str = Field("sieis", min_length=1, description="Organisation in InfluxDB.")
    influx_bucket: str = Field(
        "sensor_data", min_length=1, description="Bucket of the readings and daily aggregates (hot_retention_days)."
    )
    influx_hourly_bucket: str = Field(
        "sensor_data_hourly",
        min_length=1,
        description="Bucket of the hourly aggregates (hot_hourly_retention_days).",
    )
    influx_token: SecretStr | None = Field(
        None, description="Token SIEIS reads and writes with; `sieis setup` makes one that may do nothing else."
    )
    influx_admin_token: SecretStr | None = Field(
        None, description="Operator token of InfluxDB, used by `sieis setup` only."
    )
    influx_batch_rows: int = Field(
        100, ge=1, description="Readings written to InfluxDB at once; fewer wait influx_flush_seconds."
    )
    influx_flush_seconds: float = Field(
        1.0, ge=0, le=60, description="Longest time a reading waits for others before it is written to InfluxDB."
    )
    influx_request_rows: int = Field(
        20_000, ge=1, le=1_000_000, description="Rows in one request to InfluxDB at most; larger writes take several."
    )
    influx_timeout_seconds: float = Field(10, gt=0, le=300, description="Longest wait for an answer of InfluxDB.")
    influx_gzip: bool | None = Field(
        None, description="Compress what is sent to InfluxDB; unset: unless it runs on this machine."
    )
    load_batch_rows: int = Field(500_000, ge=5_000, description="Rows of the historical load in one archive commit.")

    # -- addresses -----------------------------------------------------------------------------------------------
    api_host: str = Field(
        "127.0.0.1", description="Address the API listens on; beyond loopback it needs SIEIS_API_KEY."
    )
    api_port: int = Field(8000, ge=1, le=65535, description="Port of the API.")
    api_key: SecretStr | None = Field(None, description="Key that API clients send as X-API-Key; unset: loopback only.")
    session_hours: float = Field(
        12,
        ge=0.1,
        le=168,
        description="Hours a session of the API lasts (POST /api/v1/session): a cookie in place of the key.",
    )
    rate_limit_per_minute: int = Field(
        1_200,
        ge=0,
        description="Requests a minute that one client address may send to the API; this machine is not counted. "
        "0: no limit.",
    )
    dashboard_port: int = Field(8501, ge=1, le=65535, description="Port of the dashboard.")
    dagster_port: int = Field(3000, ge=1, le=65535, description="Port of the Dagster UI.")
    dagster_code: str = Field(
        "",
        pattern=r"^([A-Za-z0-9._-]+:\d{1,5})?$",
        description="host:port of `sieis dagster code`; empty: webserver and daemon load the definitions themselves.",
    )
    mlflow_port: int = Field(5001, ge=1, le=65535, description="Port of the MLflow UI.")
    simulator_host: str = Field(
        "127.0.0.1", description="Address the simulator's control API listens on; it answers to local names only."
    )
    simulator_port: int = Field(5000, ge=1, le=65535, description="Port of the simulator's control API.")
    metrics_host: str = Field("127.0.0.1", description="Address the consumer's metrics are served on.")
    metrics_port: int = Field(9108, ge=1, le=65535, description="Port of the consumer's Prometheus metrics.")
    mlflow_uri: str = Field(
        "",
        pattern=r"^(https?://[^/@?#\s]+(/[^@?#\s]*)?)?$",
        description="Address of an MLflow tracking server, without credentials; empty: MLflow's database is used "
        "without one.",
    )
    mlflow_database_url: SecretStr | None = Field(
        None, description="MLflow's database (postgresql+psycopg://…); unset: SQLite in the data directory."
    )
    dagster_database_url: SecretStr | None = Field(
        None,
        description="Database of Dagster's runs, events and schedules (postgresql://…); unset: SQLite in the data "
        "directory.",
    )

    # -- operations ----------------------------------------------------------------------------------------------
    alert_urls: SecretStr | None = Field(
        None,
        description="Where alerts go: addresses of Apprise (mailto://, slack://, json:// and 130 more), separated by "
        "commas; unset: they are only kept.",
    )
    alert_cooldown_seconds: float = Field(
        21_600, ge=0, description="An alert about the same subject is not sent again within this time, but counted."
    )
    inbox_dir: Path | None = Field(
        None,
        description="Folder whose files of readings Dagster loads and then moves to done/ or failed/ in it; unset: "
        "`inbox/` in the data directory.",
    )
    metrics_urls: str = Field(
        "",
        pattern=r"^(https?://[^/@?#\s,]+(/[^@?#\s,]*)?(, *https?://[^/@?#\s,]+(/[^@?#\s,]*)?)*)?$",
        description="Addresses of all consumers' metrics, separated by commas, that Dagster reads; empty: that of "
        "metrics_host and metrics_port.",
    )
    run_retention_days: int = Field(
        30, ge=1, description="Days Dagster keeps an ended run, unless it made what is the newest of an asset."
    )

    # -- for tests -----------------------------------------------------------------------------------------------
    services_cache: Path = Field(
        Path("~/.cache/sieis-services"),
        description="Folder of the servers that `python -m tools.services` installs; kept outside the checkout.",
    )
    crash_at: str = Field(
        "",
        description="Test only: the process kills itself (SIGKILL) at this named point, `name` or `name:nth`; "
        "with `:stop` behind, it freezes there (SIGSTOP).",
    )

    @field_validator("profile", "s3_session_token", mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        return None if value == "" else value  # as docker compose passes on what is not set

    @field_validator("data_dir", "services_cache", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("archive_retention_motes", mode="before")
    @classmethod
    def _days_by_mote(cls, value: object) -> object:
        """`7=30,9=90` as a mapping; JSON as it is."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("{"):
            return json.loads(value)
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if any(not equals for _mote, equals, _days in pairs):
            raise ValueError("write MOTE=DAYS,MOTE=DAYS or a JSON object")
        return {mote.strip(): days.strip() for mote, _equals, days in pairs}

    @model_validator(mode="after")
    def _alone(self) -> Self:
        """Only settings count, in every process that reads them: AWS_SESSION_TOKEN and its like are another's."""
        stray.forget()
        return self

    @model_validator(mode="after")
    def _without_servers(self) -> Self:
        if self.profile == "embedded":
            for name in SERVER_ADDRESSES:
                setattr(self, name, type(self).model_fields[name].default)
            for name in ("archive_uri", "archive_cold_uri", "marts_uri"):
                if getattr(self, name).startswith("s3://"):
                    setattr(self, name, "")
        return self

    @model_validator(mode="after")
    def _folders_can_be_read(self) -> Self:
        """Polars takes `[`, `*`, `?` for a pattern; the Delta library loses its log behind `#`, and reads `%20` as a
        space."""
        for name in ("data_dir", "archive_uri", "archive_cold_uri", "marts_uri"):
            place = str(getattr(self, name))
            if not place.startswith("s3://") and _UNREADABLE.search(place):
                raise ValueError(
                    f"{name} contains one of [ ] * ? # or a % before two hexadecimal digits: what is written there "
                    "could not be read again; choose a folder whose whole path has none of them"
                )
        return self

    @model_validator(mode="after")
    def _tables_lie_apart(self) -> Self:
        """A vacuum deletes every old file in a table's folder that its log does not name."""
        if _inside(self.marts_location, self.archive_location):
            raise ValueError(
                f"the marts ({self.marts_location}) lie inside the archive's folder ({self.archive_location}), whose "
                "vacuum would delete them; give each a folder of its own"
            )
        cold = self.archive_cold_uri
        for name, other in (("archive", self.archive_location), ("marts", self.marts_location)):
            if cold and (_inside(cold, other) or _inside(other, cold)):
                raise ValueError(
                    f"archive_cold_uri ({cold}) and the {name} ({other}) lie one inside the other, and the vacuum of "
                    "one would delete the other; give each a folder of its own"
                )
        return self

    def changed(self, **changes: Any) -> Self:
        """The same settings but for `changes`, validated as at the edge. Raises: pydantic.ValidationError."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**(given | changes))

    @property
    def embedded_broker(self) -> bool:
        """Whether the broker is the in-process one of this data directory."""
        return not self.kafka_bootstrap

    @property
    def flush_seconds(self) -> float:
        """Age at which the archive sink flushes, in seconds."""
        if self.archive_flush_seconds is not None:
            return self.archive_flush_seconds
        return 30.0 if self.embedded_broker else 600.0

    @property
    def session_timeout_seconds(self) -> float:
        """Session timeout of a group member; short on the embedded broker: a killed member blocks the next.

        Below 3 s nobody ever joins there: it holds the first member for 3 s without counting that as a sign of life.
        """
        seconds = self.kafka_session_timeout_seconds
        return min(max(seconds, 3.5), 6.0) if self.embedded_broker else seconds

    @property
    def archive_location(self) -> str:
        """Address of the archive's Delta table."""
        return self.archive_uri or str(self.data_dir / "archive")

    @property
    def marts_location(self) -> str:
        """Root address of the derived tables."""
        return self.marts_uri or str(self.data_dir / "marts")

    @property
    def hot_store(self) -> Literal["sqlite", "influx"]:
        """Which hot store this installation has: InfluxDB where it has an address."""
        return "influx" if self.influx_url else "sqlite"

    @property
    def hot_batch_rows(self) -> int:
        """Readings the consumer writes at once; SQLite takes them as they come."""
        return self.influx_batch_rows if self.hot_store == "influx" else 1

    @property
    def hot_batch_seconds(self) -> float:
        """How long a reading waits for a batch to fill, in seconds."""
        return self.influx_flush_seconds if self.hot_store == "influx" else 0.0

    @property
    def influx_compress(self) -> bool:
        """Whether to compress what is sent to InfluxDB: on the same machine it costs a third of the rate."""
        if self.influx_gzip is not None:
            return self.influx_gzip
        return urlsplit(self.influx_url).hostname not in ("127.0.0.1", "localhost", "::1")

    @property
    def hot_path(self) -> Path:
        """File of the embedded hot store."""
        return self.data_dir / "hot.sqlite"

    @property
    def data_docs_path(self) -> Path:
        """Folder of the site that Great Expectations makes of the checks' results (stores/site.py)."""
        return self.data_dir / "data_docs"

    @property
    def data_docs_url(self) -> str:
        """Address of that site, which the API serves."""
        return f"{self.api_url}{DATA_DOCS_ADDRESS}/index.html"

    @property
    def state_path(self) -> Path:
        """File of the embedded operational state."""
        return self.data_dir / "state.sqlite"

    @property
    def broker_file(self) -> Path:
        """File in which the embedded broker publishes its address."""
        return self.data_dir / "broker.json"

    @property
    def mlflow_location(self) -> str:
        """MLflow tracking address; may hold a password."""
        return self.mlflow_uri or self.mlflow_database

    @property
    def mlflow_database(self) -> str:
        """Database of the MLflow server, as SQLAlchemy names it; may hold a password."""
        return _revealed(self.mlflow_database_url) or f"sqlite:///{self.data_dir / 'mlflow' / 'mlflow.sqlite'}"

    @property
    def inbox_location(self) -> Path:
        """Folder whose files are loaded."""
        return self.inbox_dir or self.data_dir / "inbox"

    @property
    def consumer_metrics(self) -> list[str]:
        """Addresses of the consumers' metrics."""
        if self.metrics_urls:
            return [url.strip() for url in self.metrics_urls.split(",")]
        return [f"{reached_at(self.metrics_host, self.metrics_port)}/metrics"]

    @property
    def api_url(self) -> str:
        """Address at which a client on this machine reaches the API."""
        return reached_at(self.api_host, self.api_port)


def _inside(place: str, folder: str) -> bool:
    """Whether `place` is the folder, or in it."""
    if not place.startswith("s3://") and not folder.startswith("s3://"):
        place, folder = os.path.abspath(place), os.path.abspath(folder)  # noqa: PTH100 - as text, links as they are
    return (place.rstrip("/") + "/").startswith(folder.rstrip("/") + "/")


def reached_at(host: str, port: int) -> str:
    """http://HOST:PORT at which this machine reaches what listens on `host`: on all addresses, or on that one."""
    if host in ("", "0.0.0.0", "::", "[::]"):  # noqa: S104 - not bound here
        host = "127.0.0.1"
    bare = host.strip("[]")
    return f"http://[{bare}]:{port}" if ":" in bare else f"http://{bare}:{port}"


def _revealed(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
