"""`python -m tools.services up|down|status|env|install`: the real servers of this machine, from the command line.

Belongs here: the commands, how they look, and who carries them out: docker-compose.yml where a Docker engine answers
(docker.py), else processes of this machine (background.py).
"""

import json
import shlex
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sieis_cli.context import load_settings
from sieis_cli.setup import keep_lines
from sieis_platform.errors import SieisError
from tools.services import install as installing
from tools.services.background import Background
from tools.services.cache import Cache
from tools.services.docker import SERVED, Compose, look_for_engine
from tools.services.servers import SERVERS, select
from tools.services.servers.base import Server

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
_progress = Console(stderr=True, highlight=False, soft_wrap=True)
_out = Console(highlight=False, soft_wrap=True)

Only = Annotated[str, typer.Option("--only", help=f"Comma-separated, of: {', '.join(SERVERS)}; unset: all.")]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="Folder of the installs (SIEIS_SERVICES_CACHE).")]
Native = Annotated[bool, typer.Option("--native", help="Without Docker, although an engine answers.")]
_PROJECT = Path(__file__).resolve().parents[2]
_ENV_FILE = Path(".env")
_COLOURS = {"running": "green", "not answering": "red", "stopped": "yellow", "not installed": "dim"}


@app.command()
def install(only: Only = "", cache: CacheOption = None) -> None:
    """Install what is missing; start nothing."""
    installing.install(_servers(only), _cache(cache), _say)


@app.command()
def up(only: Only = "", cache: CacheOption = None, native: Native = False) -> None:
    """Install and start the servers that are not running; they go on when this command has ended."""
    composed, own = _share(only, native=native)
    if composed:
        Compose(_PROJECT).up(composed, _say)
    if own:
        _background(cache).up(own, _say)


@app.command()
def down(
    only: Only = "",
    delete: Annotated[bool, typer.Option("--delete", help="Remove their data and credentials too.")] = False,
    native: Native = False,
) -> None:
    """Stop them, the last started first; data, ports and credentials are kept for the next `up`."""
    composed, own = _share(only, native=native)
    if own:
        _background(None).down(own[::-1], _say, delete=delete)
    if composed:
        Compose(_PROJECT).down(composed[::-1], _say, delete=delete)


@app.command()
def status(
    only: Only = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    cache: CacheOption = None,
    native: Native = False,
) -> None:
    """How each server is, asked in its own protocol; exit code 1 when one that should run does not answer."""
    composed, own = _share(only, native=native)
    found = Compose(_PROJECT).status(composed) if composed else []
    found += _background(cache).status(own)
    if as_json:
        _out.print_json(json.dumps([asdict(one) for one in found]))
    else:
        table = Table("server", "state", "address", "process", "log", box=None)
        for one in found:
            colour = _COLOURS[one.state]
            table.add_row(one.name, f"[{colour}]{one.state}[/]", one.address, str(one.pid or ""), one.log)
        _out.print(table, width=None if _out.is_terminal else 200)  # a file has no width to fit into
    if any(one.state == "not answering" for one in found):
        raise typer.Exit(1)


@app.command()
def env(
    only: Only = "",
    write: Annotated[
        bool, typer.Option("--write", help="Into .env, in place of the lines of the same names, instead of printing.")
    ] = False,
    native: Native = False,
) -> None:
    """SIEIS_* lines, secrets among them, that make SIEIS use the running servers."""
    composed, own = _share(only, native=native)
    settings = _background(None).settings(own) | (Compose(_PROJECT).settings(composed) if composed else {})
    if write:
        keep_lines(_ENV_FILE, {name: shlex.quote(value) for name, value in settings.items()})
        _progress.print(f"{len(settings)} settings are now in {_ENV_FILE}", markup=False)
        return
    for name, value in settings.items():
        _out.print(f"{name}={shlex.quote(value)}", markup=False)


def _servers(only: str) -> list[Server]:
    return select([name.strip() for name in only.split(",") if name.strip()] or SERVERS)


def _share(only: str, *, native: bool) -> tuple[list[str], list[Server]]:
    """What Docker is to carry out, and what processes of this machine are; those unknown to Compose only by name."""
    asked = _servers(only)
    if native:
        return [], asked
    engine = look_for_engine()
    if engine.reason:  # building them takes ten minutes, a group to be in (`docker`) or a daemon to start none
        _say("docker", f"{engine.reason}; so the servers are processes of this machine (as with --native)")
    if not engine.answers:
        return [], asked
    composed = [server.name for server in asked if server.name in SERVED]
    return composed, [server for server in asked if server.name not in SERVED] if only else []


def _cache(folder: Path | None) -> Cache:
    return Cache(folder.expanduser().absolute() if folder else load_settings(complete=False).services_cache)


def _background(cache: Path | None) -> Background:
    return Background(load_settings(complete=False).data_dir / "services", _cache(cache))


def _say(name: str, text: str) -> None:
    _progress.print(f"{name:<10} {text}", markup=False)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # so that builds and starts under way are ended on the way out


def main() -> int:
    """Run a command; a known error is one message and exit code 1."""
    signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except SieisError as error:
        _progress.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
