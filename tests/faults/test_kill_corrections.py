"""Backfills and corrections killed with -9 at every named point: no half-written day, completed by running again."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.backfill import Backfill, history_file
from sieis_platform.corrections import Asked, Corrections
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.stores.rewrite import Scope, remove
from sieis_platform.timeline import DAY_NS
from tests.faults.harness import Platform, platform
from tests.unit.sieis_platform.history_file import MOTES, archived, day, hot_rows, won, write

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.timeout(600)]

A_DAY = 96
KILLED = """
import sys
from sieis_platform import crash
from sieis_platform.settings import Settings
from tests.faults import test_kill_corrections as here
settings = Settings()
crash.arm(settings.crash_at)
getattr(here, sys.argv[1])(settings, *sys.argv[2:])
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("file") / "readings.txt", A_DAY)


def killed(one: Platform, point: str, *call: str) -> bool:
    """Whether a process that makes a call of this module died at `point`."""
    environment = {**os.environ, **one.environment, "SIEIS_CRASH_AT": point}
    done = subprocess.run([sys.executable, "-c", KILLED, *call], env=environment, check=False, timeout=120)
    return done.returncode == -signal.SIGKILL


def fill(settings: Settings, how: str = "fill") -> None:
    """Fill the days 5 to 1 before the anchor."""
    hot = open_hot(settings)
    backfill = Backfill(settings, hot, open_archive(settings))
    backfill.fill(history_file(settings), day(5), day(1), replace=how == "replace")
    hot.close()


def agree(settings: Settings) -> pl.DataFrame:
    """The ledger is clean and both stores hold the same; the archive's rows."""
    assert audit_archive(open_archive(settings)).findings == []
    assert_frame_equal(hot_rows(settings), won(open_archive(settings)), check_exact=True)
    return archived(settings)


@pytest.fixture(scope="module")
def expected(file: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """The archive after a backfill that nobody disturbed."""
    with platform(tmp_path_factory.mktemp("whole"), data_file=file) as whole:
        fill(whole.settings)
        return agree(whole.settings)


@pytest.mark.parametrize("point", ["backfill.before_commit", "backfill.after_commit"])
def test_a_killed_backfill_leaves_whole_days_and_is_completed(
    tmp_path: Path, file: Path, expected: pl.DataFrame, point: str
) -> None:
    with platform(tmp_path, data_file=file) as one:
        assert killed(one, point, "fill")
        assert archived(one.settings).height in (0, expected.height)
        fill(one.settings)
        assert_frame_equal(agree(one.settings), expected, check_exact=True)


@pytest.mark.parametrize("point", ["backfill.before_commit", "backfill.after_commit", "backfill.before_hot"])
def test_a_killed_replacement_is_completed(tmp_path: Path, file: Path, expected: pl.DataFrame, point: str) -> None:
    with platform(tmp_path, data_file=file) as one:
        fill(one.settings)
        archive = open_archive(one.settings)
        archive.table().update(updates={"light": "7"}, predicate=f"day = '{day(2):%d}'")
        remove(archive, Scope.day(day(3), [1]), reason="test")
        assert killed(one, point, "fill", "replace")
        by_day = set(archived(one.settings).group_by("year", "month", "day").len()["len"])
        missing = {(MOTES - 1) * A_DAY} if point == "backfill.before_commit" else set()
        assert by_day == {MOTES * A_DAY, *missing}
        fill(one.settings, "replace")
        assert_frame_equal(agree(one.settings), expected, check_exact=True)


@contextmanager
def corrections(settings: Settings) -> Iterator[Corrections]:
    hot = open_hot(settings)
    with State.open(settings) as state:
        yield Corrections(state, open_archive(settings), open_marts(settings), hot)
    hot.close()


NOON = 12 * 3_600 * 10**9


def asked(kind: str) -> Asked:
    start, end = ((day(number) - dt.date(1970, 1, 1)).days * DAY_NS + NOON for number in (4, 3))
    fields = ["light"] if kind == "null" else []
    return Asked(kind, [2, 3], start, end, "the battery was dying", "someone", fields)  # pyright: ignore[reportArgumentType]


def correct(settings: Settings, kind: str) -> None:
    with corrections(settings) as made:
        made.apply(asked(kind))


def take_back(settings: Settings, correction: str) -> None:
    with corrections(settings) as made:
        made.undo(correction, "another")


@pytest.mark.parametrize("kind", ["delete", "null"])
@pytest.mark.parametrize(
    "point", ["correct.after_images", "correct.after_piece", "correct.after_archive", "correct.after_hot"]
)
def test_a_killed_correction_is_completed_under_its_id_and_so_is_its_undoing(
    tmp_path: Path, file: Path, expected: pl.DataFrame, kind: str, point: str
) -> None:
    # Without folders of motes each of the two days is a piece, and the kill comes between them.
    with platform(tmp_path, data_file=file, archive_mote_folders=point != "correct.after_piece") as one:
        fill(one.settings)
        assert killed(one, point, "correct", kind)
        with corrections(one.settings) as made:
            (begun,) = made.known()
            assert begun.status == "started"
            done = made.apply(asked(kind))
            assert made.known() == [done]
            assert (done.id, done.status, done.rows) == (begun.id, "done", 2 * A_DAY)
            assert made.days(done.id) == [day(4), day(3)]
        after = agree(one.settings)
        assert after.height == expected.height - (2 * A_DAY if kind == "delete" else 0)
        assert after["light"].null_count() == (2 * A_DAY if kind == "null" else 0)
        if point != "correct.after_images":  # there is no such step on the way back
            assert killed(one, point, "take_back", done.id)
            with corrections(one.settings) as made:
                assert made.complete(done.id).status == "undone"
            assert_frame_equal(agree(one.settings), expected, check_exact=True)


def test_the_command(tmp_path: Path, file: Path, expected: pl.DataFrame) -> None:
    with platform(tmp_path, data_file=file) as one:
        fill(one.settings)
        concerned = ["--mote", "1", "--from", f"{day(4)}", "--to", f"{day(3)}", "--reason", "on a heater", "--json"]
        assert json.loads(one.run("correct", "delete", *concerned, "--dry-run").stdout) == {"rows": A_DAY}
        done = json.loads(one.run("correct", "delete", *concerned).stdout)
        assert (done["status"], done["rows"], done["days"]) == ("done", A_DAY, [str(day(4))])
        (listed,) = one.run("correct", "list", "--json").stdout.splitlines()
        assert json.loads(listed)["id"] == done["id"]
        undone = one.run("correct", "undo", done["id"])
        assert f"{done['id']} undone: {A_DAY} readings on 1 day(s)" in undone.stdout
        assert_frame_equal(agree(one.settings), expected, check_exact=True)
        wrong = one.run("correct", "delete", "--mote", "1", "--from", "noon", "--to", "later", "--reason", "x")
        assert (wrong.returncode, "is not a time" in wrong.stderr) == (2, True)
        gone = one.run("correct", "undo", "20260101-none")
        assert (gone.returncode, "there is no correction" in gone.stderr) == (1, True)
