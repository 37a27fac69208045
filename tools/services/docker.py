"""The servers of docker-compose.yml, where a Docker engine answers: the same commands as Background, told to Compose.

Belongs here: asking the engine, starting, stopping, and the addresses and secrets of what it published. Not here: what
a server is (docker-compose.yml), or making the secrets (`sieis setup --write-env`).
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dotenv import dotenv_values

from sieis_cli.setup import write_env_file
from tools.services.background import Status
from tools.services.errors import EngineError, StateError
from tools.services.install import SayOf
from tools.services.servers.s3_server import BUCKETS

#: Servers that docker-compose.yml has; the others (a second S3 server, the proxy for faults) are started natively.
SERVED: Final = ("kafka", "influxdb", "minio", "redis", "postgres")

_HOST: Final = "127.0.0.1"
_PORTS: Final = {"kafka": 19092, "influxdb": 8086, "minio": 9000, "redis": 6379, "postgres": 5432}
_ANSWER_SECONDS: Final = 20.0
_LAST_LINES: Final = 15


@dataclass(frozen=True)
class Found:
    """Whether a Docker engine with Compose answers; where there is one and it does not, what it says."""

    answers: bool
    reason: str = ""


def look_for_engine() -> Found:
    """Ask the engine and Compose, if there is a `docker` at all."""
    if shutil.which("docker") is None:
        return Found(answers=False)
    for question in (["info", "--format", "{{.ServerVersion}}"], ["compose", "version"]):
        asked = f"`docker {' '.join(word for word in question if word[0] not in '-{')}`"
        try:
            done = subprocess.run(  # noqa: S603 - our own words, no shell
                ["docker", *question],  # noqa: S607 - wherever docker is
                capture_output=True,
                text=True,
                check=False,
                timeout=_ANSWER_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Found(answers=False, reason=f"{asked} did not answer within {_ANSWER_SECONDS:.0f} s")
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            return Found(answers=False, reason=f"{asked} says: {said}")
    return Found(answers=True)


class Compose:
    """The servers of one project folder: its docker-compose.yml and the .env beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env_file = folder / ".env"

    def up(self, names: Sequence[str], say: SayOf) -> None:
        """Start them and wait until each says that it is healthy; the first time with new secrets in .env.

        Raises: EngineError, EnvFileError.
        """
        if not self.env_file.exists():
            write_env_file(self.env_file)
            say("docker", f"wrote {self.env_file} with new secrets")
        say("docker", f"starting {', '.join(names)} ...")
        self._compose("up", "--detach", "--wait", *names)
        for name in names:
            say(name, f"running at {_address(name)}")

    def down(self, names: Sequence[str], say: SayOf, *, delete: bool = False) -> None:
        """Stop them; with `delete` remove containers and volumes too. The secrets in .env stay. Raises: EngineError."""
        self._compose("stop", *names)
        if delete:
            self._compose("rm", "--force", "--volumes", *names)
            declared = json.loads(self._compose("config", "--format", "json"))["volumes"]
            for name in names:
                if name in declared:
                    self._docker("volume", "rm", "--force", declared[name]["name"])
        for name in names:
            say(name, "data removed" if delete else "stopped")

    def status(self, names: Sequence[str]) -> list[Status]:
        """How each is, by its container's own health check. Raises: EngineError."""
        found = {one["Service"]: one for one in _objects(self._compose("ps", "--all", "--format", "json"))}
        return [_status(name, found.get(name)) for name in names]

    def settings(self, names: Sequence[str]) -> dict[str, str]:
        """The SIEIS_* variables for this machine, secrets among them. Raises: StateError where .env lacks a secret."""
        return {variable: value for name in names for variable, value in self._settings(name).items()}

    def _settings(self, name: str) -> dict[str, str]:
        address = _address(name)
        if name == "kafka":
            return {"SIEIS_KAFKA_BOOTSTRAP": address}
        if name == "influxdb":
            return {
                "SIEIS_INFLUX_URL": f"http://{address}",
                "SIEIS_INFLUX_ADMIN_TOKEN": self._secret("INFLUX_ADMIN_TOKEN"),
            }
        if name == "minio":
            return {
                "SIEIS_S3_ENDPOINT_URL": f"http://{address}",
                "SIEIS_S3_ALLOW_HTTP": "true",
                "SIEIS_S3_ACCESS_KEY_ID": "sieis",
                "SIEIS_S3_SECRET_ACCESS_KEY": self._secret("S3_SECRET_ACCESS_KEY"),
                **BUCKETS,
            }
        if name == "redis":
            return {"SIEIS_REDIS_URL": f"redis://:{self._secret('REDIS_PASSWORD')}@{address}/0"}
        server = f"sieis:{self._secret('POSTGRES_PASSWORD')}@{address}"
        return {
            "SIEIS_STATE_URL": f"postgresql+psycopg://{server}/sieis",
            "SIEIS_DAGSTER_DATABASE_URL": f"postgresql://{server}/dagster",
            "SIEIS_MLFLOW_DATABASE_URL": f"postgresql+psycopg://{server}/mlflow",
        }

    def _secret(self, name: str) -> str:
        value = dotenv_values(self.env_file).get(name)
        if not value:
            raise StateError(
                f"{self.env_file} has no {name}, with which docker-compose.yml starts its server; "
                "move that file away and run `sieis setup --write-env`, or put the secret back"
            )
        return value

    def _compose(self, *words: str) -> str:
        return self._docker("compose", *words)

    def _docker(self, *words: str) -> str:
        done = subprocess.run(  # noqa: S603 - our own words, no shell
            ["docker", *words],  # noqa: S607 - wherever docker is
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = "\n".join(done.stderr.splitlines()[-_LAST_LINES:])
            raise EngineError(f"`docker {' '.join(words)}` ended with exit code {done.returncode}:\n{last}")
        return done.stdout


def _address(name: str) -> str:
    return f"{_HOST}:{_PORTS[name]}"


def _status(name: str, container: dict[str, Any] | None) -> Status:
    if container is None or container["State"] != "running":
        return Status(name, "stopped", log=f"docker compose logs {name}" if container else "")
    well = container.get("Health") in ("healthy", "")
    return Status(name, "running" if well else "not answering", _address(name), log=f"docker compose logs {name}")


def _objects(text: str) -> list[dict[str, Any]]:
    """Compose's list of containers: an array in some versions, an object a line in others."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines() if line.strip()]
