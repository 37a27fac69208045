"""The parts of SIEIS that `sieis up` runs: their commands, addresses, and how each says that it is ready.

Belongs here: what is run. Not here: running it (supervisor.py).
"""

import errno
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil

from sieis_cli.names import Name
from sieis_cli.supervisor import Part
from sieis_platform.defs.operations.home import environment, prepare_workspace
from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings, reached_at
from sieis_platform.telemetry import SWITCHES

ROOT: Final = Path(__file__).resolve().parents[1]
"""The checkout: workspace.yaml and the dashboard's app.py lie here."""

_JSON_LOGS: Final = ("--log-format", "json")  # else Dagster colours its lines even in a file

_LOOPBACK: Final = "127.0.0.1"
_ANSWER_SECONDS: Final = 2.0

_DAEMONS_QUERY: Final = "{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }"


class PortTakenError(FatalError):
    """A port that a part needs is in use by another process."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A part, and what a person wants to know of it: what it does, its address, the setting that moves its port."""

    part: Part
    does: str
    url: str = ""
    host: str = _LOOPBACK
    port: int | None = None
    port_setting: str = ""


def describe(settings: Settings, names: Sequence[Name]) -> list[Described]:
    """The parts of these names that `settings` call for: no broker beside Kafka, no MLflow beside an MLflow server.

    The folders in which Dagster and MLflow keep their state are made.
    """
    wanted = [name for name in Name if name in names]
    if not settings.embedded_broker:
        wanted = [name for name in wanted if name is not Name.BROKER]
    if settings.mlflow_location.startswith(("http://", "https://")):
        wanted = [name for name in wanted if name is not Name.MLFLOW]
    return [_PARTS[name](settings, wanted) for name in wanted]


def catch_up(settings: Settings) -> list[str]:
    """Options of `simulate` that bring the building to the present at once: at 100x a day takes a quarter of an hour.

    The pace is then the one that the embedded broker is given. A speed that was asked for is kept.
    """
    return [] if "simulator_speed" in settings.model_fields_set else ["--speed", "1000000"]


def check_ports(parts: Sequence[Described]) -> None:
    """Raises: PortTakenError, naming each port that cannot be had, who holds it, and the setting that moves it."""
    lines = [
        f"port {part.port} ({part.part.name}) {refusal}; "
        f"set {part.port_setting} to a free port, or leave the part out: --without {part.part.name}"
        for part in parts
        if part.port is not None and (refusal := _refusal(part.host, part.port))
    ]
    if lines:
        raise PortTakenError("\n".join(lines))


# -- each part -----------------------------------------------------------------------------------------------------


def _broker(settings: Settings, _wanted: Sequence[Name]) -> Described:
    def published() -> bool:
        from sieis_streaming.broker import BrokerUnavailableError, locate

        try:
            locate(settings, timeout=0)
        except BrokerUnavailableError:
            return False
        return True

    return Described(
        part=Part(name=Name.BROKER, command=_sieis("broker"), ready=published, start_stage=0, stop_stage=2),
        does="embedded broker, in memory",
    )


def _consumer(settings: Settings, _wanted: Sequence[Name]) -> Described:
    url = f"{reached_at(settings.metrics_host, settings.metrics_port)}/metrics"
    return Described(
        part=Part(name=Name.CONSUMER, command=_sieis("consume"), ready=_answers(url), stop_stage=1),
        does="stream into hot store and archive; metrics",
        url=url,
        host=settings.metrics_host,
        port=settings.metrics_port,
        port_setting="SIEIS_METRICS_PORT",
    )


def _simulator(settings: Settings, _wanted: Sequence[Name]) -> Described:
    url = f"{reached_at(settings.simulator_host, settings.simulator_port)}/status"
    return Described(
        part=Part(
            name=Name.SIMULATOR,
            command=[*_sieis("simulate"), *catch_up(settings)],
            ready=_answers(url, host="localhost"),  # it answers to local names only, wherever it listens
        ),
        does="readings onto the stream; its control API",
        url=url,
        host=settings.simulator_host,
        port=settings.simulator_port,
        port_setting="SIEIS_SIMULATOR_PORT",
    )


def _api(settings: Settings, _wanted: Sequence[Name]) -> Described:
    return Described(
        part=Part(name=Name.API, command=_sieis("api"), ready=_answers(f"{settings.api_url}/api/v1/health")),
        does="the API and its documentation",
        url=f"{settings.api_url}/docs",
        host=settings.api_host,
        port=settings.api_port,
        port_setting="SIEIS_API_PORT",
    )


def _dashboard(settings: Settings, _wanted: Sequence[Name]) -> Described:
    url = f"http://{_LOOPBACK}:{settings.dashboard_port}"
    options = {
        "server.port": str(settings.dashboard_port),
        "server.address": _LOOPBACK,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    command = [*_python("streamlit"), "run", str(ROOT / "sieis_ui" / "app.py")]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    return Described(
        part=Part(
            name=Name.DASHBOARD,
            command=command,
            ready=_answers(f"{url}/_stcore/health"),
            environment={**SWITCHES, "SIEIS_API_URL": settings.api_url},
        ),
        does="the dashboard",
        url=url,
        port=settings.dashboard_port,
        port_setting="SIEIS_DASHBOARD_PORT",
    )


def _dagster(settings: Settings, _wanted: Sequence[Name]) -> Described:
    url = f"http://{_LOOPBACK}:{settings.dagster_port}"
    command = [
        *_python("dagster_webserver"),
        *workspace(settings),
        *_JSON_LOGS,
        "-h",
        _LOOPBACK,
        "-p",
        str(settings.dagster_port),
    ]
    return Described(
        part=Part(
            name=Name.DAGSTER,
            command=command,
            ready=_answers(f"{url}/server_info"),
            environment=_dagster_environment(settings),
        ),
        does="lineage, runs, schedules",
        url=url,
        port=settings.dagster_port,
        port_setting="SIEIS_DAGSTER_PORT",
    )


def _daemon(settings: Settings, wanted: Sequence[Name]) -> Described:
    graphql = f"http://{_LOOPBACK}:{settings.dagster_port}/graphql"
    return Described(
        part=Part(
            name=Name.DAEMON,
            command=[*_python("dagster._daemon"), "run", *workspace(settings), *_JSON_LOGS],
            # Only the web server tells of the daemon's heartbeats; without it, running must do.
            ready=_daemons_healthy(graphql) if Name.DAGSTER in wanted else _at_once,
            environment=_dagster_environment(settings),
            start_stage=2,  # two processes that make the same SQLite files at once fail now and then
        ),
        does="runs schedules and automation",
    )


def _mlflow(settings: Settings, _wanted: Sequence[Name]) -> Described:
    url = f"http://{_LOOPBACK}:{settings.mlflow_port}"
    folder = settings.data_dir / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)  # MLflow's SQLite does not make its folder
    command = [*_python("mlflow"), "server", "--host", _LOOPBACK, "--port", str(settings.mlflow_port), "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    return Described(
        part=Part(
            name=Name.MLFLOW,
            command=command,
            ready=_answers(f"{url}/health"),
            # The address of its database is no option: every user of the machine can read those. Its job runners (for
            # hosted evaluations) would be two more processes that nothing here uses.
            environment={
                **SWITCHES,
                "MLFLOW_BACKEND_STORE_URI": settings.mlflow_database,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        ),
        does="experiments and the model registry",
        url=url,
        port=settings.mlflow_port,
        port_setting="SIEIS_MLFLOW_PORT",
    )


_PARTS: Final[Mapping[Name, Callable[[Settings, Sequence[Name]], Described]]] = {
    Name.BROKER: _broker,
    Name.CONSUMER: _consumer,
    Name.SIMULATOR: _simulator,
    Name.API: _api,
    Name.DASHBOARD: _dashboard,
    Name.DAGSTER: _dagster,
    Name.DAEMON: _daemon,
    Name.MLFLOW: _mlflow,
}


def _dagster_environment(settings: Settings) -> dict[str, str]:
    return {**SWITCHES, **environment(settings)}


def workspace(settings: Settings) -> list[str]:
    """Options by which webserver and daemon find the definitions: served elsewhere, or loaded by themselves."""
    return ["-w", str(prepare_workspace(settings) if settings.dagster_code else ROOT / "workspace.yaml")]


def _sieis(command: str) -> list[str]:
    return [*_python("sieis_cli"), command]


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


# -- readiness and ports -------------------------------------------------------------------------------------------


def _at_once() -> bool:
    return True


def _answers(url: str, *, host: str = "") -> Callable[[], bool]:
    """Whether `url` answers, asked by the name `host` where one is given."""
    headers = {"Host": host} if host else {}

    def answers() -> bool:
        try:
            return httpx.get(url, headers=headers, timeout=_ANSWER_SECONDS, trust_env=False).is_success
        except httpx.TransportError:
            return False

    return answers


def _daemons_healthy(graphql: str) -> Callable[[], bool]:
    def healthy() -> bool:
        try:
            answer = httpx.post(graphql, json={"query": _DAEMONS_QUERY}, timeout=_ANSWER_SECONDS, trust_env=False)
        except httpx.TransportError:
            return False
        if not answer.is_success:
            return False
        statuses = answer.json()["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
        return all(status["healthy"] for status in statuses if status["required"])

    return healthy


def _refusal(host: str, port: int) -> str:
    """Why a server could not listen there; empty where it could."""
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        with socket.socket(family) as probe:
            # As the servers do: connections of the last run that linger in TIME_WAIT do not count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"is taken{_holder(port)}"
        return f"cannot be listened on at {host} ({error.strerror})"
    return ""


def _holder(port: int) -> str:
    """` by NAME (pid N)` where the system tells who listens on a port, else nothing."""
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:  # other users' connections are not shown to everyone
        return ""
    return ""
