"""The historical load killed with -9 at every named point and at random moments: each line once, in both stores."""

import random
import signal
import subprocess
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform import crash
from sieis_platform.reading import FIELDS
from sieis_platform.stores.open import open_archive, open_hot
from tests.faults.harness import ROUNDS, Platform, platform, seeded

pytestmark = [pytest.mark.slow, pytest.mark.drill, pytest.mark.timeout(600)]

UNIQUE = 60_000
BATCH = 10_000
#: Lines that come again right behind themselves: more than a batch, fewer than the window of repeats holds.
BLOCK = 15_000
BAD = UNIQUE // 4_001
POINTS = [point for point in crash.POINTS if point.startswith("load.")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of UNIQUE lines, readings of 6 motes over 2 days, some of them bad; each block of them comes twice."""
    rng = random.Random(4)
    lines: list[str] = []
    for number in range(UNIQUE):
        mote, second = 1 + number // (UNIQUE // 6), (number % (UNIQUE // 6)) * 15
        day, rest = divmod(second, 86_400)
        stamp = (
            f"2004-03-{1 + day:02d} {rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}.{rng.randrange(10**6):06d}"
        )
        values = (
            f"{rng.uniform(15, 30):.4f} {rng.uniform(20, 60):.4f} {rng.uniform(0, 900):.2f} {rng.uniform(2, 3):.5f}"
        )
        lines.append("garbled line" if number % 4_001 == 4_000 else f"{stamp} {number % 65_536} {mote} {values}")
    path = tmp_path / "readings.txt"
    blocks = [lines[start : start + BLOCK] for start in range(0, UNIQUE, BLOCK)]
    path.write_text("".join(f"{line}\n" for block in blocks for line in [*block, *block]))
    return path


def test_every_crash_point_and_random_kills_load_each_line_once(tmp_path: Path, source: Path) -> None:
    moments = seeded()
    with platform(tmp_path / "whole") as whole, platform(tmp_path / "killed", load_batch_rows=BATCH) as killed:
        assert whole.run("load", str(source)).returncode == 0
        for point in POINTS:
            process = killed.start("load", str(source), crash_at=f"{point}:2")
            assert process.wait(60) == -signal.SIGKILL, f"{point} was not reached"
        for _ in range(ROUNDS):
            process = killed.start("load", str(source))
            try:
                process.wait(moments.uniform(0.3, 1.5))
            except subprocess.TimeoutExpired:
                process.kill()
            process.wait()
        assert killed.run("load", str(source)).returncode == 0
        again = killed.run("load", str(source), "--json")
        assert '"lines_read": 0' in again.stdout, again.stdout + again.stderr

        expected, rows = _rows(whole), _rows(killed)
        assert expected.height == UNIQUE - BAD
        assert_frame_equal(rows, expected)
        assert_frame_equal(_hot(killed), _hot(whole))
        (account,) = killed.verify()["accounts"]
        assert account["stored"] == expected.height
        assert account["duplicates"] == expected.height
        assert account["dead"] == 2 * BAD
        (rejects,) = (killed.settings.data_dir / "rejects").iterdir()
        assert len(rejects.read_text().splitlines()) == 2 * BAD


def _rows(one: Platform) -> pl.DataFrame:
    return open_archive(one.settings).scan_all().drop("ingested_at").collect().sort("source_offset")


def _hot(one: Platform) -> pl.DataFrame:
    hot = open_hot(one.settings)
    try:
        return hot.readings(0, 1 << 62).select("mote_id", "timestamp", *FIELDS).sort("mote_id", "timestamp")
    finally:
        hot.close()
