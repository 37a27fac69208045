"""What only a real Kafka does to its consumers: zombies, storms, topics made again, retention, its own death."""

import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from polars.testing import assert_frame_equal

from sieis_platform.stores.open import open_archive, open_hot
from sieis_streaming.broker import client_config, locate
from sieis_streaming.topics import ensure_topics
from tests.faults.compare import hot_equals_archive
from tests.faults.harness import (
    COMPARED,
    NOW_NS,
    ROUNDS,
    Platform,
    Sender,
    archived,
    eventually,
    frame,
    platform,
    reading,
    seeded,
    wait_until_archived,
    wait_until_hot,
)
from tools.services.instance import Instance

pytestmark = [pytest.mark.services, pytest.mark.drill, pytest.mark.timeout(600 + 30 * ROUNDS)]

SESSION_SECONDS = 3
STORM_JOINS = max(12, 2 * ROUNDS)
STORM_MOVES = STORM_JOINS // 2
STORM_MOST_SECONDS = 120 + 10 * ROUNDS


@pytest.fixture
def running(kafka: Instance, tmp_path: Path) -> Iterator[Platform]:
    with platform(
        tmp_path / "var", kafka_bootstrap=kafka.address, kafka_session_timeout_seconds=SESSION_SECONDS
    ) as made:
        yield made


def _all_archived_once(running: Platform, sent: dict[str, Sender]) -> None:
    """The archive holds what was sent to each incarnation at its position and nothing else; `sieis verify` is clean."""
    for incarnation, sender in sent.items():
        wait_until_archived(running.settings, sender.ends(), incarnation)
    by = ["source", *COMPARED]
    expected = pl.concat(
        frame(sender.sent).select(pl.lit(f"stream:{incarnation}").alias("source"), *COMPARED)
        for incarnation, sender in sent.items()
    )
    assert_frame_equal(archived(running.settings).select(by).sort(by[:3]), expected.sort(by[:3]))
    accounts = running.verify()["accounts"]
    assert sum(account["lost"] + account["duplicates"] + account["dead"] for account in accounts) == 0


def _owns(running: Platform, partitions: int) -> None:
    eventually(
        lambda: running.metric("sieis_assigned_partitions", sink="archive") == partitions,
        f"{partitions} partitions with the consumer started last",
    )


@pytest.mark.parametrize("moment", ["before the new owner commits", "after the new owner has committed"])
def test_a_consumer_stopped_past_its_session_changes_nothing_when_it_goes_on(running: Platform, moment: str) -> None:
    incarnation = running.start_broker()
    before = moment.startswith("before")
    with Sender(running.settings) as sender:
        zombie = running.start("consume", "--sink", "archive", archive_flush_seconds=1)
        _owns(running, 6)
        # The new owner flushes late, so that the old one goes on with its buffer full and the positions unmoved.
        running.start("consume", "--sink", "archive", archive_flush_seconds=6 if before else 0.5)
        _owns(running, 3)
        for _ in range(2):
            zombie.send_signal(signal.SIGSTOP)
            try:
                _owns(running, 6)
                if not before:
                    wait_until_archived(running.settings, sender.ends(), incarnation)
            finally:
                zombie.send_signal(signal.SIGCONT)
            _owns(running, 3)
    _all_archived_once(running, {incarnation: sender})


def test_what_was_read_is_stored_and_committed_before_another_consumer_gets_the_partition(running: Platform) -> None:
    """The flush by age is an hour away: only giving partitions away makes one."""
    running.start_broker()
    running.start("consume", "--sink", "archive", archive_flush_seconds=3_600)
    sender = Sender(running.settings)
    sender.send_unique(600)
    eventually(lambda: running.metric("sieis_records_read_total", sink="archive") == 600, "all read")
    running.start("consume", "--sink", "archive", archive_flush_seconds=3_600)
    _owns(running, 3)
    ends = sender.ends()
    assigned = [
        event
        for line in running.log.read_text().splitlines()
        if (event := json.loads(line)).get("event") == "partitions assigned"
    ]
    halves = [event for event in assigned if len(event["partitions"]) == 3]
    assert halves
    for half in halves:
        assert half["offsets"] == {str(part): ends.get(part, 0) for part in half["partitions"]}
    settings = running.settings
    looking = Consumer(client_config(settings, locate(settings)) | {"group.id": f"{settings.kafka_group}.archive"})
    try:
        parts = looking.committed([TopicPartition(settings.kafka_topic, part) for part in ends], timeout=10)
        assert {part.partition: part.offset for part in parts} == ends
    finally:
        looking.close()


def _moves(running: Platform) -> dict[str, int]:
    """How often partitions were assigned for each store."""
    lines = [line for line in running.log.read_text().splitlines() if '"partitions assigned"' in line]
    counts = Counter(json.loads(line)["sink"] for line in lines if line.endswith("}"))
    return {sink: counts[sink] for sink in ("hot", "archive")}


def test_a_rebalance_storm_loses_and_repeats_nothing(running: Platform) -> None:
    incarnation = running.start_broker()
    random = seeded()
    members, asked, killed = [running.start("consume")], [], []
    _owns(running, 6)
    with Sender(running.settings) as sender:
        deadline = time.monotonic() + STORM_MOST_SECONDS
        joins = 0
        # A storm: members come every second, and until partitions have changed hands often enough. (On a busy machine
        # some leave before they have come.)
        while joins < STORM_JOINS or min(_moves(running).values()) < STORM_MOVES:
            assert time.monotonic() < deadline, f"after {joins} joins only {_moves(running)}"
            joins += 1
            members.append(running.start("consume"))
            time.sleep(1)  # the storm's own rhythm: there is nothing to wait for
            if len(members) > 3:
                member = members.pop(random.randrange(len(members)))
                leave, left = random.choice([(member.terminate, asked), (member.kill, killed)])
                leave()
                left.append(member)
        for member in members[1:]:
            member.terminate()
            asked.append(member)
    _all_archived_once(running, {incarnation: sender})
    wait_until_hot(running.settings, len(sender.sent))
    assert hot_equals_archive(running.settings) == len(sender.sent)
    # Whoever was asked to leave left in order (or had not come so far as to hear it), and nobody else ended.
    assert {member.wait(30) for member in asked} <= {0, -signal.SIGTERM}, running.log.read_text()[-4_000:]
    assert {member.wait(30) for member in killed} <= {-signal.SIGKILL}
    assert members[0].poll() is None


@pytest.mark.parametrize("second", [300, 900], ids=["fewer records than before", "more records than before"])
def test_a_topic_made_again_under_a_running_consumer_is_read_from_its_first_record(
    running: Platform, second: int
) -> None:
    first_incarnation = running.start_broker()
    consumer = running.start("consume")
    first = Sender(running.settings)
    first.send_unique(600)
    _all_archived_once(running, {first_incarnation: first})
    wait_until_hot(running.settings, 600)

    admin = AdminClient(client_config(running.settings, locate(running.settings)))
    topic = running.settings.kafka_topic
    admin.delete_topics([topic])[topic].result(20)
    eventually(lambda: topic not in admin.list_topics(timeout=5).topics, "the topic deleted")
    ensure_topics(running.settings)
    second_incarnation = running.incarnation()
    assert second_incarnation != first_incarnation
    again = Sender(running.settings)
    again._count = 600  # readings never sent before, at positions that the deleted topic had too
    again.send_unique(second)

    _all_archived_once(running, {first_incarnation: first, second_incarnation: again})
    wait_until_hot(running.settings, 600 + second)
    assert hot_equals_archive(running.settings) == 600 + second
    running.stop(consumer)


def test_a_topic_made_again_while_nobody_looked_is_read_from_its_first_record(running: Platform) -> None:
    first_incarnation = running.start_broker()
    consumer = running.start("consume")
    first = Sender(running.settings)
    first.send_unique(300)
    wait_until_hot(running.settings, 300)
    running.stop(consumer)
    admin = AdminClient(client_config(running.settings, locate(running.settings)))
    topic = running.settings.kafka_topic
    admin.delete_topics([topic])[topic].result(20)
    eventually(lambda: topic not in admin.list_topics(timeout=5).topics, "the topic deleted")
    ensure_topics(running.settings)
    again = Sender(running.settings)
    again._count = 300
    again.send_unique(900)
    running.start("consume")
    _all_archived_once(running, {first_incarnation: first, running.incarnation(): again})
    wait_until_hot(running.settings, 1_200)
    assert hot_equals_archive(running.settings) == 1_200


@pytest.mark.parametrize("partitions", [12, 24])
def test_partitions_grown_under_load_lose_and_repeat_nothing(running: Platform, partitions: int) -> None:
    incarnation = running.start_broker()
    running.start("consume")
    with Sender(running.settings, rate=500, motes=42, topic_metadata_refresh_interval_ms=250) as sender:
        eventually(lambda: len(sender.sent) > 500, "sent before the growth")
        more = running.settings.model_copy(update={"kafka_partitions": partitions})
        assert [report.grown_from for report in ensure_topics(more, grow=True)] == [6, None]
        eventually(lambda: len(sender.ends()) > 6, "a key on a new partition")
        sent = len(sender.sent)
        eventually(lambda: len(sender.sent) > sent + 500, "sent after the growth")
        # The same key before and after the move of its mote: what is read last counts, in both stores.
        moved, old = _moved(sender)
        first, last = _conflicting(moved)
        sender.send(first, moved, partition=old)
        _sent_and_archived(running, sender, first, incarnation)
        sender.send(last, moved)
    positions = {record["light"]: at for at, record in sender.sent.items() if record["timestamp"] == first["timestamp"]}
    assert positions[first["light"]][0] == old
    assert positions[last["light"]][0] >= 6
    _all_archived_once(running, {incarnation: sender})
    wait_until_hot(running.settings, len(sender.sent) - 1)
    assert _counts(running, moved) == last["light"]
    with contextlib.closing(open_hot(running.settings)) as hot:
        assert hot.readings(*_AROUND, [moved])["light"].to_list() == [last["light"]]


def test_after_a_growth_the_reading_read_last_counts_although_it_was_sent_first(
    kafka: Instance, tmp_path: Path
) -> None:
    """The documented price of growing under a lag: the old partition is still unread when the new one is stored."""
    # A session so long that whoever is stopped below keeps its partitions.
    own = {"kafka_bootstrap": kafka.address, "kafka_session_timeout_seconds": 120}
    with platform(tmp_path / "var", **own) as running:
        incarnation = running.start_broker()
        more = running.settings.model_copy(update={"kafka_partitions": 12})
        ensure_topics(more, grow=True)
        one = running.start("consume", "--sink", "archive")
        _owns(running, 12)
        other = running.start("consume", "--sink", "archive")
        _owns(running, 6)
        sender = Sender(running.settings)
        old, new = 0, 6
        _told(sender, old, new)
        wait_until_archived(running.settings, sender.ends(), incarnation)
        eventually(lambda: len(_stored_by_the_last(running, old, new)) == 1, "who owns which")
        behind = other if _stored_by_the_last(running, old, new) == [old] else one
        first, last = _conflicting(1)
        behind.send_signal(signal.SIGSTOP)
        try:
            # As a producer does that has not heard of the growth yet (it asks every five minutes).
            sender.send(first, 1, partition=old)
            sender.flush()
            sender.send(last, 1, partition=new)
            sender.flush()
            eventually(lambda: _counts(running, 1) == last["light"], "the reading sent last archived")
        finally:
            behind.send_signal(signal.SIGCONT)
        eventually(lambda: _counts(running, 1) == first["light"], "the reading sent first, read last, counts")
        _all_archived_once(running, {incarnation: sender})


_CONFLICT = (NOW_NS - 7_200 * 1_000_000_000) // 1_000_000_000 * 1_000_000_000
_AROUND = (_CONFLICT, _CONFLICT + 1)


def _conflicting(mote: int) -> tuple[dict, dict]:
    """Two readings of one key."""
    return reading(mote, _CONFLICT, 1_001), reading(mote, _CONFLICT, 1_002)


def _moved(sender: Sender) -> tuple[int, int]:
    """A mote that is on a new partition now, and the partition it was on."""
    seen = [(partition, record["mote_id"]) for (partition, _), record in list(sender.sent.items())]
    mote = next(mote for partition, mote in seen if partition >= 6)
    return mote, next(partition for partition, one in seen if one == mote and partition < 6)


def _sent_and_archived(running: Platform, sender: Sender, record: dict, incarnation: str) -> None:
    eventually(lambda: record in list(sender.sent.values()), "acknowledged")
    partition, offset = next(at for at, one in list(sender.sent.items()) if one is record)
    wait_until_archived(running.settings, {partition: offset + 1}, incarnation)


def _told(sender: Sender, *partitions: int) -> None:
    """One reading on each of `partitions`."""
    for partition in partitions:
        record = sender.unique()
        sender.send(record, record["mote_id"], partition=partition)
    sender.flush()


def _stored_by_the_last(running: Platform, *partitions: int) -> list[int]:
    """Those of `partitions` of which the consumer started last has stored something."""
    stored = {one: running.metric("sieis_stored_offset", sink="archive", partition=str(one)) for one in partitions}
    return [partition for partition, offset in stored.items() if offset > 0]


def _counts(running: Platform, mote: int) -> float | None:
    """The light of the reading of the conflicting key that every read of the archive gives."""
    rows = open_archive(running.settings).scan(*_AROUND).filter(pl.col("mote_id") == mote).collect()
    return rows["light"].item() if len(rows) else None


def test_kafka_killed_under_load_loses_and_repeats_nothing(running: Platform, kafka: Instance) -> None:
    incarnation = running.start_broker()
    consumer = running.start("consume")
    with Sender(running.settings) as sender:
        for _ in range(2):
            sent = len(sender.sent)
            eventually(lambda sent=sent: len(sender.sent) > sent + 1_500, "sent on")
            kafka.kill()
            kafka.start()
    _all_archived_once(running, {incarnation: sender})
    wait_until_hot(running.settings, len(sender.sent))
    running.stop(consumer)


def test_an_archive_outage_beyond_the_retention_is_in_ledger_metric_and_log(
    kafka: Instance, s3: Instance, tmp_path: Path
) -> None:
    own = {"s3_endpoint_url": s3.address, "s3_allow_http": True, "s3_timeout_seconds": 2,
           "s3_access_key_id": s3.credentials["access_key"], "s3_secret_access_key": s3.credentials["secret_key"],
           "archive_uri": f"s3://drill-{time.time_ns()}/readings", "archive_flush_rows": 500,
           # Else two polls hold all that is sent, and nothing is lost.
           "poll_records": 500, "poll_records_loaded": 500}  # fmt: skip
    with platform(tmp_path / "var", kafka_bootstrap=kafka.address, **own) as running:
        assert running.run("setup").returncode == 0
        incarnation = running.incarnation()
        running.start("consume")
        sender = Sender(running.settings)
        sender.send_unique(600)
        _all_archived_once(running, {incarnation: sender})
        s3.kill()
        try:
            sender.send_unique(4_000)
            # The hot store goes on meanwhile.
            wait_until_hot(running.settings, 4_600)
            eventually(
                lambda: running.metric("sieis_errors_total", sink="archive", kind="ArchiveUnavailableError") > 0,
                "outage",
            )
            admin = AdminClient(client_config(running.settings, locate(running.settings)))
            kept = {partition: end - 20 for partition, end in sender.ends().items()}
            topic = running.settings.kafka_topic
            parts = [TopicPartition(topic, partition, first) for partition, first in kept.items()]
            for future in admin.delete_records(parts).values():
                future.result(20)
        finally:
            s3.start()
        wait_until_archived(running.settings, sender.ends(), incarnation)
        rows = archived(running.settings).select(COMPARED).sort(COMPARED[:2])
        expected = frame(sender.sent)
        assert rows.join(expected, on=COMPARED, how="anti", nulls_equal=True).is_empty()
        lost = sum(account["lost"] for account in running.verify()["accounts"])
        assert lost == expected.height - rows.height > 0
        eventually(
            lambda: running.metric("sieis_records_lost_total", sink="archive") == lost, f"{lost} lost in the metric"
        )
        errors = [line for line in running.log.read_text().splitlines() if "they are lost" in line]
        assert errors
        assert all('"level": "error"' in line for line in errors)
        for secret in s3.credentials["secret_key"], "X-Amz-Signature":
            assert secret not in running.log.read_text()
