"""A disk small enough to fill up, and a real InfluxDB. Belongs here: what several store tests share."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.influxdb import Buckets
from tools.services import Services


class SmallDisk:
    """A tmpfs of `kilobytes` that can grow."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        self._mount(kilobytes, 0)

    def grow(self, kilobytes: int) -> None:
        self._mount(kilobytes, 32)  # MS_REMOUNT

    def fill(self) -> None:
        """Take all space that is left, in ever smaller pieces; again for what has been freed since."""
        with self._filler.open("ab", buffering=0) as filler:
            for piece in (1 << 20, 1 << 16, 1 << 12):
                try:
                    while filler.write(bytes(piece)) == piece:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def _mount(self, kilobytes: int, flags: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"size={kilobytes}k".encode()
        if libc.mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", flags, options) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def unmount(self) -> None:
        ctypes.CDLL(None).umount2(os.fsencode(self.folder), 2)  # MNT_DETACH


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        disk = SmallDisk(folder, 1024)
    except (OSError, AttributeError) as error:
        pytest.skip(f"mounting a small tmpfs is not permitted here: {error}")
    yield disk
    disk.unmount()


@pytest.fixture(scope="session")
def buckets() -> Iterator[Buckets]:
    """A running InfluxDB and its buckets."""
    with Services.start(["influxdb"]) as services:
        yield Buckets(services["influxdb"])
