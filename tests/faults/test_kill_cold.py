"""The move of old days killed with -9 at every named point, as the stream writes on: nothing lost, nothing twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform import crash
from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.backfill import Backfill
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive, rows_by_day
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.stores.rewrite import ROW_SCHEMA, Scope, replace_rows
from sieis_platform.stores.tiers import bring_back, movable_days, move_day
from tests.unit.sieis_platform.history_file import MOTES, day, write

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.timeout(300)]

A_DAY = 96
KILLED = """
import sys
from sieis_platform import crash
from sieis_platform.settings import Settings
from tests.faults import test_kill_cold as here
settings = Settings()
crash.arm(settings.crash_at)
getattr(here, sys.argv[1])(here.open_archive(settings))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("file") / "readings.txt", A_DAY)


@pytest.fixture
def settings(tmp_path: Path, file: Path) -> Settings:
    """An installation with six days of history, and a cold table for four of them."""
    settings = Settings(data_dir=tmp_path, archive_cold_uri=str(tmp_path / "cold"))
    hot = open_hot(settings)
    Backfill(settings, hot, open_archive(settings)).fill(file, day(6), day(1))
    hot.close()
    return settings


def killed(settings: Settings, point: str, act: str) -> None:
    """A process that does `act`, a function of this module, dies at `point`."""
    environment = {
        **os.environ,
        "SIEIS_DATA_DIR": str(settings.data_dir),
        "SIEIS_ARCHIVE_COLD_URI": settings.archive_cold_uri,
        "SIEIS_CRASH_AT": point,
    }
    done = subprocess.run([sys.executable, "-c", KILLED, act], env=environment, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL


def move(archive: Archive) -> None:
    for one in movable_days(archive, day(3)):
        move_day(archive, one)


def correct(archive: Archive) -> None:
    """Take away a value of one mote on two days, a moved one and one that is not."""
    replace_rows(archive, Scope(day(2), day(3), [2]), lambda rows: rows.with_columns(light=None), reason="test")


def rows(settings: Settings) -> pl.DataFrame:
    archive = open_archive(settings)
    assert audit_archive(archive).findings == []
    return archive.scan_all().select(ROW_SCHEMA.names()).sort("source_offset").collect()


@pytest.mark.parametrize("point", [point for point in crash.POINTS if point.startswith("cold.")])
@pytest.mark.parametrize("passes", [1, 3])
def test_a_killed_move_is_completed(settings: Settings, point: str, passes: int) -> None:
    before = rows(settings)
    if point == "cold.after_restore":  # there is something to be undone only after another kill
        killed(settings, f"cold.after_cold:{passes}", "move")
        passes = 1
    killed(settings, f"{point}:{passes}", "move")
    assert_frame_equal(rows(settings), before, check_exact=True)
    archive = open_archive(settings)
    move(archive)
    assert_frame_equal(rows(settings), before, check_exact=True)
    assert list(rows_by_day(archive.files())) == [day(2), day(1)]


@pytest.mark.parametrize("point", ["cold.after_cold", "cold.after_live"])
def test_a_killed_return_is_completed(settings: Settings, point: str) -> None:
    before = rows(settings)
    move(open_archive(settings))
    killed(settings, f"{point}:2", "bring_back")
    assert_frame_equal(rows(settings), before, check_exact=True)
    bring_back(open_archive(settings))
    assert_frame_equal(rows(settings.changed(archive_cold_uri="")), before, check_exact=True)


def test_a_killed_correction_of_a_moved_day_leaves_it_whole_and_is_done_by_the_next(settings: Settings) -> None:
    before = rows(settings)
    move(open_archive(settings))
    killed(settings, "cold.after_cold", "correct")
    assert_frame_equal(rows(settings), before, check_exact=True)
    correct(open_archive(settings))
    after = rows(settings)
    assert (after.height, after["light"].null_count()) == (6 * MOTES * A_DAY, 2 * A_DAY)
    move(open_archive(settings))
    assert_frame_equal(rows(settings), after, check_exact=True)
