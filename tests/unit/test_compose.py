"""docker-compose.yml and the Dockerfile without an engine: valid, and everything they name exists in the code."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.environment_variables
import pytest
import yaml
from mlflow.cli import cli as mlflow_cli
from pydantic import SecretStr
from typer.core import TyperGroup
from typer.main import get_command

from sieis_cli.main import app
from sieis_platform.settings import Settings
from sieis_ui.config import UiSettings
from tools.services import docker
from tools.services.servers import SERVERS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
TEXT = COMPOSE.read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
SETTINGS = {
    f"SIEIS_{name.upper()}": field for kind in (Settings, UiSettings) for name, field in kind.model_fields.items()
}
#: Values for the variables of .env, each its own, so that a test sees where one ends up.
REQUIRED = sorted(set(re.findall(r"\$\{(\w+):\?", TEXT)))
IMAGE_HOME = "/app/"


def interpolated(value: Any) -> str:
    """A value as compose hands it on, with the name of a variable as its value."""
    text = str(value).replace("$$", "\0")
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", r"\1", text)
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    assert "$" not in text, f"{value}: neither required nor with a default"
    return text.replace("\0", "$")


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {name: interpolated(value) for name, value in service.get("environment", {}).items()}


def published(service: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(address, port of the host, port of the container)."""
    found = []
    for port in service.get("ports", []):
        host, outer, inner = port.split(":")
        found.append((host, int(outer), int(inner)))
    return found


# -- validators ----------------------------------------------------------------------------------------------------


def test_it_is_valid_by_the_schema_of_compose() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_is_valid_and_good_practice() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(hadolint), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# -- what they name exists -----------------------------------------------------------------------------------------


def test_the_parts_are_all_there() -> None:
    assert set(SERVICES) - set(OURS) == {"kafka", "influxdb", "minio", "redis", "postgres"}
    assert set(OURS) == {
        *("setup", "simulator", "consumer-hot", "consumer-archive", "api", "dashboard"),
        *("dagster-code", "dagster-webserver", "dagster-daemon", "mlflow"),
    }


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_and_takes_its_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {variable: value for variable, value in environment(OURS[name]).items() if variable.startswith("SIEIS_")}
    assert set(given) - set(SETTINGS) == set()
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    kind = UiSettings if name == "dashboard" else Settings
    settings = kind(_env_file=None)  # pyright: ignore[reportCallIssue]
    for variable, value in given.items():
        found = getattr(settings, variable.removeprefix("SIEIS_").lower())
        found = found.get_secret_value() if isinstance(found, SecretStr) else found
        assert str(found).lower() == value.lower()


@pytest.mark.parametrize("name", OURS)
def test_every_command_exists_with_its_options(name: str) -> None:
    program, *words = OURS[name]["command"]
    if program == "streamlit":
        script = words[1].removeprefix(IMAGE_HOME)
        assert (ROOT / script).is_file()
        from streamlit import config

        known = set(config.get_config_options())
        assert {word.removeprefix("--").split("=")[0] for word in words[2:]} <= known
        return
    command = {"sieis": get_command(app), "mlflow": mlflow_cli}[program]
    words = [part for word in words for part in word.split("=", 1)]
    while words and not words[0].startswith("-"):
        found = command.get_command(None, words[0]) if hasattr(command, "get_command") else None  # pyright: ignore
        if found is None:
            break
        command, words = found, words[1:]
    assert not isinstance(command, TyperGroup), f"{name}: {OURS[name]['command']} is no command"
    command.make_context(name, list(words))  # parses as the command line does: an unknown option or value raises


#: What the images of others read: Kafka's make KAFKA_NODE_ID the property node.id; Go programs read GOGC.
READ_BY_IMAGES = {
    "kafka": {
        *("KAFKA_NODE_ID", "KAFKA_PROCESS_ROLES", "KAFKA_CONTROLLER_QUORUM_VOTERS", "KAFKA_CONTROLLER_LISTENER_NAMES"),
        *("KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS", "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "KAFKA_LOG_DIRS"),
        *("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR"),
        *("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS"),
        *("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "KAFKA_HEAP_OPTS"),
    },
    "influxdb": {"INFLUXD_REPORTING_DISABLED", "GOGC"},
    "minio": {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"},
    "redis": {"REDISCLI_AUTH"},
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"},
}
MLFLOW_SERVER_OPTIONS = {option.envvar for option in mlflow_cli.commands["server"].params}


@pytest.mark.parametrize("name", SERVICES)
def test_every_other_variable_is_one_that_its_program_reads(name: str) -> None:
    known = READ_BY_IMAGES.get(name, {"DAGSTER_HOME"} if name.startswith("dagster") else set())
    if name == "mlflow":
        known = MLFLOW_SERVER_OPTIONS | set(dir(mlflow.environment_variables))
    given = {variable for variable in environment(SERVICES[name]) if not variable.startswith("SIEIS_")}
    assert given - known == set()


_STREAM, _STATE, _HOT = {"kafka_bootstrap"}, {"state_url"}, {"influx_url"}
_ARCHIVE = {"archive_uri", "s3_endpoint_url", "s3_access_key_id", "s3_secret_access_key"}
_MARTS = _ARCHIVE | {"marts_uri"}
_DAGSTER = {"dagster_code", "dagster_database_url"}
#: The servers that each part works with. One that is not named would be replaced by a file of the container, silently.
NEEDS = {
    "setup": {*_STREAM, *_HOT, *_MARTS, *_STATE, "influx_admin_token"},
    "simulator": {*_STREAM, *_STATE},
    "consumer-hot": {*_STREAM, *_HOT},
    "consumer-archive": {*_STREAM, *_ARCHIVE},
    "dagster-code": {*_STREAM, *_HOT, *_MARTS, *_STATE, "dagster_database_url", "mlflow_uri", "metrics_urls"},
    "dagster-webserver": _DAGSTER,
    "dagster-daemon": _DAGSTER,
    "api": {*_STREAM, *_HOT, *_MARTS, *_STATE, "redis_url", "api_key"},
    "dashboard": {"api_url", "api_key"},
    "mlflow": set(),
}


@pytest.mark.parametrize("name", OURS)
def test_every_part_is_told_of_the_servers_that_it_works_with(name: str) -> None:
    given = environment(OURS[name])
    assert {setting for setting in NEEDS[name] if not given.get(f"SIEIS_{setting.upper()}")} == set()


def listening_ports(name: str) -> set[int]:
    """Ports on which the part listens inside its container, from its command or else the default of the setting."""
    words = " ".join(OURS[name]["command"]).replace("=", " ")
    said = {int(port) for port in re.findall(r"--(?:server\.)?port (\d+)", words)}
    if said:
        return said
    default = {"simulator": "simulator_port", "consumer-hot": "metrics_port", "consumer-archive": "metrics_port"}
    default["api"] = "api_port"
    return {Settings.model_fields[default[name]].default} if name in default else set()


@pytest.mark.parametrize("name", OURS)
def test_ports_and_health_checks_meet_what_listens(name: str) -> None:
    service = OURS[name]
    listens = listening_ports(name)
    assert {inner for _, _, inner in published(service)} <= listens
    asked = re.findall(r"http://127\.0\.0\.1:(\d+)/|--port', '(\d+)'", str(service["healthcheck"].get("test", "")))
    assert {int(port) for ports in asked for port in ports if port} <= listens


def test_the_ports_of_this_machine_are_those_of_the_settings_and_reachable_from_it_only() -> None:
    everything = [(name, *port) for name, service in SERVICES.items() for port in published(service)]
    assert {host for _, host, _, _ in everything} == {"127.0.0.1"}
    outer = [port for _, _, port, _ in everything]
    assert len(outer) == len(set(outer))
    by_name = {name: port for name, _, port, _ in everything}
    defaults = {
        "api": "api_port",
        "dashboard": "dashboard_port",
        "dagster-webserver": "dagster_port",
        "mlflow": "mlflow_port",
        "simulator": "simulator_port",
        "consumer-hot": "metrics_port",
    }
    assert {name: by_name[name] for name in defaults} == {
        name: Settings.model_fields[field].default for name, field in defaults.items()
    }
    assert {name: by_name[name] for name in docker.SERVED if name != "minio"} == {
        name: port for name, port in docker._PORTS.items() if name != "minio"
    }
    assert ("127.0.0.1", docker._PORTS["minio"], 9000) in published(SERVICES["minio"])


@pytest.mark.parametrize("name", OURS)
def test_addresses_name_services_and_the_ports_they_listen_on(name: str) -> None:
    others = {"kafka": {9092}, "influxdb": {8086}, "minio": {9000}, "redis": {6379}, "postgres": {5432}}
    others |= {other: listening_ports(other) for other in OURS}
    for variable, value in environment(OURS[name]).items():
        for host, port in re.findall(r"(?:^|[/@])([a-z][a-z-]*):(\d+)(?=/|$)", value):
            assert int(port) in others[host], f"{name}: {variable}"


def test_the_databases_that_addresses_name_are_made() -> None:
    named = {
        found
        for service in OURS.values()
        for value in environment(service).values()
        for found in re.findall(r"@postgres:5432/(\w+)", value)
    }
    script = (ROOT / "deploy" / "postgres" / "databases.sql").read_text()
    made = {SERVICES["postgres"]["environment"]["POSTGRES_DB"], *re.findall(r"CREATE DATABASE (\w+);", script)}
    assert named == made


# -- operation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_watched_and_started_again(name: str) -> None:
    service = SERVICES[name]
    if name not in OURS:
        assert re.search(r":.*\d+\.\d+|:RELEASE\.\d{4}", service["image"]), "an image without a version"
    if name == "setup":
        assert (service["restart"], service["healthcheck"]) == ("no", {"disable": True})
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]


@pytest.mark.parametrize("name", ["kafka", "influxdb"])
def test_the_servers_are_those_that_the_drills_ran_against(name: str) -> None:
    """MinIO has no image of its last version; of Redis and PostgreSQL any version does."""
    assert SERVICES[name]["image"].partition(":")[2] == SERVERS[name].version


def test_whoever_is_waited_for_says_when_it_is_ready() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other == "setup" else "service_healthy"
            assert how["condition"] == wanted, f"{name} waits for {other}"
            assert other in SERVICES


def test_volumes_are_declared_and_files_are_there() -> None:
    declared = set(yaml.safe_load(TEXT)["volumes"])
    used = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {source for source, *_ in used if not source.startswith(".")} == declared
    assert [source for source, *_ in used if source.startswith(".") and not (ROOT / source).is_file()] == []


def secrets() -> Iterator[tuple[str, str, str]]:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            field = SETTINGS.get(variable)
            secret = field is not None and "SecretStr" in str(field.annotation)
            if secret or re.search(r"PASSWORD|SECRET|TOKEN|API_KEY|AUTH|STORE_URI", variable):
                yield name, variable, str(value)


def test_no_secret_has_a_default() -> None:
    found = list(secrets())
    assert len(found) > 10
    # Required, or, where SIEIS does without it, empty.
    assert [entry for entry in found if not re.search(r"\$\{\w+:(\?[^}]+|-)\}", entry[2])] == []
    assert re.findall(r"\$\{\w*(?:PASSWORD|SECRET|TOKEN|KEY)\w*:?-", TEXT) == []
    assert REQUIRED == [
        "INFLUX_ADMIN_TOKEN",
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "S3_SECRET_ACCESS_KEY",
        "SIEIS_API_KEY",
    ]


def test_the_operator_s_token_is_given_to_setup_alone_and_the_dashboard_knows_only_the_api() -> None:
    assert [name for name, service in SERVICES.items() if "INFLUX_ADMIN_TOKEN" in str(service)] == ["setup"]
    assert set(environment(OURS["dashboard"])) == {"SIEIS_API_URL", "SIEIS_API_KEY"}
    assert OURS["dashboard"]["volumes"] == []


# -- the image -----------------------------------------------------------------------------------------------------


def test_the_image_is_pinned_and_runs_as_nobody_special() -> None:
    assert re.findall(r"^FROM (python:\S+)", DOCKERFILE, re.MULTILINE) == ["python:3.11.13-slim-bookworm"]
    makefile = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert makefile is not None
    assert f"uv=={makefile[1]}" in DOCKERFILE
    assert "--frozen --no-dev" in DOCKERFILE
    last = DOCKERFILE.rsplit("FROM ", 1)[1]
    assert re.findall(r"^USER (\S+)", last, re.MULTILINE) == ["10001:10001"]
    assert "HEALTHCHECK" in last


def test_the_image_holds_every_package_and_the_build_sees_what_it_copies() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    copied = {source for line in lines for source in line.split()}
    assert set(packages) <= copied
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert copied == {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    for secret in (".env", "var", ".git"):
        assert not any(fnmatch.fnmatch(secret, rule.removeprefix("!")) for rule in rules if rule.startswith("!"))
