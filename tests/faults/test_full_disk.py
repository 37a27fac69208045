"""The disk under InfluxDB, or under the S3 server, runs full: the other store goes on, and with space all arrives."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.full import all_stored_once, errors, goes_on, prepared
from tests.faults.harness import Platform, Sender, eventually, platform
from tests.unit.sieis_platform.stores.conftest import SmallDisk
from tools.services.group import Services
from tools.services.instance import Instance

pytestmark = [
    pytest.mark.services,
    pytest.mark.drill,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk"),
]

DISK_KILOBYTES = 64 * 1024


@contextmanager
def on_a_small_disk(name: str, folder: Path) -> Iterator[tuple[Instance, SmallDisk]]:
    """A server of its own whose data, and nothing else, lie on a small disk."""
    data = folder / name / "data"
    data.mkdir(parents=True)
    disk = SmallDisk(data, DISK_KILOBYTES)
    try:
        with Services.start([name], root=folder) as services:
            yield services[name], disk
    finally:
        disk.unmount()


def runs_full(running: Platform, disk: SmallDisk, sink: str, kind: str) -> None:
    """Fill the disk until the consumer has met it, and met it again."""
    before = errors(running, sink, kind)

    def met() -> bool:
        disk.fill()  # the server may have given some space back
        return errors(running, sink, kind) >= before + 2

    eventually(met, f"{sink}: {running.log.read_text()[-2_000:]}", 120)


def test_a_full_disk_under_influxdb_stops_the_hot_store_alone_until_it_is_freed_and_influxdb_restarted(
    kafka: Instance, s3: Instance, tmp_path: Path
) -> None:
    with (
        on_a_small_disk("influxdb", tmp_path / "servers") as (influxdb, disk),
        platform(tmp_path / "var", **prepared([kafka, influxdb, s3], tmp_path / "setup")) as running,
    ):
        incarnation = running.incarnation()
        consumer = running.start("consume")
        with Sender(running.settings, rate=500) as sender:
            goes_on(running, "hot")
            runs_full(running, disk, "hot", "HotStoreUnavailableError")
            goes_on(running, "archive")
            assert consumer.poll() is None
            assert "is full; free space, then restart InfluxDB" in running.log.read_text()
            disk.free()
            influxdb.restart()  # what the message says: the write-ahead log has no other way out
            goes_on(running, "hot")
        all_stored_once(running, sender, incarnation)
        running.stop(consumer)


def test_a_full_disk_under_the_s3_server_stops_the_archive_alone_until_it_is_freed(
    kafka: Instance, influxdb: Instance, tmp_path: Path
) -> None:
    with (
        on_a_small_disk("minio", tmp_path / "servers") as (s3, disk),
        platform(tmp_path / "var", **prepared([kafka, influxdb, s3], tmp_path / "setup")) as running,
    ):
        incarnation = running.incarnation()
        consumer = running.start("consume")
        with Sender(running.settings, rate=500) as sender:
            goes_on(running, "archive")
            runs_full(running, disk, "archive", "ArchiveUnavailableError")
            goes_on(running, "hot")
            assert consumer.poll() is None
            assert "is full; free space to go on" in running.log.read_text()
            disk.free()
            goes_on(running, "archive")
        all_stored_once(running, sender, incarnation)
        running.stop(consumer)
