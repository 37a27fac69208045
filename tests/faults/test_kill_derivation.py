"""Dagster runs of the aggregates killed with -9 at every named point: no half-written day, and again makes it whole."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.instance.ref import InstanceRef
from polars.testing import assert_frame_equal

from sieis_platform.defs.operations.home import environment, prepare_home
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Commit, LedgerEntry
from sieis_platform.stores.hot import AGGREGATE_SCHEMA, Period
from sieis_platform.stores.open import open_archive
from sieis_platform.timeline import DAY_NS
from tests.faults.full import prepared
from tests.faults.harness import Platform, platform
from tests.installation import Installation
from tests.unit.sieis_platform.history_file import DAYS, day, write

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.timeout(600)]

A_DAY = 96
ALL_DAYS = [str(day(number)) for number in range(DAYS, 0, -1)]
#: Days that get more readings of every mote and some of a new one, and one that loses a mote.
TOUCHED = [day(4), day(3)]
#: What a run is asked for: both periods (it dies in the daily ones, which come first), or the hourly ones alone.
BOTH, HOURLY = "daily_aggregates,hourly_aggregates", "hourly_aggregates"

Days = dict[tuple[str, str], pl.DataFrame]
"""The rows of each period and date."""


def run(one: Platform, assets: str, crash_at: str = "") -> int:
    """`dagster asset materialize` over all days, a process of its own as the launcher starts one; its exit code."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "sieis_platform.definitions"]
    command += ["--select", assets, "--partition-range", f"{ALL_DAYS[0]}...{ALL_DAYS[-1]}"]
    told = {**one.environment, **environment(one.settings), "SIEIS_CRASH_AT": crash_at}
    with one.log.open("ab") as log:
        done = subprocess.run(command, env={**os.environ, **told}, stdout=log, stderr=log, check=False, timeout=240)
    return done.returncode


def late(settings: Settings) -> None:
    """Readings of an old mote and a new one on the touched days, as the stream appends; the second loses mote 4."""
    starts = [Window(one, one).start_ns for one in TOUCHED]
    times = [(mote, start + number * DAY_NS // 50 + 7) for start in starts for mote in (1, 9) for number in range(50)]
    rows = pl.DataFrame(
        {
            "mote_id": [mote for mote, _ in times],
            "timestamp": [ns for _, ns in times],
            "temperature": 25.0,
            "humidity": 41.0,
            "light": 3.0,
            "voltage": 2.5,
        }
    ).with_columns(
        source=pl.lit("stream:late"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(pl.len(), dtype=pl.Int64),
    )
    archive = open_archive(settings)
    entry = LedgerEntry(app="sensor_readings/late/0", start=0, end=rows.height, stored=rows.height)
    archive.append(Commit(rows, [entry], {entry.app: None}))
    archive.table().delete(f"day = '{TOUCHED[1]:%d}' AND mote_id = 4")


def by_day(frame: pl.DataFrame, period: str) -> Days:
    dated = frame.with_columns(
        pl.from_epoch("period_start", time_unit="ns").dt.strftime("%Y-%m-%d").alias("date")
    ).select("date", *AGGREGATE_SCHEMA.names())
    return {(period, date): rows.sort("period_start", "mote_id") for (date,), rows in dated.group_by("date")}  # pyright: ignore[reportReturnType]


def stored(one: Platform) -> tuple[Days, Days]:
    """What marts and hot store hold."""
    with dg.DagsterInstance.ephemeral() as instance:
        made = Installation(one.settings, instance)
        marts: Days = {}
        hot: Days = {}
        periods: list[Period] = list(MARTS)
        for period in periods:
            marts |= by_day(made.mart(MARTS[period]), period)
            hot |= by_day(made.hot_aggregates(period), period)
    return marts, hot


def loaded(one: Platform, file: Path) -> None:
    """The file loaded and derived, then the late readings: what is derived is behind."""
    done = one.run("load", str(file))
    assert done.returncode == 0, done.stderr
    assert run(one, BOTH) == 0, one.log.read_text()[-4_000:]
    late(one.settings)


def same(found: Days, expected: Days) -> None:
    assert found.keys() == expected.keys()
    for key, rows in expected.items():
        assert_frame_equal(found[key], rows, check_exact=True)


def whole(found: Days, before: Days, after: Days) -> set[tuple[str, str]]:
    """Every day is as it was or as it shall be, nothing between; those that are new."""
    assert found.keys() == after.keys() == before.keys()
    new = {key for key, rows in found.items() if not rows.equals(before[key])}
    for key in new:
        assert_frame_equal(found[key], after[key], check_exact=True)
    return new


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("file") / "readings.txt", A_DAY)


@pytest.fixture(scope="module")
def undisturbed(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Days, Days]:
    """The aggregates before and after the late readings, made by runs that nobody disturbed."""
    with platform(tmp_path_factory.mktemp("whole") / "var", data_file=file) as one:
        loaded(one, file)
        before = stored(one)[0]
        assert run(one, BOTH) == 0
        after, hot = stored(one)
        same(hot, after)
    touched = {(period, str(date)) for period in MARTS for date in TOUCHED}
    assert {key for key in after if not after[key].equals(before[key])} == touched
    return before, after


@pytest.fixture(params=["embedded", pytest.param("servers", marks=pytest.mark.services)])
def behind(request: pytest.FixtureRequest, tmp_path: Path, file: Path) -> Iterator[Platform]:
    """On files, or on InfluxDB and an S3 server."""
    own: dict[str, str] = {}
    if request.param == "servers":
        own = prepared([request.getfixturevalue(name) for name in ("influxdb", "s3")], tmp_path / "setup")
    with platform(tmp_path / "var", data_file=file, **own) as one:
        loaded(one, file)
        yield one


def killed_and_made_again(one: Platform, undisturbed: tuple[Days, Days], assets: str, point: str) -> None:
    before, after = undisturbed
    assert run(one, assets, point) == -signal.SIGKILL, one.log.read_text()[-4_000:]
    period = "daily" if assets == BOTH else "hourly"
    marts, hot = stored(one)
    written = {(period, str(date)) for date in TOUCHED}
    assert whole(marts, before, after) == (set() if point == "rollup.before_mart" else written)
    assert whole(hot, before, after) == (written if point == "rollup.after_hot" else set())
    assert run(one, BOTH) == 0, one.log.read_text()[-4_000:]
    for found in stored(one):
        same(found, after)


@pytest.mark.parametrize("assets", [BOTH, HOURLY], ids=["daily", "hourly"])
@pytest.mark.parametrize("point", ["rollup.before_mart", "rollup.after_mart", "rollup.after_hot"])
def test_a_killed_run_leaves_whole_days_and_again_makes_all_of_them(
    behind: Platform, undisturbed: tuple[Days, Days], assets: str, point: str
) -> None:
    killed_and_made_again(behind, undisturbed, assets, point)


@pytest.mark.parametrize("assets", [BOTH, HOURLY], ids=["daily", "hourly"])
def test_a_run_killed_between_the_writes_to_the_hot_store_is_made_whole_by_another(
    behind: Platform, undisturbed: tuple[Days, Days], assets: str
) -> None:
    """The new aggregates are written, and those of the mote that has lost its readings are still there."""
    before, after = undisturbed
    assert run(behind, assets, "aggregates.before_stale") == -signal.SIGKILL, behind.log.read_text()[-4_000:]
    period = "daily" if assets == BOTH else "hourly"
    losing = (period, str(TOUCHED[1]))
    lost = before[losing].filter(mote_id=4)
    assert not lost.is_empty()
    half = {**before, **{(period, str(date)): after[period, str(date)] for date in TOUCHED}}
    half[losing] = pl.concat([after[losing], lost]).sort("period_start", "mote_id")
    same(stored(behind)[1], half)
    assert run(behind, BOTH) == 0, behind.log.read_text()[-4_000:]
    for found in stored(behind):
        same(found, after)


def test_what_a_killed_run_was_to_make_is_asked_for_again(
    behind: Platform, undisturbed: tuple[Days, Days], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run never said that it had made the days: the sensor asks for them, whatever got into the mart."""
    assert run(behind, BOTH, "rollup.after_mart") == -signal.SIGKILL
    for name, value in behind.environment.items():
        monkeypatch.setenv(name, value)  # Dagster's resources take secrets from there
    home = str(prepare_home(behind.settings))
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(home)) as instance:
        made = Installation(behind.settings, instance)
        asked = made.days_asked_for()
        assert {str(date) for date in TOUCHED} <= set(asked)
    for found in stored(behind):
        same(found, undisturbed[1])
