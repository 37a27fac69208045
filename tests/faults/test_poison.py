"""What producers get wrong, on the full setting: poison among good records, readings twice, a clock an hour off."""

import datetime as dt
import json
import random
import time
from collections import Counter

import pytest
from polars.testing import assert_frame_equal

from sieis_platform.reading import FIELDS, KEY
from sieis_platform.stores.open import open_archive, open_hot
from sieis_streaming.decode import Reason
from tests.faults.compare import hot_equals_archive
from tests.faults.harness import (
    COMPARED,
    NOW_NS,
    Platform,
    Sender,
    archived,
    eventually,
    frame,
    letters,
    reading,
    wait_until_archived,
    wait_until_hot,
)
from tests.unit.sieis_streaming.test_decode import DEAD

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600)]

SECOND_NS = 1_000_000_000
HOUR_NS = 3_600 * SECOND_NS
# A busy machine must not end the session: whoever joins anew reads again, and here every count is exact.
PATIENT = {"kafka_session_timeout_seconds": 30}

Headers = list[tuple[str, bytes | None]]
HEADERS: Headers = [("trace", b"\xff\x00"), ("trace", b"2"), ("none", None), ("sieis.position", b"t/i/9/9")]

#: Kafka takes a batch of 1,048,588 bytes, 70 of them its own. What does not shrink is at that limit; the other is
#: compressed by the producer and five times as large for whoever reads it.
HUGE: dict[str, tuple[bytes, Reason]] = {
    "huge": (b"\xff" + random.Random(1).randbytes(1_048_300), Reason.NOT_JSON),
    "huge when unpacked": (b'{"mote_id": "' + b"x" * 5_000_000 + b'"}', Reason.NOT_A_READING),
}


def poison() -> dict[str, tuple[bytes | None, Reason]]:
    """Every kind of record without meaning; what lies ahead lies ahead of this moment."""
    ahead = reading(1, time.time_ns() + HOUR_NS, 1)
    kinds = {name: kind for name, kind in DEAD.items() if kind[1] is not Reason.TIME_AHEAD}
    return {**kinds, **HUGE, "an hour ahead": (json.dumps(ahead).encode(), Reason.TIME_AHEAD)}


def fates(running: Platform) -> dict[str, int]:
    """How many positions ended how, of an archive whose ledger `sieis verify` finds clean."""
    accounts = running.verify()["accounts"]
    return {fate: sum(account[fate] for account in accounts) for fate in ("stored", "duplicates", "dead", "lost")}


def dead_by_reason(running: Platform, sink: str) -> dict[Reason, int]:
    """What that sink has counted."""
    counts = {reason: running.metric("sieis_dead_letters_total", sink=sink, reason=reason.value) for reason in Reason}
    return {reason: int(count) for reason, count in counts.items() if count}


def test_every_kind_of_poison_and_every_repeat_is_accounted_for_and_costs_no_good_reading(full: Platform) -> None:
    incarnation = full.incarnation()
    consumer = full.start("consume", **PATIENT)
    sender = Sender(full.settings, message_max_bytes=10_000_000, compression_type="lz4")
    bad = poison()
    for number, (value, _reason) in enumerate(bad.values()):
        good = sender.unique()
        sender.send(good, good["mote_id"])
        keys = (number, None, b"\xff\xfe", b"")
        sender.send(value, keys[number % len(keys)], headers=HEADERS if number % 2 else [])
    groups = 40
    for number in range(groups):
        ns = NOW_NS - 2 * HOUR_NS + number * SECOND_NS
        first, second = reading(20 + number, ns, 1), reading(20 + number, ns, 2)
        for record in (first, first, second, first, first, second):  # two of them repeat what was said last
            sender.send(record, record["mote_id"])
    sender.flush()
    good = {position: record for position, record in sender.sent.items() if isinstance(record, dict)}
    expected = frame(good)
    keys = expected.unique(KEY).height
    wait_until_archived(full.settings, sender.ends(), incarnation)
    wait_until_hot(full.settings, keys)
    assert consumer.poll() is None

    dead = {position: value for position, value in sender.sent.items() if not isinstance(value, dict)}
    assert len(dead) == len(bad)
    assert fates(full) == {
        "stored": len(good) - 2 * groups, "duplicates": 2 * groups, "dead": len(bad), "lost": 0
    }  # fmt: skip
    rows = archived(full.settings).select(COMPARED)
    assert rows.join(expected, on=COMPARED, how="anti", nulls_equal=True).is_empty()
    assert rows.height == rows.unique(COMPARED[:2]).height == len(good) - 2 * groups

    # Of conflicting readings the last one sent stays, in both stores.
    last = expected.sort("source_offset").unique(KEY, keep="last").select(*KEY, *FIELDS).sort(KEY)
    assert_frame_equal(open_archive(full.settings).scan().select(*KEY, *FIELDS).collect().sort(KEY), last)
    assert hot_equals_archive(full.settings) == keys

    reasons = Counter(reason for _value, reason in bad.values())
    assert dead_by_reason(full, "archive") == reasons
    assert dead_by_reason(full, "hot") == reasons

    kept = {(letter.position.partition, letter.position.offset): letter for letter in letters(full)}
    assert {position: letter.value for position, letter in kept.items()} == dead
    assert Counter(letter.reason for letter in kept.values()) == Counter(reason.value for reason in reasons.elements())
    assert {letter.position.incarnation for letter in kept.values()} == {incarnation}
    assert Counter(letter.key for letter in kept.values()) == Counter(
        (str(number).encode(), None, b"\xff\xfe", b"")[number % 4] for number in range(len(bad))
    )
    ours = [header for header in HEADERS if not header[0].startswith("sieis.")]
    assert Counter(tuple(letter.headers) for letter in kept.values()) == Counter(
        tuple(ours) if number % 2 else () for number in range(len(bad))
    )
    full.stop(consumer)


def test_readings_of_a_clock_an_hour_ahead_are_dead_for_both_stores_and_come_back_once(full: Platform) -> None:
    incarnation = full.incarnation()
    consumer = full.start("consume", **PATIENT)
    sender = Sender(full.settings)
    now = time.time_ns()
    of_each = 50
    # Each stamped by its producer's clock, the record too: the broker puts its own time in place of that.
    for off_ns in (HOUR_NS, -HOUR_NS, 0, 240 * SECOND_NS):
        for number in range(of_each):
            ns = now + off_ns + number * 1_000
            record = reading(1 + number % 9, ns, number)
            sender.send(record, record["mote_id"], timestamp=ns // 1_000_000)
    sender.flush()
    wait_until_archived(full.settings, sender.ends(), incarnation)
    wait_until_hot(full.settings, 3 * of_each)

    ahead = {
        at: record for at, record in sender.sent.items() if frame({at: record})["timestamp"].item() > now + HOUR_NS // 2
    }
    assert len(ahead) == of_each
    right = {at: record for at, record in sender.sent.items() if at not in ahead}
    assert_frame_equal(archived(full.settings).select(COMPARED).sort(COMPARED[:2]), frame(right))
    assert hot_equals_archive(full.settings) == len(right)
    hot = open_hot(full.settings)
    assert hot.count_readings(now + HOUR_NS // 2) == 0
    hot.close()
    assert fates(full) == {"stored": len(right), "duplicates": 0, "dead": of_each, "lost": 0}
    for sink in ("hot", "archive"):
        assert dead_by_reason(full, sink) == {Reason.TIME_AHEAD: of_each}

    found = listed(full)
    assert {letter["position"] for letter in found} == {
        f"{full.settings.kafka_topic}/{incarnation}/{partition}/{offset}" for partition, offset in ahead
    }
    assert {(letter["reason"], letter["status"]) for letter in found} == {("time_ahead", "open")}
    broker_times = [dt.datetime.fromisoformat(letter["record_time"]).timestamp() * SECOND_NS for letter in found]
    assert max(broker_times) < now + HOUR_NS

    assert f"{of_each} dead letter(s) sent" in full.run("dlq", "replay").stdout
    for sink in ("hot", "archive"):
        eventually(
            lambda sink=sink: dead_by_reason(full, sink) == {Reason.TIME_AHEAD: 2 * of_each}, f"all back: {sink}"
        )
    statuses = Counter(letter["status"] for letter in listed(full))
    assert statuses == {"replayed": of_each, "came_back": of_each}
    assert "0 dead letter(s) sent" in full.run("dlq", "replay").stdout
    assert fates(full) == {"stored": len(right), "duplicates": 0, "dead": 2 * of_each, "lost": 0}
    assert hot_equals_archive(full.settings) == len(right)
    full.stop(consumer)


def listed(running: Platform) -> list[dict]:
    """What `sieis dlq list` says."""
    done = running.run("dlq", "list", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
