"""`sieis verify`: proof that every position has exactly one fate.

Belongs here: the command and its table. Not here: the audit (sieis_platform.analysis.ledger).
"""

from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from sieis_cli.context import load_settings
from sieis_platform.errors import FatalError

_FILE_WIDTH: Final = 200  # a file has no width to fit into; on a narrow one the sources would vanish


class VerifyError(FatalError):
    """The archive and its ledger disagree."""


def register(app: typer.Typer) -> None:
    """Add `verify` to `app`."""
    app.command("verify")(verify)


def verify(
    as_json: Annotated[bool, typer.Option("--json", help="Print the accounts and findings as JSON.")] = False,
) -> None:
    """Walk the archive's ledger: contiguous positions, sums equal to the table's rows, nothing stored twice.

    Every position of the stream (and every byte of a loaded file) ends as stored, duplicate, dead letter or lost.
    Exit code 1 where anything disagrees.
    """
    import dataclasses
    import json

    from sieis_platform.analysis.ledger import audit_archive
    from sieis_platform.stores.open import open_archive

    result = audit_archive(open_archive(load_settings()))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result)))
    else:
        _show(result.accounts)
    if result.findings:
        raise VerifyError(
            "\n".join(["the archive and its ledger disagree:", *(f"  {finding}" for finding in result.findings)])
        )
    if not as_json:
        Console().print(f"[green]clean[/]: {sum(account.rows for account in result.accounts):,} rows")


def _show(accounts: list) -> None:
    table = Table(title="Every position accounted for")
    columns = ("partition", "end", "stored", "duplicates", "dead", "lost", "skipped", "removed", "rows")
    table.add_column("source", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for account in accounts:
        table.add_row(account.source, *(f"{getattr(account, column):,}" for column in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    console.print(table)
