"""`sieis demo` on the real servers: the same numbers as on the embedded setting, every time, and nobody else's data."""

import datetime as dt
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import polars as pl
import pytest
from confluent_kafka.admin import AdminClient
from obstore.store import S3Store
from polars.testing import assert_frame_equal
from pydantic import SecretStr

from sieis_cli.demo_servers import MADE_BY, DemoServersError, own_places, started_over
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.hot import Period
from sieis_platform.stores.influx.setup import ForeignBucketError, prepare
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.stores.s3 import BucketError, make_bucket
from tools.services import Services
from tools.services.servers import s3
from tools.services.servers.postgres import query

pytestmark = [pytest.mark.services, pytest.mark.timeout(1_800)]  # three demos

ROOT = Path(__file__).parents[2]
DAYS = {f"2004-02-{day}" for day in (28, 29)} | {f"2004-03-0{day}" for day in range(1, 9)}
MOTES = {"1", "4"}
#: What differs from run to run, or from setting to setting, and should.
OWN = ("profile", "data_dir", "load_rows_per_second", "stream_records_per_second", "seconds", "step_seconds")
PERIODS: tuple[Period, ...] = ("hourly", "daily")


@pytest.fixture(scope="module")
def servers() -> Iterator[Services]:
    with Services.start(["kafka", "influxdb", "minio", "redis", "postgres"]) as services:
        yield services


@pytest.fixture(scope="module")
def real(servers: Services) -> Settings:
    """Settings of an installation on the servers, as its `.env` gives them after `sieis setup`."""
    given: dict[str, Any] = {name.removeprefix("SIEIS_").lower(): value for name, value in servers.settings.items()}
    settings = Settings(_env_file=None, profile="services", **given)
    return settings.changed(influx_token=SecretStr(prepare(settings).token))


@pytest.fixture(scope="module")
def readings(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days of two motes of the real file: the timeline shows its eighth day on the anchor date."""
    path = tmp_path_factory.mktemp("readings") / "readings.txt"
    with gzip.open(real_data / "intel_lab" / "data.txt.gz", "rt") as whole, path.open("w") as part:
        for line in whole:
            words = line.split()
            if words[0] in DAYS and words[3] in MOTES:
                part.write(line)
    return path


@dataclass(frozen=True)
class Outcome:
    """What a demo reports and leaves in its stores."""

    report: dict[str, Any]
    marts: dict[str, pl.DataFrame]
    hot: dict[str, pl.DataFrame]
    readings: pl.DataFrame

    @property
    def numbers(self) -> dict[str, Any]:
        return {name: value for name, value in self.report.items() if name not in OWN and "latency" not in name}


@pytest.fixture(scope="module")
def outcomes(servers: Services, real: Settings, readings: Path, tmp_path_factory: pytest.TempPathFactory) -> list:
    """One demo on the embedded setting and two on the servers, all on the same date.

    All of them in a folder whose `.env` names the servers.
    """
    folder = tmp_path_factory.mktemp("work")
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in servers.settings.items()))
    places = {"embedded": folder / "embedded", "services": folder / "services"}
    stores = {
        "embedded": Settings(_env_file=None, profile="embedded", data_dir=places["embedded"]),
        # Looked at with the operator's token: that of the installation may not read what is the demo's.
        "services": real.changed(**own_places(real), influx_token=real.influx_admin_token, data_dir=places["services"]),
    }
    while True:
        today = dt.datetime.now(dt.UTC).date()
        found = []
        for profile in ("embedded", "services", "services"):
            report = run(folder, places[profile], readings, profile)
            found.append(outcome(report, stores[profile]))
        if dt.datetime.now(dt.UTC).date() == today:  # at midnight their anchor moves
            return found


def run(folder: Path, data_dir: Path, readings: Path, profile: str) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIEIS_", "DAGSTER_", "MLFLOW_"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), "SIEIS_DATA_DIR": str(data_dir)}
    if profile != "embedded":  # which is what a demo without a profile is
        environment["SIEIS_PROFILE"] = profile
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "sieis_cli", "demo", "--data", str(readings), "--report", str(report)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(report.read_text())


def outcome(report: dict[str, Any], settings: Settings) -> Outcome:
    marts, hot = open_marts(settings), open_hot(settings)
    order = ["mote_id", "period_start"]
    try:
        return Outcome(
            report,
            {period: marts.scan(f"{period}_aggregates").sort(order).collect() for period in PERIODS},
            {period: hot.aggregates(period, 0, 2**62).sort(order) for period in PERIODS},
            open_archive(settings).scan_all().select(list(READING_SCHEMA)).sort("mote_id", "timestamp").collect(),
        )
    finally:
        hot.close()


def same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    assert not one.is_empty()
    assert_frame_equal(one, other, rel_tol=1e-9, abs_tol=0)


@pytest.mark.parametrize("other", [1, 2], ids=["on the servers", "on the servers again"])
def test_the_numbers_are_those_of_the_embedded_setting(outcomes: list[Outcome], other: int) -> None:
    embedded, services = outcomes[0], outcomes[other]
    assert (embedded.report["profile"], services.report["profile"]) == ("embedded", "services")
    assert services.report.keys() == embedded.report.keys()
    assert services.numbers == embedded.numbers
    assert services.report["stream_hot"] == services.report["stream_archived"] > 1_000
    assert services.report["lost"] == services.report["checks_failed"] == 0
    for period in PERIODS:
        same(services.marts[period], embedded.marts[period])
        same(services.hot[period], embedded.hot[period])
    same(services.readings, embedded.readings)


def test_nothing_of_it_is_in_the_places_of_the_installation_itself(
    outcomes: list[Outcome], servers: Services, real: Settings
) -> None:
    demo = real.changed(**own_places(real))
    topics = AdminClient({"bootstrap.servers": real.kafka_bootstrap}).list_topics(timeout=10).topics
    assert {name for name in topics if not name.startswith("__")} == {demo.kafka_topic, demo.kafka_dlq_topic}
    minio = servers["minio"]
    listed = s3.request("GET", minio.address, "/", minio.credentials).text
    assert "<Name>sieis-archive-demo</Name>" in listed
    assert "<Name>sieis-archive</Name>" not in listed
    assert open_hot(real).count_readings() == 0
    tables = "select count(*) from pg_tables where schemaname = 'public'"
    for database in ("sieis", "dagster", "mlflow"):
        assert query(servers["postgres"].place, tables, database=database) == "0"
        assert int(query(servers["postgres"].place, tables, database=f"{database}_demo")) > 0
    # Nor in files where a server is meant: what is left there are Dagster's step output, models and the data set.
    kept = Path(outcomes[1].report["data_dir"])
    assert not {path.name for path in kept.rglob("*") if path.suffix in (".sqlite", ".db", ".parquet")}


def test_what_the_demo_did_can_be_looked_at(outcomes: list[Outcome], tmp_path: Path, servers: Services) -> None:
    places = Path(outcomes[2].report["data_dir"]) / "demo.env"
    assert places.stat().st_mode & 0o777 == 0o600
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in servers.settings.items()))
    command = f". {places} && {sys.executable} -m sieis_cli verify --json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sum(one["rows"] for one in json.loads(done.stdout)["accounts"]) == outcomes[2].report["rows_archive"]


# -- what is not the demo's ------------------------------------------------------------------------------------------
@pytest.fixture
def others(real: Settings) -> Settings:
    """An installation whose names, with `-demo` behind, nobody has used yet."""
    return real.changed(
        kafka_topic="others",
        kafka_dlq_topic="others.dlq",
        archive_uri="s3://others-archive/readings",
        marts_uri="s3://others-marts/tables",
        influx_bucket="others",
        influx_hourly_bucket="others_hourly",
    )


def start_over(real: Settings) -> Settings:
    demo = real.changed(**own_places(real))
    with started_over(real, demo):
        return demo


def test_a_bucket_with_objects_of_somebody_else_is_left_alone(others: Settings, servers: Services) -> None:
    credentials = servers["minio"].credentials
    make_bucket(others, "others-archive-demo")
    store = S3Store(
        "others-archive-demo",
        endpoint=servers["minio"].address,
        access_key_id=credentials["access_key"],
        secret_access_key=credentials["secret_key"],
        client_options={"allow_http": True},
    )
    obstore.put(store, "precious", b"data")
    with pytest.raises(BucketError, match="others-archive-demo"):
        start_over(others)
    assert bytes(obstore.get(store, "precious").bytes()) == b"data"
    obstore.delete(store, "precious")
    start_over(others)
    obstore.put(store, "year=2026/of an earlier demo", b"data")
    start_over(others)
    assert [found["path"] for page in obstore.list(store) for found in page] == ["made-by-sieis-demo"]


def test_influxdbs_bucket_of_somebody_else_is_left_alone(others: Settings) -> None:
    mine = others.changed(influx_bucket="theirs", influx_hourly_bucket="theirs_hourly")
    theirs = mine.changed(**own_places(mine))
    token = prepare(theirs, description="made by hand").token
    with pytest.raises(ForeignBucketError, match="theirs-demo"):
        start_over(mine)
    assert prepare(theirs).token == token


def test_a_database_of_somebody_else_is_left_alone(others: Settings, servers: Services) -> None:
    place = servers["postgres"].place
    for name in ("theirs", "theirs_demo"):
        query(place, f"create database {name}")
    address = servers["postgres"].settings["SIEIS_STATE_URL"].rsplit("/", 1)[0]
    with pytest.raises(DemoServersError, match=f"theirs_demo that is not {MADE_BY}"):
        start_over(others.changed(mlflow_database_url=f"{address}/theirs"))
    assert query(place, "select 1", database="theirs_demo") == "1"


def test_two_demos_do_not_share_the_servers(others: Settings) -> None:
    demo = others.changed(**own_places(others))
    with started_over(others, demo), pytest.raises(DemoServersError, match="another demo runs"):
        start_over(others)
