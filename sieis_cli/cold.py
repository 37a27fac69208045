"""`sieis cold`: what lies in the archive's cold table, and its way back.

Belongs here: the commands and what is printed. Not here: moving days (sieis_platform.stores.tiers).
"""

from typing import Annotated

import typer
from rich.console import Console

from sieis_cli.context import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the group `cold` to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Old days of the archive in the cold table, and their way back.")
    group.command("status")(status)
    group.command("return")(return_days)
    app.add_typer(group, name="cold")


def status(*, as_json: AsJson = False) -> None:
    """Say which days lie in the cold table, and whether it is there and the right one."""
    import json

    from sieis_platform.stores.archive import rows_by_day
    from sieis_platform.stores.delta import info
    from sieis_platform.stores.open import open_archive

    settings = load_settings()
    archive = open_archive(settings)
    cold = archive.cold_files(archive.files())
    days = [] if cold is None else list(rows_by_day(cold))
    weight = None if cold is None else info(cold)
    if as_json:
        told = weight._asdict() if weight else {"version": 0, "files": 0, "rows": 0, "bytes": 0}
        span = {"first_day": str(days[0]), "last_day": str(days[-1])} if days else {}
        typer.echo(json.dumps({"uri": settings.archive_cold_uri, "days": len(days), **span, **told}))
        return
    place = settings.archive_cold_uri or "SIEIS_ARCHIVE_COLD_URI is not set"
    if weight is None:
        Console(highlight=False, soft_wrap=True).print(f"no day is cold ({place})")
        return
    Console(highlight=False, soft_wrap=True).print(
        f"{len(days)} days, {days[0]} to {days[-1]}: {weight.rows:,} rows in {weight.files:,} files, "
        f"{weight.bytes:,} bytes ({place})"
    )


def return_days(*, as_json: AsJson = False) -> None:
    """Bring every day of the cold table back into the live one; afterwards SIEIS_ARCHIVE_COLD_URI may be unset.

    Interrupted, it goes on where it stopped. Readers and writers need not be stopped.
    """
    import json

    from sieis_platform import crash
    from sieis_platform.stores.open import open_archive
    from sieis_platform.stores.tiers import bring_back

    settings = load_settings()
    crash.arm(settings.crash_at)
    done = bring_back(open_archive(settings))
    if as_json:
        typer.echo(json.dumps({"days": done.days, "rows": done.rows}))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{done.days} days with {done.rows:,} rows are back in the live table; no day is cold")
    console.print("unset SIEIS_ARCHIVE_COLD_URI for every part, else the nightly job moves them again")
