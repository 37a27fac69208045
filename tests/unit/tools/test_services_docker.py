"""The servers of docker-compose.yml: a `docker` that writes down what it is told stands in for the engine.

Belongs here: what Docker is asked, and what is made of its answers. Not here: the compose file (test_compose.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from sieis_platform.settings import Settings
from tools.services.docker import SERVED, Compose, Found, look_for_engine
from tools.services.errors import EngineError, StateError

ROOT = Path(__file__).resolve().parents[3]

#: Writes down its words; answers from files named after them, or fails where one named `fail` says so.
_DOCKER = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
words = sys.argv[1:]
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
answers = json.loads((folder / "answers").read_text())
code, out, err = answers.get(" ".join(words[:2]), [0, "", ""])
print(out)
print(err, file=sys.stderr)
sys.exit(code)
"""


class Engine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers()
        program = folder / "docker"
        program.write_text(_DOCKER.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)

    def answers(self, **by_words: tuple[int, str, str]) -> None:
        (self.folder / "answers").write_text(
            json.dumps({words.replace("_", " "): answer for words, answer in by_words.items()})
        )

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Engine(folder)


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    project = tmp_path / "project"
    project.mkdir()
    return Compose(project)


def _quiet(_name: str, _text: str) -> None:
    return


def test_an_engine_answers_only_with_compose(engine: Engine) -> None:
    assert look_for_engine() == Found(answers=True)
    engine.answers(compose_version=(1, "", "unknown command"))
    assert look_for_engine() == Found(answers=False, reason="`docker compose version` says: unknown command")
    engine.answers(**{"info --format": (1, "", "cannot connect to the daemon")})
    assert look_for_engine() == Found(answers=False, reason="`docker info` says: cannot connect to the daemon")


def test_without_docker_there_is_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look_for_engine() == Found(answers=False)


def test_up_makes_the_secrets_once_and_waits_for_health(engine: Engine, compose: Compose) -> None:
    compose.up(["kafka", "redis"], _quiet)
    secrets = dotenv_values(compose.env_file)
    compose.up(["kafka", "redis"], _quiet)
    assert dotenv_values(compose.env_file) == secrets
    assert engine.calls == [["compose", "up", "--detach", "--wait", "kafka", "redis"]] * 2
    assert compose.env_file.stat().st_mode & 0o077 == 0


def test_the_settings_it_gives_are_settings_and_hold_the_secrets_of_the_servers(
    engine: Engine, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose.up(SERVED, _quiet)
    given = compose.settings(SERVED)
    assert {name.removeprefix("SIEIS_").lower() for name in given} <= set(Settings.model_fields)
    secrets = dotenv_values(compose.env_file)
    for name in ("INFLUX_ADMIN_TOKEN", "S3_SECRET_ACCESS_KEY", "REDIS_PASSWORD", "POSTGRES_PASSWORD"):
        assert any(str(secrets[name]) in value for value in given.values())
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings(_env_file=None)  # pyright: ignore[reportCallIssue]
    assert settings.hot_store == "influx"
    assert not settings.embedded_broker


def test_a_missing_secret_is_named(engine: Engine, compose: Compose) -> None:
    compose.env_file.write_text("REDIS_PASSWORD=\n")
    with pytest.raises(StateError, match="has no REDIS_PASSWORD"):
        compose.settings(["redis"])


def test_down_keeps_the_data_unless_told_otherwise(engine: Engine, compose: Compose) -> None:
    compose.down(["kafka"], _quiet)
    assert engine.calls == [["compose", "stop", "kafka"]]
    engine.answers(compose_config=(0, json.dumps({"volumes": {"kafka": {"name": "sieis_kafka"}}}), ""))
    compose.down(["kafka", "redis"], _quiet, delete=True)
    assert ["compose", "rm", "--force", "--volumes", "kafka", "redis"] in engine.calls
    assert [call for call in engine.calls if call[0] == "volume"] == [["volume", "rm", "--force", "sieis_kafka"]]


@pytest.mark.parametrize("as_array", [False, True], ids=["an object a line", "an array"])
def test_status_is_that_of_the_health_check(engine: Engine, compose: Compose, as_array: bool) -> None:
    containers = [
        {"Service": "kafka", "State": "running", "Health": "healthy"},
        {"Service": "minio", "State": "running", "Health": "unhealthy"},
        {"Service": "redis", "State": "exited", "Health": ""},
    ]
    text = json.dumps(containers) if as_array else "\n".join(json.dumps(one) for one in containers)
    engine.answers(compose_ps=(0, text, ""))
    found = {one.name: (one.state, one.address) for one in compose.status(["kafka", "minio", "redis", "postgres"])}
    assert found == {
        "kafka": ("running", "127.0.0.1:19092"),
        "minio": ("not answering", "127.0.0.1:9000"),
        "redis": ("stopped", ""),
        "postgres": ("stopped", ""),
    }


def test_a_refused_command_says_what_docker_said(engine: Engine, compose: Compose) -> None:
    engine.answers(compose_up=(17, "", "port 19092 is already allocated"))
    with pytest.raises(EngineError, match="exit code 17:\nport 19092 is already allocated"):
        compose.up(["kafka"], _quiet)


def test_the_command_asks_docker_where_it_answers_and_not_with_native(engine: Engine, tmp_path: Path) -> None:
    environment = {**os.environ, "SIEIS_DATA_DIR": str(tmp_path / "var"), "PYTHONPATH": str(ROOT)}

    def status(*more: str) -> list[dict]:
        command = [sys.executable, "-m", "tools.services", "status", "--json", *more]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    assert {one["name"] for one in status()} == set(SERVED)
    assert ["compose", "ps", "--all", "--format", "json"] in engine.calls
    asked = len(engine.calls)
    assert len(status("--native")) > len(SERVED)
    assert len(engine.calls) == asked


def test_an_engine_that_refuses_is_named_before_the_servers_are_processes_of_this_machine(
    engine: Engine, tmp_path: Path
) -> None:
    said = "permission denied while trying to connect to the Docker daemon socket"
    engine.answers(**{"info --format": (1, "", said)})
    environment = {**os.environ, "SIEIS_DATA_DIR": str(tmp_path / "var"), "PYTHONPATH": str(ROOT)}

    def status(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.services", "status", "--json", *more]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)

    done = status()
    assert said in done.stderr
    assert "processes of this machine" in done.stderr
    assert len(json.loads(done.stdout)) > len(SERVED)
    assert status("--native").stderr == ""
