"""`sieis data`: fetch the real data set, make one up, or look at what a file holds.

Belongs here: the commands and what they print. Not here: downloading, generating, parsing (sieis_platform.sources).
"""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sieis_cli.context import load_settings

if TYPE_CHECKING:
    from sieis_platform.sources.profiles import Profile

_FIRST_DAY = dt.date(2004, 2, 28)

app = typer.Typer(no_args_is_help=True, help="The data set: download the real one, generate one, look at a file.")


def _date(text: str | dt.date) -> dt.date:
    return text if isinstance(text, dt.date) else dt.date.fromisoformat(text)


def register(root: typer.Typer) -> None:
    """Add the group `data` to `root`."""
    root.add_typer(app, name="data")


@app.command()
def download() -> None:
    """Download the Intel Lab readings (34 MB) and the floor plan into the data directory.

    An interrupted download goes on where it stopped. Addresses: SIEIS_DATA_URL, SIEIS_MOTE_LOCATIONS_URL.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from sieis_platform.sources.download import fetch, locations_path, readings_path

    settings = load_settings()
    console = Console()
    wanted = (
        (settings.data_url, readings_path(settings), settings.data_sha256),
        (settings.mote_locations_url, locations_path(settings), ""),
    )
    for url, target, sha256 in wanted:
        columns = (TextColumn(target.name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(target.name, total=None)
            done = fetch(
                url,
                target,
                sha256=sha256,
                progress=lambda have, total, bar=bar, task=task: bar.update(task, completed=have, total=total),
            )
        state = "already there" if done.already_there else "downloaded"
        console.print(f"{state}: {done.path} ({done.size_bytes:,} bytes)", soft_wrap=True, highlight=False)


@app.command()
def generate(
    out: Annotated[Path, typer.Argument(help="File to write; .gz packs it.")],
    *,
    motes: Annotated[int, typer.Option(min=1, help="Number of motes.")] = 42,
    days: Annotated[int, typer.Option(min=1, help="Number of days.")] = 35,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 2004,
    first_day: Annotated[dt.date, typer.Option(parser=_date, metavar="YYYY-MM-DD", help="First date.")] = _FIRST_DAY,
    labels: Annotated[Path | None, typer.Option(help="CSV of the injected faults.")] = None,
) -> None:
    """Write a made-up data set in the same format, with labelled faults, outages and dying batteries."""
    from rich.progress import Progress

    from sieis_platform.sources import generator

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("motes", total=motes)
        made = generator.generate(
            out,
            labels,
            motes=motes,
            days=days,
            seed=seed,
            first_day=first_day,
            progress=lambda done, _: bar.update(task, completed=done),
        )
    table = _table(str(made.path))
    table.add_row("lines", f"{made.lines:,}")
    table.add_row("motes", f"{made.motes}")
    table.add_row("days", f"{made.days} from {made.first_day}")
    table.add_row("dying motes", ", ".join(map(str, made.plateau_motes)) or "none")
    for kind, count in sorted(made.faults.items()):
        table.add_row(f"readings with fault {kind}", f"{count:,}")
    if made.labels_path is not None:
        table.add_row("labels", str(made.labels_path))
    Console().print(table)


@app.command()
def profile(
    file: Annotated[Path, typer.Argument(help="Readings in the Intel Lab format, plain or .gz.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
) -> None:
    """Say what a file holds: lines, readings, what cannot be used and why, motes, days."""
    from sieis_platform.sources.profiles import profile as profile_of

    found = profile_of(file)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(found).decode())
        return
    Console().print(_profile_table(file, found))


def _profile_table(file: Path, found: "Profile") -> Table:
    table = _table(str(file))
    table.add_row("size", f"{found.size_bytes:,} bytes ({found.end_offset:,} of text)")
    table.add_row("fingerprint", found.fingerprint)
    table.add_row("lines", f"{found.lines:,}")
    table.add_row("readings", f"{found.readings:,}")
    for kind, count in found.skipped.items():
        table.add_row(f"skipped, {kind}", f"{count:,}")
    for reason, count in sorted(found.rejected.items()):
        table.add_row(f"rejected, {reason}", f"{count:,}")
    table.add_row("outside the span", f"{found.outside_span:,}")
    table.add_row("days", f"{found.days}: {found.first_day} to {found.last_day}")
    table.add_row("motes", f"{len(found.motes)}: {_ranges(found.motes)}")
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _ranges(ids: list[int]) -> str:
    """Ids as `1-3, 7`."""
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
