"""The full setting for drills: Kafka, InfluxDB and an S3 server, made ready by `sieis setup` as an operator would.

Belongs here: names of a drill's own, the setup, and what every drill must find at its end. Not here: the faults.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

import polars as pl
from dotenv import dotenv_values
from polars.testing import assert_frame_equal

from sieis_platform.reading import KEY
from tests.faults.compare import hot_equals_archive
from tests.faults.harness import (
    COMPARED,
    Platform,
    Sender,
    archived,
    eventually,
    frame,
    wait_until_archived,
    wait_until_hot,
)
from tools.services.instance import Instance

_CHECKOUT = Path(__file__).parents[2]


def prepared(instances: Iterable[Instance], folder: Path, **more: object) -> dict[str, str]:
    """Settings of a `Platform` on running servers, with topics, groups and buckets that `sieis setup` made for it.

    `more` are further settings, or others than the servers'.

    The stores' timeouts are short: a server that was killed in the middle of a request must not cost a drill 10 s.
    """
    folder.mkdir()
    name = f"t{uuid.uuid4().hex[:12]}"
    given = {key: value for instance in instances for key, value in instance.settings.items()}
    own = {
        # Three servers and a consumer on two cores: a heartbeat may come a second late.
        "kafka_session_timeout_seconds": "3",
        "kafka_topic": name, "kafka_dlq_topic": f"{name}.dlq", "kafka_group": name,
        "influx_bucket": name, "influx_hourly_bucket": f"{name}-hourly", "influx_timeout_seconds": "5",
        "archive_uri": f"s3://{name}/readings", "marts_uri": f"s3://{name}/marts", "s3_timeout_seconds": "5",
    }  # fmt: skip
    given |= {f"SIEIS_{key.upper()}": str(value) for key, value in (own | more).items()}
    done = subprocess.run(
        [sys.executable, "-m", "sieis_cli", "setup"],
        env={**os.environ, **given, "PYTHONPATH": str(_CHECKOUT)},
        cwd=folder,  # .env is written to the working directory
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    token = dotenv_values(folder / ".env")["SIEIS_INFLUX_TOKEN"]
    assert token
    assert token != given["SIEIS_INFLUX_ADMIN_TOKEN"]  # which may do everything
    given["SIEIS_INFLUX_TOKEN"] = token
    return {key.removeprefix("SIEIS_").lower(): value for key, value in given.items()}


def written(running: Platform, sink: str) -> float:
    """Readings that the consumer started last has stored."""
    return running.metric("sieis_records_written_total", sink=sink)


def goes_on(running: Platform, sink: str, readings: int = 500) -> None:
    """Wait until so many more readings are in that store."""
    before = written(running, sink)
    eventually(lambda: written(running, sink) >= before + readings, f"{readings} more in the {sink} store", 120)


def errors(running: Platform, sink: str, kind: str) -> float:
    """How often that sink met that error."""
    return running.metric("sieis_errors_total", sink=sink, kind=kind)


def all_stored_once(running: Platform, sender: Sender, incarnation: str, seconds: float = 90.0) -> None:
    """All that was sent (unique readings) is archived by position and value, and hot; `sieis verify` is clean.

    A backlog may take `seconds` to each store. No secret got into the logs.
    """
    wait_until_archived(running.settings, sender.ends(), incarnation, seconds)
    expected = frame(sender.sent)
    rows = archived(running.settings)
    assert rows["source"].unique().to_list() == [f"stream:{incarnation}"]
    assert_frame_equal(rows.select(COMPARED).sort(COMPARED[:2]), expected)
    accounts = running.verify()["accounts"]
    assert sum(account["stored"] for account in accounts) == expected.height
    assert sum(account["lost"] + account["duplicates"] + account["dead"] for account in accounts) == 0
    wait_until_hot(running.settings, expected.height, seconds)
    assert hot_equals_archive(running.settings) == expected.select(pl.struct(KEY).n_unique()).item()
    log = running.log.read_text()
    for name in ("SIEIS_INFLUX_TOKEN", "SIEIS_S3_SECRET_ACCESS_KEY"):
        assert running.environment[name] not in log, f"{name} is in the log"
