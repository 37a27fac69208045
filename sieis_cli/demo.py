"""`sieis demo`: the whole way of a reading, once, and what came out of it.

Belongs here: the command and how the report looks. Not here: the steps (demo_steps.py).
"""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sieis_cli.context import load_settings
from sieis_platform.errors import FatalError

if TYPE_CHECKING:
    from sieis_cli.demo_steps import DemoReport


class ReportError(FatalError):
    """The report cannot be written."""


def register(app: typer.Typer) -> None:
    """Add `demo` to `app`."""
    app.command("demo")(demo)


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Readings in the Intel Lab format, plain or .gz; else SIEIS_DATA_FILE, or generated."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the figures to this file, as JSON.")] = None,
) -> None:
    """Load history, stream a day, derive, query: the whole platform once, with a summary; ends by itself.

    Works in SIEIS_DATA_DIR, on the embedded setting, with every part real: broker, consumer, archive, hot store,
    Dagster, MLflow, API. Starts over each time, and refuses a folder that holds anything but an earlier demo: once
    `sieis up` or another command has written to it, it is yours.

    With SIEIS_PROFILE=services the same on the servers of the settings, in topics, buckets and databases of its own
    (named like yours, with `-demo` behind), which it makes anew each time; yours are not touched.
    """
    from sieis_cli.demo_steps import Demo
    from sieis_streaming.dataset import data_file

    settings = load_settings()
    if report is not None and not report.absolute().parent.is_dir():
        raise ReportError(f"the report cannot be written to {report}: its folder does not exist")
    console = Console()
    file = data_file(settings, data)
    run = Demo(settings, file)
    steps = (
        ("load", f"loading {file.name} into both stores", run.load),
        ("stream", "streaming through the broker into both stores", run.stream),
        ("verify", "accounting for every position", run.verify),
        ("derive", "aggregates, checks, model and scores in Dagster", run.derive),
        ("query", "asking the API", run.query),
    )
    with run.prepared():
        for number, (name, text, step) in enumerate(steps, 1):
            console.print(f"[bold]{number}/{len(steps)}[/] {text} ...", highlight=False)
            with run.timed(name):
                step()
    if report is not None:
        report.write_text(json.dumps(dataclasses.asdict(run.report), indent=2) + "\n")
    _show(console, run.report)


def _show(console: Console, report: "DemoReport") -> None:
    from sieis_cli.demo_steps import PLACES_FILE

    table = Table(title="What came out", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row(
        "lines read, rows loaded, rejected", f"{report.lines_read:,}  {report.rows_loaded:,}  {report.rejected:,}"
    )
    table.add_row("load", f"{report.load_rows_per_second:,} rows/s")
    table.add_row(
        "streamed, archived, hot", f"{report.stream_produced:,}  {report.stream_archived:,}  {report.stream_hot:,}"
    )
    table.add_row("duplicates, dead letters, lost", f"{report.duplicates:,}  {report.dead_letters:,}  {report.lost:,}")
    table.add_row(
        "produce to readable, p50, p99", f"{report.e2e_latency_p50_ms:,.0f} ms  {report.e2e_latency_p99_ms:,.0f} ms"
    )
    table.add_section()
    table.add_row("rows in the archive", f"{report.rows_archive:,}")
    table.add_row("rows in the hot store (30 days)", f"{report.rows_hot:,}")
    table.add_section()
    table.add_row("partitions materialized", f"{report.partitions_materialized:,}")
    table.add_row("checks passed", f"{report.checks_passed:,}")
    table.add_row("checks that warn about the building", f"{report.checks_warned:,}")
    table.add_row("checks failed", f"{report.checks_failed:,}")
    table.add_row("anomaly model", report.model)
    table.add_row("anomalies listed by the API", f"{report.anomalies:,}")
    table.add_row("motes in the API", f"{report.motes_live:,}")
    table.add_section()
    for step, seconds in report.step_seconds.items():
        table.add_row(f"seconds to {step}", f"{seconds:.1f}")
    table.add_row("seconds in all", f"{report.seconds:.1f}")
    console.print(table)
    for warning in report.warnings:
        console.print(f"[yellow]warning[/] {warning}", highlight=False)
    if report.profile == "services":
        console.print(
            "\nEverything is on the servers, in places whose names end in `demo`. "
            f"To look at it: [bold]. {Path(report.data_dir) / PLACES_FILE}[/]",
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print(f"\nEverything is in {report.data_dir}.", highlight=False, soft_wrap=True)
    console.print(
        "Next: [bold]make up[/], then\n"
        "  http://127.0.0.1:8501       the dashboard\n"
        "  http://127.0.0.1:8000/docs  the API\n"
        "  http://127.0.0.1:3000       lineage, runs and checks in Dagster\n"
        "  http://127.0.0.1:5001       the model in MLflow\n",
        highlight=False,
        soft_wrap=True,
    )
