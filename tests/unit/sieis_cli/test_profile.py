"""SIEIS_PROFILE: what the services profile asks for, what the embedded one ignores, and the demo's own names."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sieis_cli.context import load_settings
from sieis_cli.demo_servers import DemoServersError, own_places
from sieis_cli.demo_steps import Demo
from sieis_cli.main import app
from sieis_cli.profile import ProfileError, require_servers
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.settings import SERVER_ADDRESSES, Settings

SERVERS = {
    "SIEIS_KAFKA_BOOTSTRAP": "kafka:9092",
    "SIEIS_INFLUX_URL": "http://influxdb:8086",
    "SIEIS_INFLUX_TOKEN": "token-hunter2",
    "SIEIS_ARCHIVE_URI": "s3://sieis-archive/readings",
    "SIEIS_MARTS_URI": "s3://sieis-marts/tables",
    "SIEIS_S3_ACCESS_KEY_ID": "sieis",
    "SIEIS_S3_SECRET_ACCESS_KEY": "secret-hunter2",
    "SIEIS_STATE_URL": "postgresql+psycopg://sieis:hunter2@postgres:5432/sieis",
    "SIEIS_DAGSTER_DATABASE_URL": "postgresql://sieis:hunter2@postgres:5432/dagster",
    "SIEIS_MLFLOW_DATABASE_URL": "postgresql+psycopg://sieis:hunter2@postgres:5432/mlflow",
    "SIEIS_REDIS_URL": "redis://:hunter2@redis:6379/0",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIEIS_DATA_DIR", str(tmp_path / "var"))
    load_settings.cache_clear()


def write_env(**values: str) -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


# -- services ----------------------------------------------------------------------------------------------------------
def test_one_error_names_all_that_is_missing_and_what_to_do() -> None:
    write_env(SIEIS_PROFILE="services")
    with pytest.raises(ProfileError) as raised:
        load_settings()
    told = str(raised.value)
    assert [name for name in SERVERS if f"  {name}: " not in told] == []
    assert "make services-up" in told
    assert "python -m tools.services env --write" in told
    assert "docker compose" in told


@pytest.mark.parametrize("name", SERVERS)
def test_each_server_is_needed_and_no_value_is_told(name: str) -> None:
    for value in (None, ""):
        write_env(SIEIS_PROFILE="services", **{key: text for key, text in SERVERS.items() if key != name})
        if value is not None:
            with Path(".env").open("a") as file:
                file.write(f"{name}={value}\n")
        load_settings.cache_clear()
        with pytest.raises(ProfileError, match=f"  {name}: ") as raised:
            load_settings()
        assert str(raised.value).count("  SIEIS_") == 1
        assert "hunter2" not in str(raised.value)


def test_with_every_server_named_the_settings_are_theirs() -> None:
    write_env(SIEIS_PROFILE="services", **SERVERS)
    settings = load_settings()
    assert settings.kafka_bootstrap == "kafka:9092"
    assert settings.hot_store == "influx"
    assert settings.archive_location == "s3://sieis-archive/readings"


def test_a_folder_is_no_server() -> None:
    write_env(SIEIS_PROFILE="services", **SERVERS | {"SIEIS_MARTS_URI": "/data/marts"})
    with pytest.raises(ProfileError, match="SIEIS_MARTS_URI: is a folder"):
        load_settings()


def test_the_cold_table_is_on_the_server_too_and_no_demo_has_one() -> None:
    write_env(SIEIS_PROFILE="services", **SERVERS | {"SIEIS_ARCHIVE_COLD_URI": "/data/cold"})
    with pytest.raises(ProfileError, match="SIEIS_ARCHIVE_COLD_URI: is a folder"):
        load_settings()
    write_env(SIEIS_PROFILE="services", **SERVERS | {"SIEIS_ARCHIVE_COLD_URI": "s3://sieis-cold/readings"})
    load_settings.cache_clear()
    settings = load_settings()
    assert settings.archive_cold_uri == "s3://sieis-cold/readings"
    assert Demo(settings, Path("readings.txt"))._settings.archive_cold_uri == ""
    assert settings.changed(profile="embedded").archive_cold_uri == ""


def test_setup_can_make_the_token_where_it_has_the_operators() -> None:
    without = {name: value for name, value in SERVERS.items() if name != "SIEIS_INFLUX_TOKEN"}
    write_env(SIEIS_PROFILE="services", SIEIS_INFLUX_ADMIN_TOKEN="operator", **without)
    require_servers(load_settings())


def test_every_address_that_moves_a_part_to_a_server_is_asked_for_but_our_own_servers() -> None:
    asked = {name.removeprefix("SIEIS_").lower() for name in SERVERS}
    assert set(SERVER_ADDRESSES) - asked == {"mlflow_uri", "dagster_code"}


def test_whoever_brings_the_servers_up_need_not_name_them() -> None:
    write_env(SIEIS_PROFILE="services")
    assert load_settings(complete=False).profile == "services"


def test_a_command_is_refused_before_it_does_anything(tmp_path: Path) -> None:
    write_env(SIEIS_PROFILE="services")
    done = CliRunner().invoke(app, ["demo"])
    assert isinstance(done.exception, ProfileError)
    assert not (tmp_path / "var").exists()


# -- embedded, and none ------------------------------------------------------------------------------------------------
def test_the_embedded_profile_ignores_every_server() -> None:
    ours = {"SIEIS_MLFLOW_URI": "http://mlflow:5001", "SIEIS_DAGSTER_CODE": "code:4000"}
    write_env(SIEIS_PROFILE="embedded", SIEIS_FLEET_SIZE="7", **ours, **SERVERS)
    settings = load_settings()
    assert {name for name in SERVER_ADDRESSES if getattr(settings, name)} == set()
    assert settings.embedded_broker
    assert settings.hot_store == "sqlite"
    assert settings.archive_location == str(settings.data_dir / "archive")
    assert settings.marts_location == str(settings.data_dir / "marts")
    assert settings.mlflow_location.startswith("sqlite:///")
    assert settings.fleet_size == 7


def test_the_embedded_profile_keeps_folders_that_are_elsewhere(tmp_path: Path) -> None:
    write_env(SIEIS_PROFILE="embedded", SIEIS_ARCHIVE_URI=str(tmp_path / "elsewhere"))
    assert load_settings().archive_location == str(tmp_path / "elsewhere")


def test_dagsters_resource_is_embedded_too_whatever_its_environment_says() -> None:
    write_env(**SERVERS)
    resource = PlatformResource.of(Settings().changed(profile="embedded"))
    assert resource.settings().hot_store == "sqlite"
    assert resource.settings().mlflow_location.startswith("sqlite:///")


@pytest.mark.parametrize("values", [{}, {"SIEIS_PROFILE": ""}])
def test_without_a_profile_each_part_goes_by_its_own_address(values: dict[str, str]) -> None:
    write_env(**values, SIEIS_KAFKA_BOOTSTRAP="kafka:9092")
    settings = load_settings()
    assert settings.profile is None
    assert (settings.embedded_broker, settings.hot_store) == (False, "sqlite")


# -- the demo's names --------------------------------------------------------------------------------------------------
def test_everything_the_demo_keeps_on_servers_has_another_name() -> None:
    write_env(SIEIS_PROFILE="services", **SERVERS)
    real = load_settings()
    demo = real.changed(**own_places(real))
    assert (demo.kafka_topic, demo.kafka_dlq_topic) == ("sensor_readings-demo", "sensor_readings.dlq-demo")
    assert demo.kafka_group == "sieis-consumer-demo"
    assert demo.archive_uri == "s3://sieis-archive-demo/readings"
    assert demo.marts_uri == "s3://sieis-marts-demo/tables"
    assert (demo.influx_bucket, demo.influx_hourly_bucket) == ("sensor_data-demo", "sensor_data_hourly-demo")
    assert demo.redis_prefix == "sieis-demo:"
    for name, database in (
        ("state_url", "sieis"),
        ("dagster_database_url", "dagster"),
        ("mlflow_database_url", "mlflow"),
    ):
        before, after = (getattr(one, name).get_secret_value() for one in (real, demo))
        assert after == before.removesuffix(database) + f"{database}_demo"
    assert demo.kafka_bootstrap == real.kafka_bootstrap


@pytest.mark.parametrize("profile", ["", "embedded", "services"])
def test_the_demo_takes_in_asks_and_tells_nobody_elses(profile: str, tmp_path: Path) -> None:
    elsewhere = {
        "SIEIS_INBOX_DIR": str(tmp_path / "real-inbox"),
        "SIEIS_METRICS_URLS": "http://real:9108/metrics",
        "SIEIS_ALERT_URLS": "json://real",
        "SIEIS_DAGSTER_CODE": "real:4000",
    }
    write_env(SIEIS_PROFILE=profile, **elsewhere, **SERVERS)
    demo = Demo(load_settings(), Path("readings.txt"))
    # What its steps are started with, which `.env` must not outdo.
    given = {name.removeprefix("SIEIS_").lower(): text for name, text in demo._environment().items()}
    step = Settings(**given)  # type: ignore[arg-type]
    assert step.inbox_location == tmp_path / "var" / "inbox"
    assert step.consumer_metrics == [f"http://127.0.0.1:{step.metrics_port}/metrics"]
    assert step.alert_urls is not None
    assert step.alert_urls.get_secret_value() == step.dagster_code == ""


def test_an_archive_whose_path_repeats_its_bucket_keeps_the_path() -> None:
    write_env(**SERVERS | {"SIEIS_ARCHIVE_URI": "s3://readings/readings"})
    assert own_places(Settings())["archive_uri"] == "s3://readings-demo/readings"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIEIS_KAFKA_TOPIC", "t" * 199),
        ("SIEIS_ARCHIVE_URI", f"s3://{'b' * 60}/readings"),
        ("SIEIS_STATE_URL", f"postgresql://sieis:hunter2@postgres/{'d' * 60}"),
        ("SIEIS_DAGSTER_DATABASE_URL", "postgresql://sieis:hunter2@postgres"),
        ("SIEIS_MLFLOW_DATABASE_URL", "sqlite:///hunter2.sqlite"),
    ],
)
def test_names_that_cannot_be_are_refused_without_telling_a_password(name: str, value: str) -> None:
    write_env(**SERVERS | {name: value})
    with pytest.raises(DemoServersError) as raised:
        own_places(Settings())
    assert "hunter2" not in str(raised.value)
