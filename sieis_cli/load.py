"""`sieis load`: a file of readings into both stores, without the stream.

Belongs here: the command, its progress bar and its summary. Not here: the load (sieis_platform.history).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from sieis_cli.context import load_settings
from sieis_cli.folder import claim

if TYPE_CHECKING:
    from sieis_platform.history import LoadSummary
    from sieis_platform.settings import Settings


def register(app: typer.Typer) -> None:
    """Add `load` to `app`."""
    app.command("load")(load)


def load(
    file: Annotated[Path, typer.Argument(help="Readings in the Intel Lab format, plain or .gz.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Load a file of readings into the archive and, what is recent enough, into the hot store.

    Killed half-way, the next run goes on where the last commit ended; a second run of the same file writes nothing.
    Lines that cannot be used are counted by reason and kept in the rejects file.
    """
    import json

    settings = load_settings()
    claim(settings)
    summary = load_file(settings, file)
    if as_json:
        typer.echo(json.dumps(summary.as_dict()))
    else:
        show(summary)


def load_file(settings: "Settings", file: Path) -> "LoadSummary":
    """Load `file` with a progress bar on a terminal. Raises: as HistoricalLoad.load."""
    from sieis_platform import crash
    from sieis_platform.history import HistoricalLoad
    from sieis_platform.history import Progress as Step
    from sieis_platform.stores.open import open_archive, open_hot

    crash.arm(settings.crash_at)
    hot = open_hot(settings)
    bar = Progress(
        TextColumn("loading"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    try:
        with bar:
            task = bar.add_task("load", total=None, rate="")

            def show_progress(step: Step) -> None:
                elapsed = bar.tasks[0].elapsed or 0
                rate = f"{step.rows:,} rows, {step.rows / elapsed:,.0f}/s" if elapsed > 0 else ""
                bar.update(task, completed=step.bytes_done, total=step.bytes_total, rate=rate)

            return HistoricalLoad(settings, hot, open_archive(settings)).load(file, show_progress)
    finally:
        hot.close()


def show(summary: "LoadSummary") -> None:
    """Print a load's summary: read, written, skipped and why."""
    table = Table(title=f"Loaded {summary.file}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    if summary.resumed_at_byte:
        table.add_row("resumed at byte", f"{summary.resumed_at_byte:,}")
    table.add_row("lines read", f"{summary.lines_read:,}")
    table.add_row("rows in the archive", f"{summary.rows_archive:,}")
    table.add_row("rows in the hot store", f"{summary.rows_hot:,}")
    table.add_row("older than the hot retention (archive only)", f"{summary.hot_beyond_retention:,}")
    table.add_row("identical readings dropped", f"{summary.duplicates:,}")
    for reason, count in sorted(summary.rejected.items()):
        table.add_row(f"rejected: {reason}", f"{count:,}")
    for reason, count in sorted(summary.skipped.items()):
        if count:
            table.add_row(f"skipped: {reason}", f"{count:,}")
    if summary.rejects_file:
        table.add_row("rejects kept in", summary.rejects_file)
    table.add_row("seconds", f"{summary.seconds:.1f}")
    if summary.lines_read and summary.seconds:
        table.add_row("lines/s", f"{summary.lines_read / summary.seconds:,.0f}")
    else:
        table.add_row("", "already loaded: nothing to do")
    Console().print(table)
