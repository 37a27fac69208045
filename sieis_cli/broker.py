"""`sieis broker`: hosts the embedded broker of the data directory until it is told to stop.

Belongs here: the command. Not here: the broker itself (sieis_streaming.broker).
"""

import typer
from rich.console import Console

from sieis_cli.context import load_settings
from sieis_cli.signals import stop_event
from sieis_platform.errors import FatalError


def register(app: typer.Typer) -> None:
    """Add `broker` to `app`."""
    app.command("broker")(broker)


def broker() -> None:
    """Host the embedded broker (memory only) until SIGTERM or Ctrl-C, and print its address."""
    from sieis_streaming.broker import EmbeddedBroker  # keeps `sieis --help` fast

    settings = load_settings()
    if not settings.embedded_broker:
        raise FatalError("SIEIS_KAFKA_BOOTSTRAP names a Kafka; unset it to host the embedded broker")
    stop = stop_event()
    with EmbeddedBroker(settings) as host:
        if host.published is not None:
            Console().print(f"broker listens on {host.published.bootstrap}", highlight=False)
        stop.wait()
