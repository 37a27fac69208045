"""A stop while a store hangs: over in time whatever the store does, and nothing is lost by it."""

from pathlib import Path

import pytest

from tests.faults.full import all_stored_once, written
from tests.faults.harness import Sender, eventually
from tests.faults.servers import Site, sends_on

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600)]

RATE = 1_500
SINKS = {"influxdb": "hot", "minio": "archive"}


@pytest.mark.parametrize("load", ["trickle", "backlog"])
@pytest.mark.parametrize("server", SINKS)
def test_sigterm_is_over_in_time_while_a_store_hangs(site: Site, tmp_path: Path, server: str, load: str) -> None:
    """With a backlog as much is read ahead of the flush that hangs as may be: the consumer waits for it."""
    sink = SINKS[server]
    # Far beyond what a stop may take.
    patient = {"influx_timeout_seconds": 60, "s3_timeout_seconds": 60}
    rows = 500 if load == "backlog" else 200_000
    with site.platform(tmp_path, archive_flush_rows=rows, archive_flush_seconds=0.5, **patient) as running:
        incarnation = running.incarnation()
        consumer = running.start("consume", **site.wired(server))
        with Sender(running.settings, rate=RATE) as sender:
            eventually(lambda: written(running, sink) > 0, f"the first readings in the {sink} store")
            site.wires[server].spoil("timeout", stream="upstream", timeout=0)
            sends_on(sender, (40 if load == "backlog" and sink == "hot" else 4) * RATE)
            running.stop(consumer, seconds=10)
        told = [line for line in running.log.read_text().splitlines() if "stopped with unflushed records" in line]
        assert told
        assert all(f'"sink": "{sink}"' in line for line in told)
        site.wires[server].mend()
        consumer = running.start("consume")
        all_stored_once(running, sender, incarnation)
        running.stop(consumer)


def test_sigterm_is_over_in_time_while_the_archive_hangs_at_the_start(site: Site, tmp_path: Path) -> None:
    with site.platform(tmp_path, s3_timeout_seconds=60) as running:
        site.wires["minio"].spoil("timeout", stream="upstream", timeout=0)
        consumer = running.start("consume", "--sink", "archive", **site.wired("minio"))
        eventually(lambda: running.metric("sieis_assigned_partitions", sink="archive") >= 0, "the consumer up")
        eventually(lambda: "consuming" in running.log.read_text(), "the consumer in its group")
        running.stop(consumer, seconds=10)
