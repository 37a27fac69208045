"""Dagster and MLflow on a real PostgreSQL, each process by itself as in docker-compose.yml."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tools.services.group import Services
from tools.services.instance import Instance
from tools.services.servers.postgres import query

pytestmark = [pytest.mark.services, pytest.mark.timeout(400)]

SIEIS = [sys.executable, "-m", "sieis_cli"]
LAUNCH = """
mutation ($job: String!) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "sieis", repositoryName: "__repository__", jobName: $job}
  }) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}"""
RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError {
    __typename ... on PythonError { message } } } } } }"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Instance]:
    with Services.start(["postgres"]) as services:
        yield services["postgres"]


@dataclass
class Installation:
    """A data directory with two days of readings whose Dagster and MLflow keep their state on the server."""

    folder: Path
    environment: dict[str, str]

    @property
    def data_dir(self) -> Path:
        return self.folder / "var"

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*SIEIS, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def started(self, name: str, command: list[str], ready: Callable[[], bool]) -> Iterator[None]:
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            until(lambda: process.poll() is not None or ready(), name)
            assert process.poll() is None, log.read_text()[-5_000:]
            yield
        finally:
            process.terminate()
            process.wait(60)


def until(holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)  # another process: there is nothing to wait on but its answers


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False


def readings(path: Path) -> None:
    """Two days of three motes, a reading every five minutes: training needs 1,000 of them."""
    with path.open("w") as file:
        for mote in (1, 2, 3):
            for step in range(576):
                day, minute = divmod(step * 5, 1440)
                clock = f"2004-02-{28 + day} {minute // 60:02}:{minute % 60:02}:00.5"
                file.write(f"{clock} {step} {mote} {20 + mote + step % 7} {40 + step % 5} 100 2.6\n")


@pytest.fixture
def installation(tmp_path: Path, postgres: Instance) -> Installation:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIEIS_", "DAGSTER_", "MLFLOW_"))}
    for name in ("dagster", "mlflow"):  # as empty as on a first start
        query(postgres.place, f"drop database if exists {name} with (force)", database="postgres")
        query(postgres.place, f"create database {name}", database="postgres")
    made = Installation(
        tmp_path,
        {
            **kept,
            "SIEIS_DATA_DIR": str(tmp_path / "var"),
            "SIEIS_ANCHOR_DATE": "2004-03-01",
            **postgres.settings,
        },
    )
    readings(tmp_path / "readings.txt")
    made.run("load", str(tmp_path / "readings.txt"))
    return made


def sqlite_files(installation: Installation) -> set[str]:
    return {str(path.relative_to(installation.data_dir)) for path in installation.data_dir.rglob("*.*db")} | {
        str(path.relative_to(installation.data_dir)) for path in installation.data_dir.rglob("mlflow.sqlite")
    }


def test_materializing_keeps_runs_and_models_on_the_server(installation: Installation, postgres: Instance) -> None:
    installation.run("materialize", "--all")
    assert query(postgres.place, "select status from runs", database="dagster").split() == ["SUCCESS"] * 3
    assert query(postgres.place, "select name, version from model_versions", database="mlflow") == "sieis-anomaly|1"
    assert sqlite_files(installation) == set()
    # The address, which holds a password, is in no file that was written.
    secret = postgres.credentials["password"].encode()
    assert not [path for path in installation.data_dir.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_each_process_by_itself_runs_a_job_from_the_queue(installation: Installation, postgres: Instance) -> None:
    code, web, mlflow = free_port(), free_port(), free_port()
    installation.environment |= {
        "SIEIS_DAGSTER_CODE": f"127.0.0.1:{code}",
        "SIEIS_MLFLOW_URI": f"http://127.0.0.1:{mlflow}",
        "MLFLOW_BACKEND_STORE_URI": postgres.settings["SIEIS_MLFLOW_DATABASE_URL"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    served = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow), "--workers", "1"]
    served += ["--artifacts-destination", str(installation.folder / "artifacts")]
    graphql = f"http://127.0.0.1:{web}/graphql"

    def ask(text: str, **variables: str) -> dict:
        answer = httpx.post(graphql, json={"query": text, "variables": variables}, timeout=60, trust_env=False)
        return answer.json()["data"]

    def loaded() -> bool:
        entries = ask(LOCATIONS)["workspaceOrError"]["locationEntries"]
        assert all(
            entry["locationOrLoadError"] is None or "message" not in entry["locationOrLoadError"] for entry in entries
        ), entries
        return [(entry["name"], entry["loadStatus"]) for entry in entries] == [("sieis", "LOADED")]

    def start(name: str, *arguments: str, ready: Callable[[], bool]) -> contextlib.AbstractContextManager[None]:
        return installation.started(name, [*SIEIS, "dagster", *arguments], ready)

    with (
        installation.started("mlflow", served, lambda: answers(f"http://127.0.0.1:{mlflow}/health")),
        start("code", "code", "--port", str(code), ready=lambda: listens(code)),
        start(
            "webserver", "webserver", "--port", str(web), ready=lambda: answers(f"http://127.0.0.1:{web}/server_info")
        ),
        start("daemon", "daemon", ready=lambda: True),
    ):
        until(loaded, "the code location is loaded")
        launched = ask(LAUNCH, job="observe_archive")["launchRun"]
        run = launched["run"]["runId"]
        status = ""

        def ended() -> bool:
            nonlocal status
            status = ask(RUN, id=run)["runOrError"]["status"]
            return status in ("SUCCESS", "FAILURE", "CANCELED")

        until(ended, "the daemon has taken the run from the queue and the code location has run it")
        assert status == "SUCCESS"
        # The model goes to the MLflow server over HTTP, which keeps it on PostgreSQL and its files at its own place.
        installation.run("materialize", "--all")
        assert query(postgres.place, "select count(*) from model_versions", database="mlflow") == "1"
        assert any((installation.folder / "artifacts").rglob("model.skops"))
    assert sqlite_files(installation) == set()
