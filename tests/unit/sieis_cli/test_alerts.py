"""`sieis alerts` as its user has it: the real command, and a real server that it sends to."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


def sieis(data_dir: Path, *arguments: str, urls: str = "") -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIEIS_")}
    environment = {**kept, "SIEIS_DATA_DIR": str(data_dir), "SIEIS_ALERT_URLS": urls, "COLUMNS": "160"}
    command = [sys.executable, "-m", "sieis_cli", "alerts", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_trial_arrives_and_is_listed(tmp_path: Path, receiver: Receiver) -> None:
    done = sieis(tmp_path, "test", urls=receiver.url)
    assert done.returncode == 0, done.stderr
    assert [message["title"] for message in receiver.received] == ["A trial"]
    listed = sieis(tmp_path, "list").stdout
    assert "1 alert(s), 0 waiting, 0 failed deliveries" in listed
    assert "delivered" in listed


def test_a_trial_that_is_not_taken_asks_to_try_again(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 500
    done = sieis(tmp_path, "test", urls=receiver.url)
    assert done.returncode == 75
    assert "A trial: JSON:" in done.stderr
    assert "1 waiting, 1 failed deliveries" in sieis(tmp_path, "list").stdout


def test_without_addresses_a_trial_says_what_to_set(tmp_path: Path) -> None:
    done = sieis(tmp_path, "test")
    assert done.returncode == 1
    assert "SIEIS_ALERT_URLS" in done.stderr
