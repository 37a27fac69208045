"""`sieis dlq` as its user has it: real broker, consumer and command. What is bad is seen, sent again, and seen once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sieis_platform.stores.open import open_archive
from sieis_streaming.broker import locate
from tests.faults.harness import Platform, Sender, eventually, platform, wait_until_archived
from tests.faults.test_kill_consumer import POISON

pytestmark = pytest.mark.timeout(180)

TERMINAL = b"\x1b[2J\x1b]0;owned\x07 [bold]not markup[/]"
BAD = [*POISON, TERMINAL]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose stream carried a good record and every kind of bad one."""
    with platform(tmp_path_factory.mktemp("dlq") / "var") as one:
        one.start("broker")
        sender = Sender(one.settings)
        for number, value in enumerate(BAD):
            sender.send(value, number)
        record = sender.unique()
        sender.send(record, record["mote_id"])
        sender.flush()
        consumer = one.start("consume", "--sink", "archive")
        wait_until_archived(one.settings, sender.ends(), incarnation(one))
        yield one
        one.stop(consumer)


def incarnation(one: Platform) -> str:
    return locate(one.settings).cluster_id or ""


def listed(one: Platform) -> list[dict[str, Any]]:
    done = one.run("dlq", "list", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def died(one: Platform) -> int:
    """How many records have died so far; a dead letter is on its topic before the ledger counts it."""
    return sum(entry.dead for entry in open_archive(one.settings).ledger())


@pytest.mark.slow
def test_what_is_bad_is_listed_shown_and_comes_back_once(running: Platform) -> None:
    letters = listed(running)
    assert [letter["status"] for letter in letters] == ["open"] * len(BAD)
    assert sorted(letter["value"] or "" for letter in letters) == sorted(
        (value or b"").decode("utf-8", "backslashreplace") for value in BAD
    )
    assert {letter["reason"] for letter in letters} == {
        *("empty", "not_json", "not_a_reading", "time_impossible", "not_finite")
    }
    assert all(letter["position"].startswith(f"sensor_readings/{incarnation(running)}/") for letter in letters)

    for letter in (one for one in letters if one["value"] == TERMINAL.decode()):
        shown = running.run("dlq", "show", letter["position"])
        assert shown.returncode == 0, shown.stderr
        assert "reason: not_json" in shown.stdout
        assert "headers: []" in shown.stdout
        assert letter["detail"].split(" (")[0] in shown.stdout
        assert "\x1b" not in shown.stdout, "a message must not command the terminal"
    table = running.run("dlq", "list")
    assert f"{len(BAD)} dead letter(s)" in table.stdout
    assert "\x1b" not in table.stdout

    replayed = running.run("dlq", "replay")
    assert f"{len(BAD)} dead letter(s) sent" in replayed.stdout, replayed.stderr
    eventually(lambda: died(running) == 2 * len(BAD), "all of them back", 40)
    letters = listed(running)
    statuses = [letter["status"] for letter in letters]
    assert (statuses.count("replayed"), statuses.count("came_back")) == (len(BAD), len(BAD))
    assert "0 dead letter(s) sent" in running.run("dlq", "replay").stdout

    refused(running, "sensor_readings/x/0/0", "no dead letter has the position")
    back = next(letter for letter in letters if letter["status"] == "came_back")
    assert "1 dead letter(s) sent" in running.run("dlq", "replay", back["position"]).stdout
    eventually(lambda: died(running) == 2 * len(BAD) + 1, "the one that was named", 40)
    assert len(listed(running)) == 2 * len(BAD) + 1
    accounts = running.verify()["accounts"]
    assert sum(account["stored"] for account in accounts) == 1


def test_a_position_that_is_none_is_told(tmp_path: Path) -> None:
    with platform(tmp_path / "var") as one:
        refused(one, "nonsense", "is not a position")


def refused(one: Platform, position: str, says: str) -> None:
    for command in ("show", "replay"):
        done = one.run("dlq", command, position)
        assert done.returncode == 1
        assert says in done.stderr
        assert "sieis dlq list" in done.stderr
        assert "Traceback" not in done.stderr
