"""`sieis correct`: readings deleted, or values of theirs taken away, with a reason, a record and a way back.

Belongs here: the commands, times as text, tables. Not here: correcting (sieis_platform.corrections).
"""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sieis_cli.context import load_settings
from sieis_cli.folder import claim

if TYPE_CHECKING:
    from sieis_platform.corrections import Asked, Corrections
    from sieis_platform.settings import Settings
    from sieis_platform.state import Correction

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

Motes = Annotated[list[int], typer.Option("--mote", help="A mote; may be given several times.")]
From = Annotated[
    str, typer.Option("--from", metavar="TIME", help="First moment, ISO 8601; UTC where it names no zone.")
]
To = Annotated[str, typer.Option("--to", metavar="TIME", help="First moment that is not concerned any more.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept for the next person.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many archived readings it would concern.")]
Recompute = Annotated[
    bool, typer.Option("--recompute", help="Derive the days concerned at once; else Dagster does, within a minute.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the group `correct` to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Correct readings, with a reason, a record and a way back.")
    group.command("delete")(delete)
    group.command("null")(null)
    group.command("list")(list_corrections)
    group.command("undo")(undo)
    group.command("finish")(finish)
    app.add_typer(group, name="correct")


def delete(
    *,
    mote: Motes,
    start: From,
    end: To,
    reason: Reason,
    recompute: Recompute = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete the readings of motes in a range of time, in the archive and the hot store.

    Killed half-way, the same command completes it. `sieis correct undo ID` puts the readings back.
    """
    from sieis_platform.corrections import Asked

    _carry_out(Asked("delete", mote, _ns(start), _ns(end), reason, _user()), recompute, dry_run, as_json)


def null(
    *,
    mote: Motes,
    start: From,
    end: To,
    reason: Reason,
    field: Annotated[list[str], typer.Option("--field", help="temperature, humidity, light or voltage; repeatable.")],
    recompute: Recompute = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take values away from readings (they become null) and leave the readings themselves."""
    from sieis_platform.corrections import Asked

    _carry_out(Asked("null", mote, _ns(start), _ns(end), reason, _user(), field), recompute, dry_run, as_json)


def list_corrections(as_json: AsJson = False) -> None:
    """List all corrections: what, who, why, and whether it was undone."""
    import json

    with _open(load_settings()) as corrections:
        known = corrections.known()
    if as_json:
        for one in known:
            typer.echo(json.dumps(_plain(one)))
        return
    table = Table(title=f"{len(known)} correction(s)")
    for column in ("id", "status", "what", "motes", "from", "to", "rows", "by", "reason"):
        table.add_column(column, overflow="fold")
    for one in known:
        what = " ".join([one.kind, *one.fields])
        motes = ", ".join(str(mote) for mote in one.motes)
        rows = f"{one.rows:,}" if one.rows is not None else ""
        table.add_row(
            one.id, one.status, what, motes, _text(one.start_ns), _text(one.end_ns), rows, escape(one.author),
            escape(one.reason),
        )  # fmt: skip
    Console().print(table)


def undo(
    correction: Annotated[str, typer.Argument(help="As `sieis correct list` prints it.")],
    recompute: Recompute = False,
    as_json: AsJson = False,
) -> None:
    """Put everything back as it was before a correction."""
    settings = load_settings()
    claim(settings)
    with _open(settings) as corrections:
        done = corrections.undo(correction, _user())
        days = corrections.days(done.id)
    _tell(settings, done, days, recompute, as_json)


def finish(
    correction: Annotated[str, typer.Argument(help="As `sieis correct list` prints it.")],
    recompute: Recompute = False,
    as_json: AsJson = False,
) -> None:
    """Complete a correction, or its undoing, that was broken off (status started or undoing).

    Of any other the hot store is made to follow the archive again, for where a late consumer wrote what was deleted.
    """
    settings = load_settings()
    claim(settings)
    with _open(settings) as corrections:
        done = corrections.complete(correction)
        days = corrections.days(done.id)
    _tell(settings, done, days, recompute, as_json)


def _carry_out(asked: "Asked", recompute: bool, dry_run: bool, as_json: bool) -> None:
    import json

    settings = load_settings()
    with _open(settings) as corrections:
        if dry_run:
            rows = corrections.count(asked)
            typer.echo(json.dumps({"rows": rows}) if as_json else f"{rows:,} archived readings; nothing was changed")
            return
        claim(settings)
        done = corrections.apply(asked)
        days = corrections.days(done.id)
    _tell(settings, done, days, recompute, as_json)


def _tell(settings: "Settings", done: "Correction", days: list[dt.date], recompute: bool, as_json: bool) -> None:
    import json

    failures = _recompute(settings, days) if recompute else []
    if as_json:
        typer.echo(json.dumps({**_plain(done), "days": [str(day) for day in days], "recomputed": recompute}))
    else:
        console = Console(highlight=False)
        console.print(f"{done.id} {done.status}: {done.rows or 0:,} readings on {len(days)} day(s)")
        if not recompute:
            console.print("what is derived from those days follows when Dagster's sensor `late_data` looks next")
    if failures:
        from sieis_cli.materialize import MaterializeFailedError

        raise MaterializeFailedError("\n".join(["not everything was derived anew:", *(f"  {why}" for why in failures)]))


def _recompute(settings: "Settings", days: list[dt.date]) -> list[str]:
    from sieis_platform.defs.operations.materialize import materialize
    from sieis_platform.defs.partitions import windows

    failures: list[str] = []
    for window in windows(days):
        failures += materialize(settings, window.first, window.last, train=False).failures
    return failures


@contextmanager
def _open(settings: "Settings") -> "Iterator[Corrections]":
    from sieis_platform import crash
    from sieis_platform.corrections import Corrections
    from sieis_platform.state import State
    from sieis_platform.stores.open import open_archive, open_hot, open_marts

    crash.arm(settings.crash_at)
    hot = open_hot(settings)
    try:
        with State.open(settings) as state:
            yield Corrections(state, open_archive(settings), open_marts(settings), hot)
    finally:
        hot.close()


def _ns(text: str) -> int:
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time like 2026-02-19T08:30 or 2026-02-19") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - _EPOCH) // dt.timedelta(microseconds=1) * 1_000


def _text(ns: int) -> str:
    return (_EPOCH + dt.timedelta(microseconds=ns // 1_000)).strftime("%Y-%m-%d %H:%M:%S")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return "unknown"


def _plain(one: "Correction") -> dict[str, object]:
    import msgspec

    return msgspec.to_builtins(one)
