"""What derived assets cost: aggregates of 36 days, one day's partition beside more and more stored days, a whole run.

Belongs here: these workloads. Not here: assertions (timings depend on the machine).
"""

import datetime as dt
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.common.results import Result, result
from sieis_platform.analysis.aggregates import PERIOD_NS, aggregate, with_date
from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.operations.materialize import materialize
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.rollups.assets import MARTS, roll_up, show
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive, Commit
from sieis_platform.stores.files import forget
from sieis_platform.stores.hot import HotStore
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.timeline import TimelineFile

DAYS = 36
MOTES = 42
# 1.5 M rows over 36 days and 42 motes are 992 readings a mote and day: the rate that the real fleet reached.
ROWS = 1_500_000
PER_MOTE_AND_DAY = ROWS // (DAYS * MOTES)

_ROUNDS = 15
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


@dataclass
class Stores:
    """An installation that holds `days` days of readings and their aggregates, as the nightly care leaves them."""

    archive: Archive
    marts: Marts
    hot: HotStore
    days: int

    def run(self, day: Window) -> None:
        """What the partitions of a day cost: both periods' aggregates, read, computed and written."""
        for period in PERIOD_NS:
            done = roll_up(Snapshot.of(self.archive), self.marts, period, day)
            show(self.hot, done.aggregates, period, day)

    def open_anew(self) -> None:
        """The first read of a process: the archive's log is replayed from its checkpoint."""
        forget(self.archive.uri)
        self.archive.files()


@contextmanager
def filled(folder: Path, days: int) -> Iterator[Stores]:
    """An installation in `folder` with `days` days, the newest of them today."""
    settings = Settings(data_dir=folder)  # pyright: ignore[reportCallIssue] - every field has a default
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
    try:
        yield Stores(archive, marts, hot, days)
    finally:
        hot.close()


def growth(folder: Path) -> Iterator[Result]:
    """A day's partitions beside 36 and beside 360 stored days, taken in turns; the least processor time of each."""
    day = Window(today(), today())
    with filled(folder / "few", DAYS) as few, filled(folder / "many", DAYS * 10) as many:
        run = {stores.days: float("inf") for stores in (few, many)}
        first = dict(run)
        for _ in range(_ROUNDS):
            for stores in (few, many):
                first[stores.days] = min(first[stores.days], processor_seconds(stores.open_anew))
                run[stores.days] = min(run[stores.days], processor_seconds(partial(stores.run, day)))
        for stores in (few, many):
            files = f"{len(stores.archive.files().all()):,} files of {stores.days} days stored"
            readings_of_day = f"{PER_MOTE_AND_DAY * MOTES:,} readings, {files}"
            yield result(
                f"a day beside {stores.days} days, by processor time", 1e3 * run[stores.days], "ms", readings_of_day
            )
            yield result(f"first look at {stores.days} days, by processor time", 1e3 * first[stores.days], "ms", files)
    ratio = run[DAYS * 10] / run[DAYS]
    workload = f"hourly and daily aggregates of a day, least of {_ROUNDS} runs in turns, to the marts and the hot store"
    yield result(f"a day beside {DAYS * 10} days to one beside {DAYS}", ratio, "times", workload, floor=_MOST_TIMES)


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
