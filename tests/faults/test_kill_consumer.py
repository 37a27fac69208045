"""The consumer killed with -9 at every named point and at random moments, under load: nothing lost, nothing twice."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform import crash
from sieis_platform.reading import FIELDS
from sieis_platform.stores.open import open_hot
from tests.faults.harness import (
    COMPARED,
    NOW_NS,
    ROUNDS,
    Platform,
    Sender,
    archived,
    eventually,
    frame,
    letters,
    platform,
    reading,
    seeded,
    wait_until_archived,
    wait_until_hot,
)

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600 + 30 * ROUNDS)]

CONSUMER_POINTS = [point for point in crash.POINTS if point.startswith(("archive.", "hot."))]

POISON = [
    b"",
    None,
    b"{",
    b"\xff\xfe",
    b"[]",
    b'{"mote_id": 1}',
    b'{"mote_id": "x", "timestamp": "2026-01-01T00:00:00Z"}',
    b'{"mote_id": 1, "timestamp": "2026-01-01T00:00:00"}',
    b'{"mote_id": 1, "timestamp": "2999-01-01T00:00:00Z"}',
    b'{"mote_id": 1, "timestamp": "2026-01-01T00:00:00Z", "light": 1e39}',
]


def _die_at(running: Platform, point: str) -> None:
    process = running.start("consume", crash_at=f"{point}:2")
    assert process.wait(120) == -signal.SIGKILL, f"{point} was not reached: {running.log.read_text()[-3000:]}"


def _reads(running: Platform) -> None:
    """Wait until the consumer started last has read something for each store."""
    for sink in ("hot", "archive"):
        eventually(
            lambda sink=sink: running.metric("sieis_records_read_total", sink=sink) > 0, f"{sink} to be read for", 120
        )


def _finish(running: Platform, sender: Sender, incarnation: str, hot_readings: int) -> None:
    process = running.start("consume")
    wait_until_archived(running.settings, sender.ends(), incarnation)
    wait_until_hot(running.settings, hot_readings)
    running.stop(process)


@contextmanager
def poisoned(sender: Sender) -> Iterator[None]:
    """Records without meaning among the others, ten a second, from a thread."""
    stop = threading.Event()

    def poison() -> None:
        number = 0
        while not stop.wait(0.1):
            sender.send(POISON[number % len(POISON)], number)
            number += 1

    thread = threading.Thread(target=poison)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_every_crash_point_and_random_kills_lose_and_repeat_nothing(tmp_path: Path, broker: dict[str, str]) -> None:
    moments = seeded()
    with platform(tmp_path / "var", **broker) as running:
        incarnation = running.start_broker()
        with Sender(running.settings) as sender:
            for point in CONSUMER_POINTS:
                # Some in every flush that dies: a kill between a letter and its position would lose or repeat it.
                with poisoned(sender):
                    _die_at(running, point)
            for number in range(ROUNDS):
                process = running.start("consume")
                if number % 3:  # the others may die while they start, or join their groups
                    _reads(running)
                try:
                    process.wait(moments.uniform(0.5, 4.0))
                except subprocess.TimeoutExpired:
                    process.kill()
                assert process.wait() == -signal.SIGKILL
        good = {position: record for position, record in sender.sent.items() if isinstance(record, dict)}
        _finish(running, sender, incarnation, len(good))

        expected = frame(good)
        rows = archived(running.settings).select(COMPARED).sort("source_partition", "source_offset")
        assert_frame_equal(rows, expected)
        accounts = running.verify()["accounts"]
        assert sum(account["dead"] for account in accounts) == len(sender.sent) - len(good)
        _assert_dead_letters_are(running, sender, incarnation)
        assert sum(account["lost"] + account["duplicates"] for account in accounts) == 0
        _assert_hot_equals(running, expected)


@pytest.mark.slow
def test_duplicates_conflicts_and_poison_are_each_accounted_for(tmp_path: Path, broker: dict[str, str]) -> None:
    moments = seeded()
    with platform(tmp_path / "var", **broker) as running:
        incarnation = running.start_broker()
        with Sender(running.settings, rate=500, motes=12) as sender:
            for round_number in range(max(2, ROUNDS)):
                process = running.start("consume")
                _reads(running)
                for number in range(20):
                    ns = NOW_NS - 7_200_000_000_000 + (round_number * 100 + number) * 1_000_000_000
                    first = reading(20 + number, ns, 1)
                    for record in (first, first, reading(20 + number, ns, 2), first, first):
                        sender.send(record, record["mote_id"])
                    sender.send(POISON[number % len(POISON)], number)
                try:
                    process.wait(moments.uniform(1.0, 4.0))
                except subprocess.TimeoutExpired:
                    process.kill()
                assert process.wait() == -signal.SIGKILL
        sender.finish()
        good = {position: record for position, record in sender.sent.items() if isinstance(record, dict)}
        expected = frame(good)
        keys = expected.unique(["mote_id", "timestamp"]).height
        _finish(running, sender, incarnation, keys)

        accounts = running.verify()["accounts"]
        totals = {fate: sum(account[fate] for account in accounts) for fate in ("stored", "duplicates", "dead", "lost")}
        assert totals["dead"] == len(sender.sent) - len(good)
        _assert_dead_letters_are(running, sender, incarnation)
        assert totals["stored"] + totals["duplicates"] == len(good)
        assert totals["lost"] == 0
        rows = archived(running.settings).select(COMPARED)
        # What is stored is what was sent at that position, and what is not stored repeats the key's latest values.
        assert rows.join(expected, on=COMPARED, how="anti", nulls_equal=True).is_empty()
        dropped = expected.join(rows, on=["source_partition", "source_offset"], how="anti")
        assert dropped.height == totals["duplicates"] > 0
        last = expected.sort("source_offset").unique(["mote_id", "timestamp"], keep="last")
        archive_last = rows.sort("source_offset").unique(["mote_id", "timestamp"], keep="last")
        by = ["mote_id", "timestamp"]
        assert_frame_equal(archive_last.select(*by, *FIELDS).sort(by), last.select(*by, *FIELDS).sort(by))
        _assert_hot_equals(running, last)


def _assert_dead_letters_are(running: Platform, sender: Sender, incarnation: str) -> None:
    """What had no meaning is on the topic of dead letters, each position with the bytes that were sent."""
    kept = {(letter.position.partition, letter.position.offset): letter for letter in letters(running)}
    bad = {position: value for position, value in sender.sent.items() if not isinstance(value, dict)}
    assert bad
    assert {position: letter.value for position, letter in kept.items()} == bad
    assert {letter.position.incarnation for letter in kept.values()} == {incarnation}


def _assert_hot_equals(running: Platform, expected: pl.DataFrame) -> None:
    by = ["mote_id", "timestamp"]
    hot = open_hot(running.settings)
    try:
        rows = hot.readings(0, 1 << 62)
    finally:
        hot.close()
    assert_frame_equal(rows.select(*by, *FIELDS).sort(by), expected.select(*by, *FIELDS).sort(by))
