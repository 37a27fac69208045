"""`sieis dlq`: look at dead letters, and send mended ones again.

Belongs here: the commands. Not here: how dead letters are kept (sieis_streaming.dead_letters).
"""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sieis_cli.context import load_settings

if TYPE_CHECKING:
    from sieis_streaming.dead_letters import KeptLetter

_PREVIEW = 60


def register(app: typer.Typer) -> None:
    """Add the group `dlq` to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Dead letters: records without meaning, kept with their reason.")
    group.command("list")(list_letters)
    group.command("show")(show)
    group.command("replay")(replay)
    app.add_typer(group, name="dlq")


def list_letters(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List every dead letter once: position, reason, status (open, replayed, came_back) and how it begins."""
    import json

    letters = _read()
    if as_json:
        for letter in letters:
            typer.echo(json.dumps(_plain(letter)))
        return
    table = Table(title=f"{len(letters)} dead letter(s)")
    for column in ("position", "reason", "status", "dead since", "begins"):
        table.add_column(column, overflow="fold")
    for letter in letters:
        since = f"{letter.dead_since:%Y-%m-%d %H:%M:%S}" if letter.dead_since else ""
        table.add_row(
            str(letter.position), letter.reason, letter.status, since, escape(repr((letter.value or b"")[:_PREVIEW]))
        )
    Console().print(table)


def show(position: Annotated[str, typer.Argument(help="As `sieis dlq list` prints it.")]) -> None:
    """Show one dead letter whole: reason, times, headers and the original bytes."""
    letter = _find(position)
    console = Console()
    for name, value in _plain(letter).items():
        console.print(f"[bold]{name}[/]: {escape(_printable(str(value)))}", highlight=False, soft_wrap=True)


def replay(
    position: Annotated[
        list[str] | None, typer.Argument(help="Only these (as `sieis dlq list` prints them), whatever their status.")
    ] = None,
) -> None:
    """Send the original bytes to the topic again: all open ones, or those named.

    What is still bad comes back once, as `came_back`, and is not sent again unless named.
    """
    from confluent_kafka import Producer

    from sieis_streaming.broker import client_config, locate
    from sieis_streaming.dead_letters import PRODUCER_CONFIG, DeadLetterPublisher, to_replay

    settings = load_settings()
    letters = [_find(one) for one in position] if position else to_replay(_read())
    if letters:
        producer = Producer(client_config(settings, locate(settings)) | PRODUCER_CONFIG)
        DeadLetterPublisher(producer, settings.kafka_dlq_topic).replay(letters, settings.kafka_topic)
    Console().print(f"{len(letters)} dead letter(s) sent to {settings.kafka_topic} again")


def _find(position: str) -> "KeptLetter":
    from sieis_streaming.dead_letters import DeadLetterNotFoundError, Position

    wanted = Position.parse(position)
    for letter in _read():
        if letter.position == wanted:
            return letter
    raise DeadLetterNotFoundError(f"no dead letter has the position {position}; see `sieis dlq list`")


def _read() -> "list[KeptLetter]":
    from confluent_kafka import Consumer

    from sieis_streaming.broker import client_config, locate
    from sieis_streaming.dead_letters import read_all

    settings = load_settings()
    # The group never commits; librdkafka wants a name for it.
    config = client_config(settings, locate(settings)) | {"group.id": "sieis-dlq-reader", "enable.auto.commit": False}
    consumer = Consumer(config)
    try:
        return read_all(consumer, settings.kafka_dlq_topic)
    finally:
        consumer.close()


def _plain(letter: "KeptLetter") -> dict[str, object]:
    return {
        "position": str(letter.position),
        "reason": letter.reason,
        "detail": letter.detail,
        "status": letter.status,
        "record_time": letter.record_time.isoformat() if letter.record_time else None,
        "dead_since": letter.dead_since.isoformat() if letter.dead_since else None,
        "replay_of": letter.replay_of,
        "headers": [(name, _text(value)) for name, value in letter.headers],
        "key": _text(letter.key),
        "value": _text(letter.value),
    }


def _text(content: str | bytes | None) -> str | None:
    return content.decode("utf-8", "backslashreplace") if isinstance(content, bytes) else content


def _printable(text: str) -> str:
    """`text` with whatever would command the terminal written out: anyone may have sent it."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
