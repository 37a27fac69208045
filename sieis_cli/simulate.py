"""`sieis simulate`: replays the data set onto the stream, and serves the control API while it does.

Belongs here: options, wiring, the summary. Not here: what is emitted when (sieis_streaming.simulator).
"""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sieis_cli.context import load_settings
from sieis_cli.folder import claim
from sieis_cli.signals import stop_event

if TYPE_CHECKING:
    from sieis_streaming.simulator import Summary

_MOMENTS = ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"]


def register(app: typer.Typer) -> None:
    """Add `simulate` to `app`."""
    app.command("simulate")(simulate)


def simulate(
    *,
    motes: Annotated[
        int | None,
        typer.Option(min=1, help="Motes emitted, the lowest ids first; beyond the data set, copies under new ids."),
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=0.001, max=1e6, help="Factor over the clock while catching up.")
    ] = None,
    keep_speed: Annotated[
        bool, typer.Option("--keep-speed", help="Keep the speed after catching up: timestamps run ahead of the clock.")
    ] = False,
    unpaced: Annotated[bool, typer.Option("--unpaced", help="Catch up as fast as it can.")] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1e6,
            help="Fixed load in records a second, stamped with the moment each is due; as many motes as it takes.",
        ),
    ] = None,
    start: Annotated[
        dt.datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="Start at this date, not at the kept position."),
    ] = None,
    until: Annotated[
        dt.datetime | None, typer.Option(formats=_MOMENTS, help="End before this platform time (UTC).")
    ] = None,
    max_records: Annotated[int | None, typer.Option(min=1, help="End after so many records.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Readings file; else SIEIS_DATA_FILE, the downloaded or a generated one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Replay the data set onto the stream under today's dates, for ever, until SIGTERM or Ctrl-C.

    A first start begins at today 00:00 UTC, catches up with the clock and then goes live; later starts go on where the
    last one was. Delivery is at least once: after a kill the readings of the last second are sent again, identically.
    With --until or --max-records it ends by itself; a stretch of the past is sent as fast as the broker may take it.
    Control API: http://127.0.0.1:5000/status.
    """
    from sieis_platform.state import State
    from sieis_streaming.control import ControlServer
    from sieis_streaming.dataset import data_file, open_dataset
    from sieis_streaming.simulator import Plan, Simulator

    if rate is not None and (unpaced or keep_speed):
        raise typer.BadParameter("--rate is a pace of its own; leave out --unpaced and --keep-speed")
    settings = load_settings()
    claim(settings, for_demo=True)
    stop = stop_event()
    plan = Plan.of(
        settings,
        motes=motes,
        speed=speed,
        unpaced=unpaced,
        keep_speed=keep_speed,
        rate=rate,
        start=start.date() if start else None,
        until_ns=int(until.replace(tzinfo=dt.UTC).timestamp() * 1_000_000) * 1_000 if until else None,
        max_records=max_records,
    )
    days, timeline = open_dataset(settings, data_file(settings, data))
    with State.open(settings) as state:
        simulator = Simulator(settings, plan, days, timeline, state, stop=stop)
        with ControlServer(simulator, settings.simulator_port, settings.simulator_host):
            summary = simulator.run()
    _print(summary, as_json)


def _print(summary: "Summary", as_json: bool) -> None:
    import msgspec

    if as_json:
        typer.echo(msgspec.json.encode(summary).decode())
        return
    Console(highlight=False).print(
        f"{summary.records:,} records of {summary.motes} motes in {summary.seconds:,.1f} s "
        f"({summary.records_per_second:,.0f}/s), up to {summary.position or 'nowhere yet'}"
    )
