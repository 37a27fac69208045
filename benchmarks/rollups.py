"""What derived assets cost: aggregates of 36 days, one day's partition beside more and more stored days, a whole run.

Belongs here: these workloads. Not here: assertions (timings depend on the machine).
"""

import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from dagster._core.instance.ref import InstanceRef

from benchmarks.common.process import BenchmarkError
from benchmarks.common.results import Result, result
from sieis_platform.analysis.aggregates import PERIOD_NS, aggregate, with_date
from sieis_platform.defs.operations.home import prepare_home
from sieis_platform.defs.operations.materialize import materialize
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.rollups.assets import MARTS, show
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive, Commit
from sieis_platform.stores.files import forget
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.timeline import TimelineFile

DAYS = 36
MOTES = 42
# 1.5 M rows over 36 days and 42 motes are 992 readings a mote and day: the rate that the real fleet reached.
ROWS = 1_500_000
PER_MOTE_AND_DAY = ROWS // (DAYS * MOTES)

_ROUNDS = 7
#: Ten times the days may cost a day's run this many times as much: what two measurements of the same thing differ by.
_MOST_TIMES = 1.15


def readings(first: dt.date, days: int, motes: int, per_mote_and_day: int) -> pl.DataFrame:
    """Plausible readings of complete days, ascending (mote_id, timestamp)."""
    random = np.random.default_rng(first.toordinal())
    count = days * per_mote_and_day
    start = Window(first, first).start_ns
    moments = start + np.arange(count) * (86_400_000_000_000 // per_mote_and_day)
    swing = np.tile(np.sin(moments % 86_400_000_000_000 / 86_400e9 * 2 * np.pi), motes)
    noise = random.normal(0, 0.1, (2, count * motes))
    return pl.DataFrame(
        {
            "mote_id": np.repeat(np.arange(1, motes + 1), count),
            "timestamp": np.tile(moments, motes),
            "temperature": 21 + 2 * swing + noise[0],
            "humidity": 40 - 3 * swing + noise[1],
            "light": 200 + 150 * swing,
            "voltage": 2.7 + 0.01 * noise[0],
        }
    ).select(pl.col(name).cast(kind) for name, kind in READING_SCHEMA.items())


def store(archive: Archive, rows: pl.DataFrame, source: str) -> None:
    """One commit of `rows`."""
    placed = rows.with_columns(
        pl.lit(source).alias("source"),
        pl.lit(0, pl.Int32).alias("source_partition"),
        pl.int_range(rows.height, dtype=pl.Int64).alias("source_offset"),
    )
    archive.append(Commit(placed, [], {}))


def fill(folder: Path, days: int) -> int:
    """An installation in `folder` with `days` days, the newest of them today, as the nightly care leaves them.

    Readings, their aggregates, Dagster's events about each day's, and a model. How many files the archive has.
    """
    settings = Settings(data_dir=folder)  # pyright: ignore[reportCallIssue] - every field has a default
    TimelineFile.of(settings).fix(settings, dt.date(2004, 2, 28), days)
    archive, marts, hot = open_archive(settings), open_marts(settings), open_hot(settings)
    archive.create()
    for back in range(DAYS, days + 1, DAYS):
        first = today() - dt.timedelta(days=back - 1)
        rows = readings(first, DAYS, MOTES, PER_MOTE_AND_DAY)
        store(archive, rows, f"history:{back}")
        window = Window(first, first + dt.timedelta(days=DAYS - 1))
        for period in PERIOD_NS:
            aggregates = with_date(aggregate(rows, period))
            marts.replace_days(MARTS[period], aggregates, window.first, window.last)
            show(hot, aggregates, period, window)
    for table in (archive.table(), *(marts.table(MARTS[period]) for period in PERIOD_NS)):
        table.create_checkpoint()
    hot.close()
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(prepare_home(settings)))) as instance:
        for back in range(days):
            for mart in MARTS.values():
                made = dg.AssetMaterialization(mart, partition=str(today() - dt.timedelta(days=back)))
                instance.report_runless_asset_event(made)
    seconds_of_a_run(folder, "refresh_and_train")
    return len(archive.files().all())


def seconds_of_a_run(folder: Path, job: str) -> float:
    """Processor time of a run of today's partition by a job, in a new process, beyond its imports."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.common.day_run", str(folder), job],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchmarkError(f"{job} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["seconds"]


def growth(folder: Path) -> Iterator[Result]:
    """Today's partition beside 36 and beside 360 stored days, run in turns; the least processor time of each.

    All that Dagster runs for it counts: aggregates, their checks, all expectations of the stores, scores, metadata, and
    the first look at every table.
    """
    folders = {days: folder / str(days) for days in (DAYS, DAYS * 10)}
    files = {days: fill(place, days) for days, place in folders.items()}
    run = dict.fromkeys(folders, float("inf"))
    opened = dict(run)
    for _ in range(_ROUNDS):
        for days, place in folders.items():
            run[days] = min(run[days], seconds_of_a_run(place, "refresh"))
            archive = open_archive(Settings(data_dir=place))  # pyright: ignore[reportCallIssue] - as above
            forget(archive.uri)
            opened[days] = min(opened[days], processor_seconds(archive.files))
    for days in folders:
        stored = f"{files[days]:,} files of {days} days stored"
        of_day = f"{PER_MOTE_AND_DAY * MOTES:,} readings, {stored}, a new process less its imports"
        yield result(f"a day beside {days} days, by processor time", 1e3 * run[days], "ms", of_day)
        yield result(f"first look at {days} days, by processor time", 1e3 * opened[days], "ms", stored)
    many, few = run[DAYS * 10], run[DAYS]
    workload = f"the job refresh of a day, checks and scores included, least of {_ROUNDS} processes in turns"
    yield result(f"a day beside {DAYS * 10} days less one beside {DAYS}", 1e3 * (many - few), "ms", workload)
    yield result(f"a day beside {DAYS * 10} days to one beside {DAYS}", many / few, "times", workload, _MOST_TIMES)


def processor_seconds(work: Callable[[], object]) -> float:
    """What `work` takes of all threads of this process: others may use the machine meanwhile."""
    began = time.process_time()
    work()
    return time.process_time() - began


def best_of_three(name: str, workload: str, run: Callable[[], object], floor: float | None = None) -> Result:
    """The best of three, which is what the code costs on a machine that others use too."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return result(name, best, "s", workload, floor)


def run() -> Iterator[Result]:
    """Every measurement: {"name", "value", "unit", "workload", "floor"}; a floor of None is no promise."""
    frame = readings(today() - dt.timedelta(days=DAYS - 1), DAYS, MOTES, PER_MOTE_AND_DAY)
    whole = f"{frame.height:,} rows, {DAYS} days, {MOTES} motes"
    for period in PERIOD_NS:
        yield best_of_three(f"compute {period} aggregates", whole, partial(aggregate, frame, period), floor=3.0)

    with tempfile.TemporaryDirectory() as folder:
        yield from growth(Path(folder))

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))  # pyright: ignore[reportCallIssue] - every field has a default
        TimelineFile.of(settings).fix(settings, dt.date(2004, 2, 28), DAYS)
        archive = open_archive(settings)
        archive.create()
        store(archive, frame, "history:run")
        for name in ("materialize all, first run", "materialize all, again"):
            summary = materialize(settings, None, None)
            if summary.failures:
                raise RuntimeError("\n".join(summary.failures))
            yield result(name, summary.seconds, "s", f"{whole}, {summary.partitions_materialized} partitions, training")
