"""`sieis dagster …`: one process of Dagster each, for machines and containers that run one part each.

Belongs here: the commands, which give way to Dagster's own. Not here: all parts together (up.py).
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from sieis_cli.context import load_settings
from sieis_cli.folder import claim

_MODULE: Final = "sieis_platform.definitions"
_CODE_PORT: Final = 4000

Host = Annotated[str, typer.Option(help="Address to listen on.")]


def register(app: typer.Typer) -> None:
    """Add `dagster` to `app`."""
    group = typer.Typer(help="One process of Dagster each; `sieis up` runs them all.", no_args_is_help=True)
    group.command("webserver")(webserver)
    group.command("daemon")(daemon)
    group.command("code")(code)
    app.add_typer(group, name="dagster")


def webserver(
    host: Host = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on (SIEIS_DAGSTER_PORT).", show_default=False)
    ] = None,
) -> None:
    """Serve Dagster's UI until SIGTERM or Ctrl-C. It has no login: keep it on this machine or behind one that has."""
    from sieis_cli.parts import workspace

    settings = load_settings()
    _become(["dagster_webserver", *workspace(settings), "-h", host, "-p", str(port or settings.dagster_port)])


def daemon() -> None:
    """Run schedules, sensors and the run queue until SIGTERM or Ctrl-C."""
    from sieis_cli.parts import workspace

    _become(["dagster._daemon", "run", *workspace(load_settings())])


def code(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = _CODE_PORT,
) -> None:
    """Serve the definitions, and run what is launched, for webserver and daemon elsewhere (SIEIS_DAGSTER_CODE)."""
    from sieis_platform.defs.operations.home import LOCATION

    options = ["--module-name", _MODULE, "--location-name", LOCATION, "--use-python-environment-entry-point"]
    _become(["dagster", "api", "grpc", *options, "-h", host, "-p", str(port)])


def _become(command: Sequence[str]) -> None:
    from sieis_platform.defs.operations.home import environment
    from sieis_platform.telemetry import SWITCHES

    # The same process goes on as Dagster, so that signals and the exit code are Dagster's.
    # Passing the environment on is not reading configuration from it.
    settings = load_settings()
    claim(settings)
    whole = {**os.environ, **SWITCHES, **environment(settings)}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", *command, "--log-format", "json"], whole)  # noqa: S606 - our own
