"""`sieis consume`: the stream into the stores, one consumer group a store.

Belongs here: wiring sinks to stores. Not here: how they work (sieis_streaming).
"""

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from sieis_cli.context import load_settings
from sieis_cli.folder import claim
from sieis_cli.signals import stop_event


class Store(StrEnum):
    """A store that has a consumer group of its own."""

    HOT = "hot"
    ARCHIVE = "archive"


def register(app: typer.Typer) -> None:
    """Add `consume` to `app`."""
    app.command("consume")(consume)


def consume(
    sink: Annotated[
        list[Store] | None, typer.Option(help="Feed only this store; repeat for several. Default: both, side by side.")
    ] = None,
) -> None:
    """Read the stream into the hot store and the archive until SIGTERM or Ctrl-C.

    Each store has its own consumer group: the outage of one never stops the other. The archive gets every record
    exactly once, the hot store each reading once. Metrics: http://127.0.0.1:9108/metrics.
    """
    from sieis_platform import crash
    from sieis_platform.stores.open import open_archive, open_hot
    from sieis_streaming.consumer import SinkConsumer, run
    from sieis_streaming.link import BrokerLink
    from sieis_streaming.metrics import ConsumerMetrics
    from sieis_streaming.sinks.archive import ArchiveSink
    from sieis_streaming.sinks.hot import HotSink

    settings = load_settings()
    claim(settings, for_demo=True)
    crash.arm(settings.crash_at)
    metrics = ConsumerMetrics()
    consumers = []
    for name in dict.fromkeys(sink or Store):
        link = BrokerLink(settings)
        target = (
            HotSink(
                open_hot(settings),
                metrics,
                batch_rows=settings.hot_batch_rows,
                batch_seconds=settings.hot_batch_seconds,
            )
            if name is Store.HOT
            else ArchiveSink(open_archive(settings), link, settings, metrics)
        )
        consumers.append(SinkConsumer(target, link, settings, metrics))
    stop = stop_event()
    server = metrics.serve(settings.metrics_port, settings.metrics_host)
    try:
        run([one.run for one in consumers], stop)
    finally:
        server.shutdown()
    if any(one.abandoned for one in consumers):
        # Threads cannot be ended, and Python would wait for those that wait for a store. Nothing is lost, as after -9.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
