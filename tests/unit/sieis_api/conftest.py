"""A small real installation (SQLite hot store, Delta archive and marts) and clients of its API."""

import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from sieis_api.app import create_app
from sieis_api.stores import Stores, open_stores
from sieis_platform.reading import FIELDS, READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Commit, LedgerEntry
from sieis_platform.stores.hot import AGGREGATE_SCHEMA
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from tools.services.group import Services
from tools.services.instance import Instance

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
#: Newest reading: a minute ago and with nanoseconds, so that nothing that rounds goes unnoticed.
NEWEST = (time.time_ns() - 60 * SECOND) // SECOND * SECOND + 123_456_789


def make_settings(data_dir: Path, **given: object) -> Settings:
    """Settings of `data_dir`, whatever the environment of the test run says."""
    return Settings(_env_file=None, data_dir=data_dir, fleet_size=54, **given)  # pyright: ignore[reportCallIssue]


def client_of(
    settings: Settings,
    *,
    peer: str = "127.0.0.1",
    host: str = "localhost",
    stores: Callable[[Settings], Stores] = open_stores,
) -> TestClient:
    """A client of a new app; use it in a `with`, or nothing is open."""
    app = create_app(settings, stores)
    return TestClient(app, base_url=f"http://{host}", client=(peer, 50_000), raise_server_exceptions=False)


def readings(motes: list[int], newest_ns: int, count: int, step_ns: int = 30 * SECOND) -> pl.DataFrame:
    """`count` readings of each mote, all motes at the same nanosecond (cursors must keep the order within it)."""
    times = pl.DataFrame(
        {"timestamp": [newest_ns - step_ns * i for i in range(count)]}, schema={"timestamp": pl.Int64()}
    )
    frame = times.join(pl.DataFrame({"mote_id": motes}, schema={"mote_id": pl.Int32()}), how="cross")
    value = (pl.col("timestamp") // SECOND % 1000 / 100 + pl.col("mote_id")).cast(pl.Float32())
    return frame.with_columns(value.alias(field) for field in FIELDS).select(READING_SCHEMA.names())


@dataclass(frozen=True)
class Installation:
    """What was put where, and how to compare answers with it."""

    settings: Settings
    recent: pl.DataFrame
    old: pl.DataFrame
    hourly: pl.DataFrame
    anomalies: pl.DataFrame
    newest: int = NEWEST

    @staticmethod
    def iso(ns: int) -> str:
        """Unix ns as the API writes and reads it."""
        seconds, rest = divmod(ns, SECOND)
        return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"

    @staticmethod
    def answered(readings: list[dict[str, Any]]) -> list[tuple[int, str]]:
        """(mote, time) of answered readings."""
        return [(reading["mote_id"], reading["timestamp"]) for reading in readings]

    def put(self, frame: pl.DataFrame) -> list[tuple[int, str]]:
        """The same of readings that were put in; NEWEST has nine digits, so every text has."""
        return [(mote, self.iso(ns)) for mote, ns in frame.select("mote_id", "timestamp").iter_rows()]


def archive_rows(settings: Settings, rows: pl.DataFrame, app: str = "history/test") -> None:
    """Append readings to the archive as a historical load would."""
    archive = open_archive(settings)
    archive.create()
    lineage = (
        pl.lit(app).alias("source"),
        pl.lit(0, pl.Int32).alias("source_partition"),
        pl.int_range(pl.len()).alias("source_offset"),
    )
    entry = LedgerEntry(app=app, start=0, end=rows.height, stored=rows.height)
    archive.append(Commit(rows.with_columns(lineage), [entry], {app: None}))


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    settings = make_settings(tmp_path_factory.mktemp("api") / "var")
    special = pl.DataFrame(
        {
            "mote_id": [22, 60],
            "timestamp": [NEWEST - 26 * HOUR, NEWEST],
            "temperature": [122.153, float("nan")],
            "humidity": [None, 45.5],
            "light": [0.0, 1847.36],
            "voltage": [2.03, None],
        },
        schema=READING_SCHEMA,
    )
    recent = pl.concat([readings([1, 2, 3], NEWEST, 241), special]).sort("timestamp", "mote_id")
    hot = open_hot(settings)
    hot.write_readings(recent)
    hot.close()
    # The archive has everything but the last ten minutes, and what the hot store no longer keeps.
    old = readings([1, 2], NEWEST - 40 * DAY, 100)
    archive_rows(settings, pl.concat([old, recent.filter(pl.col("timestamp") < NEWEST - 600 * SECOND)]))

    hours = readings([0, 1, 2], NEWEST - NEWEST % HOUR, 48, HOUR).rename({"timestamp": "period_start"})
    hourly = hours.select("mote_id", "period_start").with_columns(
        *(pl.lit(20.5).alias(name) for name, dtype in AGGREGATE_SCHEMA.items() if dtype == pl.Float64),
        *(pl.lit(120, pl.Int64).alias(name) for name in ("record_count", "null_count", "out_of_range_count")),
    )
    hourly = (
        hourly.select(AGGREGATE_SCHEMA.names()).with_columns(day_of("period_start")).sort("period_start", "mote_id")
    )
    marts = open_marts(settings)
    _replace(marts.replace_days, "hourly_aggregates", hourly)
    strange = readings([1, 22], NEWEST, 30, 3 * HOUR).with_columns(
        pl.lit(0.8).alias("score"),
        pl.lit(0.6).alias("threshold"),
        pl.lit("sieis-anomaly").alias("model_name"),
        pl.lit("3").alias("model_version"),
        day_of("timestamp"),
    )
    _replace(marts.replace_days, "anomalies", strange)
    model = {
        "name": "sieis-anomaly",
        "version": "3",
        "trained_at": NEWEST,
        "rows": 1000,
        "threshold": 0.6,
        "run_id": "r",
    }
    marts.replace("anomaly_model", pl.DataFrame([model]))
    return Installation(settings, recent, old, hourly, strange.sort("timestamp", "mote_id", descending=True))


def day_of(column: str) -> pl.Expr:
    """The partition column `date` of a mart."""
    return pl.from_epoch(pl.col(column), time_unit="ns").dt.strftime("%Y-%m-%d").alias("date")


def _replace(replace_days: Callable[..., int], table: str, frame: pl.DataFrame) -> None:
    days = frame["date"].sort()
    replace_days(table, frame, dt.date.fromisoformat(days[0]), dt.date.fromisoformat(days[-1]))


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., Settings]:
    """`make_settings`, for tests that need an installation of their own."""
    return make_settings


@pytest.fixture(scope="session")
def client_for() -> Callable[..., TestClient]:
    """`client_of`, for tests that need an app of their own."""
    return client_of


@pytest.fixture(scope="session")
def client(installation: Installation) -> Iterator[TestClient]:
    with client_of(installation.settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def redis() -> Iterator[Instance]:
    with Services.start(["redis"]) as services:
        yield services["redis"]


@pytest.fixture(params=["in process", pytest.param("redis", marks=pytest.mark.services), "unreachable redis"])
def url(request: pytest.FixtureRequest) -> str:
    """Where to keep things and count; the contract is the same while a Redis does not answer."""
    if request.param == "redis":
        return request.getfixturevalue("redis").settings["SIEIS_REDIS_URL"]
    return "redis://:hunter2@127.0.0.1:1/0" if request.param == "unreachable redis" else ""
