"""A wire that is slow, narrow, torn, silent or cut between the consumer and each server, under load."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from sieis_platform.stores.hot import HotStoreUnavailableError, WriteOutcome
from sieis_platform.stores.influx import InfluxClient, InfluxHotStore
from tests.faults.full import written
from tests.faults.harness import ROUNDS, Platform, Sender, eventually
from tests.faults.servers import SINKS, Site, all_once, sends_on
from tests.influxdb import Buckets
from tests.unit.sieis_platform.stores.influx.test_server import many

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600 + 30 * ROUNDS)]

RATE: Final = 1_500
SESSION_SECONDS: Final = 3
"""Of the consumer groups: a silent or cut wire lasts beyond it, so that the consumer is put out and comes back."""


class Toxic(NamedTuple):
    """What toxiproxy does to a wire: kind, direction (upstream: to the server), and its attributes."""

    kind: str
    stream: str
    attributes: Mapping[str, int]


#: Where most bytes go: to the stores upstream, from Kafka downstream.
LOADED: Final = {"kafka": "downstream", "influxdb": "upstream", "minio": "upstream"}


def slow(server: str) -> Sequence[Toxic]:
    """Toxics under which everything still arrives. Without them 1,500 readings a second are 200 to 300 KB."""
    return (
        Toxic("latency", "downstream", {"latency": 500, "jitter": 200}),  # ms
        Toxic("bandwidth", LOADED[server], {"rate": 200}),  # KB/s, of each connection
        Toxic("slicer", LOADED[server], {"average_size": 256, "size_variation": 128, "delay": 200}),  # bytes, µs
    )


def broken(server: str) -> Sequence[Toxic]:
    """Toxics under which little or nothing arrives, or is done by a server whose answer does not."""
    return (
        Toxic("reset_peer", "downstream", {"timeout": 300}),  # ms
        Toxic("limit_data", LOADED[server], {"bytes": 20_000}),  # then the connection is closed: half a request
        Toxic("timeout", "downstream", {"timeout": 0}),  # requests arrive, answers never
        Toxic("timeout", "upstream", {"timeout": 0}),
    )


#: To a server on this machine nothing is compressed unasked: over a wire between machines a torn request is torn gzip.
WIRES: Final = [*((server, {}) for server in SINKS), ("influxdb", {"influx_gzip": True})]


@pytest.mark.parametrize(("server", "more"), WIRES, ids=[*SINKS, "influxdb-gzip"])
def test_a_spoiled_wire_loses_and_repeats_nothing(
    site: Site, tmp_path: Path, server: str, more: Mapping[str, object]
) -> None:
    wire = site.wires[server]
    with site.platform(tmp_path, kafka_session_timeout_seconds=SESSION_SECONDS) as running:
        incarnation = running.incarnation()
        consumer = running.start("consume", **site.wired(server), **more)
        with Sender(running.settings, rate=RATE) as sender:
            _goes_on(running, server, "a whole wire")
            for kind, stream, attributes in slow(server):
                wire.spoil(kind, stream=stream, **attributes)
                sends_on(sender, RATE * ROUNDS)
                _goes_on(running, server, kind)
                wire.mend()
            for kind, stream, attributes in broken(server):
                wire.spoil(kind, stream=stream, **attributes)
                sends_on(sender, RATE * (SESSION_SECONDS + ROUNDS if kind == "timeout" else ROUNDS))
                wire.mend()
                _goes_on(running, server, f"{kind} {stream}")
            for number in range(ROUNDS):
                wire.cut()
                if number == 0:
                    sends_on(sender, RATE * (SESSION_SECONDS + 1))
                _stands_still(running, sender, server)
                wire.mend()
                _goes_on(running, server, "a cut")
        all_once(running, sender, incarnation, consumer)


def test_a_backlog_gets_through_a_wire_that_carries_no_large_request_in_time(site: Site) -> None:
    """20,000 readings are 3.5 MB: 7 s at 500 KB/s, of which the store waits for 2."""
    rows, wire = many(20_000), site.wires["influxdb"]
    server = site.services["influxdb"]
    buckets = Buckets(server)
    store = InfluxHotStore(
        InfluxClient(
            f"http://{wire.address}",
            org=server.credentials["org"],
            token=server.credentials["token"],
            timeout_seconds=2,
            compress=False,
        ),
        bucket=buckets.make(),
        hourly_bucket=buckets.make(),
    )
    wire.spoil("bandwidth", stream="upstream", rate=500)
    outcome, failures = None, 0
    try:
        while outcome is None and failures < 10:
            try:
                outcome = store.write_readings(rows)
            except HotStoreUnavailableError:
                failures += 1
    finally:
        wire.mend()
    assert failures > 0, "the whole backlog went through at once: the wire was not narrow"
    assert outcome == WriteOutcome(written=rows.height, beyond_retention=0)
    assert store.count_readings() == rows.height
    store.close()


def _stands_still(running: Platform, sender: Sender, server: str) -> None:
    """No store behind the cut wire takes anything more: there is no other way, and what was on its way has arrived."""

    def still() -> bool:
        before = [written(running, sink) for sink in SINKS[server]]
        sends_on(sender, RATE)
        return before == [written(running, sink) for sink in SINKS[server]]

    eventually(still, f"{SINKS[server]} at a standstill behind a cut wire")


def _goes_on(running: Platform, server: str, fault: str) -> None:
    """Every store behind the wire takes records again (or still)."""
    for sink in SINKS[server]:
        end = written(running, sink) + RATE
        eventually(lambda sink=sink, end=end: written(running, sink) >= end, f"the {sink} store goes on after {fault}")
