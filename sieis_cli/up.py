"""`sieis up` and `sieis down`: every part together, in the foreground until Ctrl-C or detached until `down`.

Belongs here: the two commands, the run's state file, what is shown. Not here: the parts, nor running them; the lock
(folder.py).
"""

import contextlib
import datetime as dt
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import psutil
import typer
from rich.console import Console
from rich.table import Table

from sieis_cli.context import load_settings
from sieis_cli.folder import held, is_held, unmark
from sieis_cli.names import Name
from sieis_platform.errors import FatalError

if TYPE_CHECKING:
    from sieis_cli.parts import Described
    from sieis_cli.supervisor import Running, Supervisor
    from sieis_platform.settings import Settings

_LOOK_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 60.0  # three stages of 15 s grace at most, and the sweep for survivors


class LeftoversError(FatalError):
    """An earlier `sieis up` on this data directory left parts behind."""


class NothingToRunError(FatalError):
    """No part is left to run."""


class StartError(FatalError):
    """What had to come before the parts, or the detached run itself, failed."""


class PartState(msgspec.Struct, frozen=True, kw_only=True):
    """A part in the state file."""

    name: str
    pid: int
    url: str
    memory_mb: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the state file tells of a run: `pid` is the supervisor's, `run` marks every process of the run."""

    pid: int
    run: str
    started_at: dt.datetime
    ready: bool = False
    parts: list[PartState] = []


def register(app: typer.Typer) -> None:
    """Add `up` and `down` to `app`."""
    app.command("up")(up)
    app.command("down")(down)


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when all is ready; `sieis down` stops it.")
    ] = False,
    only: Annotated[list[Name] | None, typer.Option(help="Run this part only; may be repeated.")] = None,
    without: Annotated[list[Name] | None, typer.Option(help="Leave this part out; may be repeated.")] = None,
    load: Annotated[
        bool, typer.Option(help="First load history and derive from it, so that there is something to see.")
    ] = True,
) -> None:
    """Run every part together and print the addresses: broker, simulator, consumer, API, dashboard, Dagster, MLflow.

    Ctrl-C or SIGTERM stops them in order, so that nothing taken in is lost, with exit code 0. When a part dies, the
    rest is stopped too and the last lines of its log are shown. Logs are in logs/ of the data directory.
    """
    from sieis_cli.parts import check_ports, describe

    settings = load_settings()
    names = _chosen(only, without)
    parts = describe(settings, names)
    with held(settings):
        _refuse_leftovers(settings)
        check_ports(parts)
        unmark(settings)
        if load:
            _prepare(settings, names)
        if not detach:
            _run(settings, parts)
            return
    _detach(settings, names)


def down() -> None:
    """Stop what `sieis up` runs on this data directory, and whatever a killed one left behind."""
    settings = load_settings()
    console = Console()
    state = _read_state(settings)
    if state is None:
        console.print("nothing is running")
        return
    if is_held(settings):
        _end(state.pid)
    swept = _sweep(state.run)
    _state_file(settings).unlink(missing_ok=True)
    console.print("stopped" + (f"; ended {swept} processes that were left behind" if swept else ""))


def _end(pid: int) -> None:
    """SIGTERM, and wait until the process is gone: a supervisor lets go of the folder a moment before.

    One that takes longer than it may is left to the sweep.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.terminate()
        # What its parent has not asked for yet is gone as well, but not for psutil's own wait.
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)


# -- running -------------------------------------------------------------------------------------------------------


def _run(settings: "Settings", parts: "Sequence[Described]") -> None:
    from sieis_cli.supervisor import Supervisor

    console = Console()
    supervisor = Supervisor([part.part for part in parts], settings.data_dir / "logs", secrets.token_hex(8))
    _stop_on_signals(supervisor)
    started_at = dt.datetime.now(dt.UTC)
    _write_state(settings, supervisor, parts, started_at, ready=False)
    try:
        with console.status("starting ...") as status:

            def changed(running: "Running") -> None:
                console.print(f"[green]ready[/]  {running.part.name}")
                waiting = [other.part.name for other in supervisor.running if not other.ready]
                status.update(f"starting {', '.join(waiting)} ...")

            supervisor.start(changed)
        if not supervisor.stopping.is_set():
            _write_state(settings, supervisor, parts, started_at, ready=True)
            _show(console, settings, _read_state(settings))
            console.print(
                "Ctrl-C stops everything." if sys.stdin.isatty() else "SIGTERM or `sieis down` stops everything."
            )
            supervisor.watch()
    finally:
        with console.status("stopping (once more Ctrl-C kills) ..."):
            supervisor.stop()
        _state_file(settings).unlink(missing_ok=True)
    console.print("stopped")


def _stop_on_signals(supervisor: "Supervisor") -> None:
    def stop(*_: object) -> None:
        if supervisor.stopping.is_set():
            supervisor.hurry.set()
        supervisor.stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def _detach(settings: "Settings", names: Sequence[Name]) -> None:
    from sieis_cli.supervisor import last_lines

    log = settings.data_dir / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sieis_cli", "up", "--no-load"]
    command += [word for name in names for word in ("--only", name)]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    console = Console()
    try:
        with console.status("starting ..."):
            while (state := _read_state(settings)) is None or not state.ready or state.pid != process.pid:
                if process.poll() is not None:
                    raise StartError(f"the start failed; {log} ends:\n{last_lines(log, 40)}")
                time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    _show(console, settings, state)
    console.print("`make down` or `sieis down` stops everything.")


def _prepare(settings: "Settings", names: Sequence[Name]) -> None:
    """History, and on a first start what is derived from it, so that there is something to see."""
    from sieis_platform.stores.open import open_marts
    from sieis_streaming.dataset import data_file

    console = Console()
    console.print("history first; what is loaded already is not loaded again")
    if not _sieis("load", str(data_file(settings))):
        raise StartError("history could not be loaded (see above); `sieis up --no-load` starts without it")
    if Name.DAGSTER in names and not open_marts(settings).exists("daily_aggregates"):
        console.print("aggregates, model and anomalies of all of it, this once; later the schedules keep them up")
        if not _sieis("materialize", "--all"):
            console.print("[yellow]not everything could be derived (see above); the schedules try again[/]")


def _sieis(*arguments: str) -> bool:
    """Run a command of ours to its end; whether it succeeded. In a process of its own, which gives its memory back."""
    return subprocess.run([sys.executable, "-m", "sieis_cli", *arguments], check=False).returncode == 0  # noqa: S603 - our own


def _chosen(only: Sequence[Name] | None, without: Sequence[Name] | None) -> list[Name]:
    chosen = [name for name in Name if name in (only or list(Name)) and name not in (without or ())]
    if not chosen:
        raise NothingToRunError("--only and --without leave no part to run")
    return chosen


def _show(console: Console, settings: "Settings", state: State | None) -> None:
    from sieis_cli.parts import describe

    if state is None:
        return
    does = {part.part.name: part.does for part in describe(settings, list(Name))}
    table = Table(title="SIEIS is up", caption=f"data in {settings.data_dir}, logs in {settings.data_dir / 'logs'}")
    table.add_column("part")
    table.add_column("address", no_wrap=True)
    table.add_column("what it does")
    table.add_column("MB", justify="right")
    for part in state.parts:
        table.add_row(part.name, part.url, does[part.name], str(part.memory_mb))
    table.add_section()
    table.add_row("", "", "together", str(sum(part.memory_mb for part in state.parts)))
    console.print(table)


# -- one run on a data directory -----------------------------------------------------------------------------------


def _refuse_leftovers(settings: "Settings") -> None:
    from sieis_cli.supervisor import survivors

    state = _read_state(settings)
    if state is not None and survivors(state.run):
        raise LeftoversError(
            f"an earlier `sieis up` on {settings.data_dir} was killed and left parts running; `sieis down` ends them"
        )


def _sweep(run: str) -> int:
    from sieis_cli.supervisor import end_processes, survivors

    left = survivors(run)
    end_processes(left)
    return len(left)


def _write_state(
    settings: "Settings",
    supervisor: "Supervisor",
    parts: "Sequence[Described]",
    started_at: dt.datetime,
    *,
    ready: bool,
) -> None:
    urls = {part.part.name: part.url for part in parts}
    state = State(
        pid=os.getpid(),
        run=supervisor.run,
        started_at=started_at,
        ready=ready,
        parts=[
            PartState(
                name=running.part.name,
                pid=running.process.pid,
                url=urls[running.part.name],
                memory_mb=running.memory_bytes // 1_000_000,
            )
            for running in supervisor.running
        ],
    )
    draft = _state_file(settings).with_suffix(".tmp")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
    draft.replace(_state_file(settings))


def _read_state(settings: "Settings") -> State | None:
    try:
        return msgspec.json.decode(_state_file(settings).read_bytes(), type=State)
    except FileNotFoundError:
        return None


def _state_file(settings: "Settings") -> Path:
    return settings.data_dir / "up.json"
