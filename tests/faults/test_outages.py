"""One store hangs and then dies; the other goes on at its rate, and the first one catches up when it is back."""

import time
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.faults.full import written
from tests.faults.harness import ROUNDS, Platform, Sender, eventually
from tests.faults.servers import Site, all_once, sends_on

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(900)]

RATE: Final = 1_500
OUTAGE_SECONDS: Final = min(120, 10 * ROUNDS)
BEFORE_SECONDS: Final = max(5.0, OUTAGE_SECONDS / 4)
LEAST_SHARE: Final = 0.9
_FLUSHES: Final = 3


class Mark(NamedTuple):
    """A moment: seconds (monotonic), records sent so far, and those of them in the store that goes on."""

    seconds: float
    sent: int
    stored: float


def _mark(running: Platform, sender: Sender, sink: str) -> Mark:
    """Where the store follows the sender most closely in the next few flushes.

    Right after a flush, as before it a whole flush is missing; of several, as one may be slow. A store that no longer
    keeps up falls further behind with every flush: that stays visible.
    """
    marks: list[Mark] = []
    for _ in range(_FLUSHES):
        flushes = running.metric("sieis_flushes_total", sink=sink)
        eventually(
            lambda flushes=flushes: running.metric("sieis_flushes_total", sink=sink) > flushes, f"a flush ({sink})"
        )
        stored = written(running, sink)
        marks.append(Mark(time.monotonic(), len(sender.sent), stored))
    return min(marks, key=lambda mark: mark.sent - mark.stored)


def _share(name: str, start: Mark, end: Mark) -> float:
    """What was stored between two marks, as a share of what was sent between them."""
    share = (end.stored - start.stored) / (end.sent - start.sent)
    seconds = end.seconds - start.seconds
    rates = f"sent {(end.sent - start.sent) / seconds:.0f}/s, stored {(end.stored - start.stored) / seconds:.0f}/s"
    print(f"{name}: {seconds:.1f} s, {rates}, share {share:.3f}")  # noqa: T201 - the drill's figures
    return share


class Outage(NamedTuple):
    """The server that is out, the sink that needs it and the error it counts, and the sink that does not need it."""

    server: str
    down: str
    error: str
    goes_on: str


OUTAGES: Final = (
    Outage("influxdb", "hot", "HotStoreUnavailableError", "archive"),
    Outage("minio", "archive", "ArchiveUnavailableError", "hot"),
)


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.server)
def test_the_other_store_keeps_its_rate(site: Site, tmp_path: Path, outage: Outage) -> None:
    server, down, error, goes_on = outage
    wire, instance = site.wires[server], site.services[server]
    with site.platform(tmp_path, kafka_session_timeout_seconds=6, archive_flush_seconds=1) as running:
        incarnation = running.incarnation()
        consumer = running.start("consume", **site.wired(server))
        with Sender(running.settings, rate=RATE) as sender:
            for sink in (down, goes_on):
                eventually(
                    lambda sink=sink: 0 < len(sender.sent) - written(running, sink) < 2 * RATE,
                    f"the {sink} store close behind the sender",
                )
            steady = _mark(running, sender, goes_on)
            sends_on(sender, BEFORE_SECONDS * RATE)
            before = _mark(running, sender, goes_on)
            errors = running.metric("sieis_errors_total", sink=down, kind=error)
            stored = written(running, down)
            try:
                wire.spoil("timeout", stream="upstream", timeout=0)  # it hangs: connections stay, nothing is answered
                sends_on(sender, OUTAGE_SECONDS * RATE / 2)
                instance.kill()  # it dies: behind the wire connections are closed at once
                wire.mend()
                sends_on(sender, OUTAGE_SECONDS * RATE / 2)
                after = _mark(running, sender, goes_on)
                assert running.metric("sieis_errors_total", sink=down, kind=error) > errors
                assert written(running, down) - stored < 2 * RATE, f"the {down} store was not down"
            finally:
                if not instance.pids:
                    instance.start()
        usual, meanwhile = _share("before", steady, before), _share("outage", before, after)
        assert usual > LEAST_SHARE
        assert meanwhile >= LEAST_SHARE * min(usual, 1.0)  # above 1 only where a backlog was made up for
        all_once(running, sender, incarnation, consumer)
