"""The embedded broker restarted with an empty memory and another port, under a running consumer."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_streaming.broker import locate
from tests.faults.harness import (
    COMPARED,
    Sender,
    archived,
    eventually,
    frame,
    platform,
    wait_until_archived,
    wait_until_hot,
)

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.timeout(300)]

FIRST, SECOND = 600, 400


def test_records_of_the_new_broker_arrive_and_none_is_taken_for_a_replay(tmp_path: Path) -> None:
    # Flushes an hour apart: what the old broker gave is in the consumer's memory, and nowhere else, when it dies.
    with platform(tmp_path / "var", archive_flush_seconds=3600) as running:
        broker = running.start("broker")
        old = locate(running.settings)
        consumer = running.start("consume")
        first = Sender(running.settings)
        _send(first, FIRST)
        wait_until_hot(running.settings, FIRST)
        eventually(lambda: running.metric("sieis_records_read_total", sink="archive") >= FIRST, "read for the archive")
        broker.kill()
        broker.wait()

        running.start("broker")
        new = locate(running.settings)
        assert new.bootstrap != old.bootstrap
        assert new.cluster_id != old.cluster_id
        wait_until_archived(running.settings, first.ends(), old.cluster_id or "")
        second = Sender(running.settings)
        second._count = FIRST  # readings never sent before, at positions that the old broker used too
        _send(second, SECOND)
        wait_until_hot(running.settings, FIRST + SECOND)
        eventually(
            lambda: running.metric("sieis_records_read_total", sink="archive") >= FIRST + SECOND, "read for the archive"
        )
        running.stop(consumer)

        for sender, address in ((first, old), (second, new)):
            rows = archived(running.settings).filter(pl.col("source") == f"stream:{address.cluster_id}")
            assert_frame_equal(rows.select(COMPARED).sort(COMPARED[:2]), frame(sender.sent))
        accounts = running.verify()["accounts"]
        assert sum(account["stored"] for account in accounts) == FIRST + SECOND
        assert sum(account["duplicates"] + account["lost"] + account["dead"] for account in accounts) == 0


def _send(sender: Sender, count: int) -> None:
    for _ in range(count):
        record = sender.unique()
        sender.send(record, record["mote_id"])
    sender.flush()
