"""All servers of the services setting with a wire before each that can be spoiled, and platforms made on them.

Belongs here: that site, and what every drill on it ends with. Not here: which fault is tested.
"""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.faults.full import all_stored_once, prepared
from tests.faults.harness import Platform, Sender, eventually, platform
from tools.services import Proxy, Services

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
        own = prepared([self.services[name] for name in SINKS], folder / "setup")
        short = dict.fromkeys(("influx_timeout_seconds", "s3_timeout_seconds"), TIMEOUT_SECONDS)
        with platform(folder / "var", **{**own, **short, **settings}) as running:
            try:
                yield running
            finally:
                for wire in self.wires.values():
                    wire.mend()


def sends_on(sender: Sender, records: float) -> None:
    """Let so many more records be sent: at a steady rate that is how long a fault lasts."""
    end = len(sender.sent) + records
    eventually(lambda: len(sender.sent) >= end, f"{records:g} more records sent", 300)


def all_once(running: Platform, sender: Sender, incarnation: str, consumer: "subprocess.Popen[bytes]") -> None:
    """Nothing lost, nothing twice, in both stores; the consumer never ended, and ends when it is asked to."""
    all_stored_once(running, sender, incarnation, _CATCH_UP_SECONDS)
    assert consumer.poll() is None, running.log.read_text()[-4_000:]
    running.stop(consumer)
