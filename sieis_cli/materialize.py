"""`sieis materialize`: aggregates, checks, model and anomalies of some days, now.

Belongs here: the command and its table. Not here: the run (sieis_platform.defs.operations.materialize).
"""

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sieis_cli.context import load_settings
from sieis_platform.errors import FatalError

if TYPE_CHECKING:
    from sieis_platform.defs.operations.materialize import MaterializeSummary


class MaterializeFailedError(FatalError):
    """A step or a check of severity error failed."""


def register(app: typer.Typer) -> None:
    """Add `materialize` to `app`."""
    app.command("materialize")(materialize)


def materialize(
    days: Annotated[
        str | None,
        typer.Option("--days", metavar="FIRST..LAST", help="Days as YYYY-MM-DD..YYYY-MM-DD, or one day; default: all."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All days that have readings (the default).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Aggregate, check, train and score days through Dagster; the runs are kept and shown in its UI.

    Exit code 1 where a step or a check of severity error failed. Warnings are about the building: they do not fail it.
    """
    if every and days:
        raise typer.BadParameter("give either --days or --all")
    first, last = _parse(days) if days else (None, None)

    import dataclasses
    import json

    from sieis_platform.defs.operations.materialize import materialize as run

    settings = load_settings()
    if as_json:
        summary = run(settings, first, last)
        typer.echo(json.dumps(dataclasses.asdict(summary), default=str))
    else:
        console = Console()
        with console.status("materializing…"):
            summary = run(settings, first, last)
        _show(console, summary)
    if summary.failures:
        raise MaterializeFailedError(
            "\n".join(["not everything succeeded:", *(f"  {why}" for why in summary.failures)])
        )


def _parse(days: str) -> tuple[dt.date, dt.date]:
    first, dots, last = days.partition("..")
    try:
        window = dt.date.fromisoformat(first.strip()), dt.date.fromisoformat((last if dots else first).strip())
    except ValueError:
        raise typer.BadParameter(f"{days!r} is not YYYY-MM-DD or YYYY-MM-DD..YYYY-MM-DD") from None
    if window[0] > window[1]:
        raise typer.BadParameter(f"{days!r} ends before it begins")
    return window


def _show(console: Console, summary: "MaterializeSummary") -> None:
    table = Table(title=f"{summary.first} to {summary.last}", show_header=False)
    for name, value in (
        ("partitions materialized", f"{summary.partitions_materialized:,}"),
        ("checks passed", f"{summary.checks_passed:,}"),
        ("checks warned", f"{summary.checks_warned:,}"),
        ("checks failed", f"{summary.checks_failed:,}"),
        ("seconds", f"{summary.seconds:.1f}"),
    ):
        table.add_row(name, value)
    console.print(table)
    for warning in summary.warnings:
        console.print(f"[yellow]warning[/] {warning}", highlight=False)
