"""All servers of the services setting with a wire before each that can be spoiled, and platforms made on them.

Belongs here: that site, and what every drill on it ends with. Not here: which fault is tested.
"""

import contextlib
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from polars.testing import assert_frame_equal
from pydantic import SecretStr

from tests.faults.compare import hot_equals_archive
from tests.faults.harness import (
    COMPARED,
    Platform,
    Sender,
    archived,
    eventually,
    frame,
    platform,
    wait_until_archived,
    wait_until_hot,
)
from tools.services import Proxy, Services

_ROOT: Final = Path(__file__).parents[2]
TIMEOUT_SECONDS: Final = 3
"""How long stores may be silent. Short, so that a wire that swallows answers is noticed several times in a drill."""

_CATCH_UP_SECONDS: Final = 180
"""How long a backlog of minutes may take on a machine that is busy otherwise."""

SINKS: Final[Mapping[str, tuple[str, ...]]] = {
    "kafka": ("hot", "archive"),
    "influxdb": ("hot",),
    "minio": ("archive",),
}
"""Which sinks of the consumer need a server."""


class Site:
    """Running Kafka, InfluxDB and MinIO, and `wires`: a proxy before each, which a process uses if it is told to."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.wires: dict[str, Proxy] = {name: services.proxy(name) for name in SINKS}

    @classmethod
    @contextlib.contextmanager
    def start(cls) -> Iterator["Site"]:
        """Start the servers; all are gone at the end."""
        with Services.start([*SINKS, "toxiproxy"]) as services:
            yield cls(services)

    def wired(self, server: str) -> dict[str, object]:
        """Settings of a process that reaches `server` through its wire."""
        address = self.wires[server].address
        settings = {"kafka": "kafka_bootstrap", "influxdb": "influx_url", "minio": "s3_endpoint_url"}
        return {settings[server]: address if server == "kafka" else f"http://{address}"}

    @contextlib.contextmanager
    def platform(self, folder: Path, **settings: object) -> Iterator[Platform]:
        """A platform with topics, buckets and a token of its own, made by `sieis setup`; the wires are mended after it.

        Its own settings lead to the servers directly: sender and comparisons do not suffer what a consumer does.
        """
        name = f"drill-{uuid.uuid4().hex[:12]}"
        influxdb, s3 = self.services["influxdb"], self.services["minio"]
        own = {
            "kafka_bootstrap": self.services["kafka"].address,
            "influx_url": influxdb.address,
            "influx_org": influxdb.credentials["org"],
            "influx_bucket": name,
            "influx_hourly_bucket": f"{name}-hourly",
            "influx_timeout_seconds": TIMEOUT_SECONDS,
            "archive_uri": f"s3://{name}/readings",
            "marts_uri": f"s3://{name}/marts",
            "s3_endpoint_url": s3.address,
            "s3_allow_http": True,
            "s3_timeout_seconds": TIMEOUT_SECONDS,
            "s3_access_key_id": s3.credentials["access_key"],
            "s3_secret_access_key": s3.credentials["secret_key"],
        }
        with platform(folder / "var", **{**own, **settings}) as running:
            _set_up(running, folder, influxdb.credentials["token"])
            try:
                yield running
            finally:
                for wire in self.wires.values():
                    wire.mend()


def _set_up(running: Platform, folder: Path, operator: str) -> None:
    """`sieis setup`, in a folder of its own: it puts InfluxDB's token into the .env there."""
    secret = {"SIEIS_INFLUX_ADMIN_TOKEN": operator, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "sieis_cli", "setup"],
        cwd=folder,
        env={**os.environ, **running.environment, **secret},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (token,) = re.findall(r"(?m)^SIEIS_INFLUX_TOKEN=(\S+)$", (folder / ".env").read_text())
    running.environment["SIEIS_INFLUX_TOKEN"] = token
    running.settings = running.settings.model_copy(update={"influx_token": SecretStr(token)})


def sends_on(sender: Sender, records: float) -> None:
    """Let so many more records be sent: at a steady rate that is how long a fault lasts."""
    end = len(sender.sent) + records
    eventually(lambda: len(sender.sent) >= end, f"{records:g} more records sent", 300)


def written(running: Platform, sink: str) -> float:
    """Records that the consumer started last has put into the store of `sink`."""
    return running.metric("sieis_records_written_total", sink=sink)


def all_once(running: Platform, sender: Sender, incarnation: str, consumer: "subprocess.Popen[bytes]") -> None:
    """Nothing lost, nothing twice, in both stores; the consumer never ended, and ends when it is asked to.

    Everything sent stands in the archive at its position and with its values, `sieis verify` is clean, the hot store
    holds the same readings, and no secret got into the logs.
    """
    wait_until_archived(running.settings, sender.ends(), incarnation, _CATCH_UP_SECONDS)
    wait_until_hot(running.settings, len(sender.sent), _CATCH_UP_SECONDS)
    assert consumer.poll() is None, running.log.read_text()[-4_000:]
    running.stop(consumer)

    rows = archived(running.settings)
    assert rows["source"].unique().to_list() == [f"stream:{incarnation}"]
    assert_frame_equal(rows.select(COMPARED).sort(COMPARED[:2]), frame(sender.sent))
    accounts = running.verify()["accounts"]
    assert sum(account["stored"] for account in accounts) == len(sender.sent)
    assert sum(account["lost"] + account["duplicates"] + account["dead"] for account in accounts) == 0
    assert hot_equals_archive(running.settings) == len(sender.sent)

    log = running.log.read_text()
    for name in ("SIEIS_INFLUX_TOKEN", "SIEIS_S3_SECRET_ACCESS_KEY"):
        assert running.environment[name] not in log, f"{name} is in the log"
