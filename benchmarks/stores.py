"""How fast the embedded stores are: bulk and live writes, live reads, archive appends, and both stores at once.

Belongs here: workloads and their floors. Not here: assertions (timings depend on the machine).
"""

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from benchmarks.common.results import Result, milliseconds, result, seconds
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import Archive, Commit, LedgerEntry
from sieis_platform.stores.sqlite import SqliteHotStore
from sieis_platform.timeline import DAY_NS

MOTES: Final = 54
_START_NS: Final = 20_500 * DAY_NS
_LOAD_BATCH_ROWS: Final = 500_000


def run() -> list[Result]:
    """Every measurement of this module."""
    return [*_hot(), *_beside_bulk(), *_archive(), *_both()]


def building(days: int, motes: int = MOTES, seed: int = 0) -> pl.DataFrame:
    """Readings of a building, sorted by (mote_id, timestamp): one every 30 s and mote, 2,880 a day."""
    times = np.arange(_START_NS, _START_NS + days * DAY_NS, 30_000_000_000, dtype=np.int64)
    rows = times.size * motes
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "mote_id": np.repeat(np.arange(1, motes + 1, dtype=np.int32), times.size),
            "timestamp": np.tile(times, motes) + random.integers(0, 10**9, rows),
            "temperature": random.normal(21, 3, rows),
            "humidity": random.normal(40, 5, rows),
            "light": random.normal(200, 90, rows),
            "voltage": random.normal(2.7, 0.1, rows),
        },
        schema_overrides=READING_SCHEMA,
    )


def _hot() -> Iterator[Result]:
    rows = building(days=20)
    with _folder() as folder:
        store = _store(folder)
        taken = seconds(lambda: [store.write_readings(batch) for batch in rows.iter_slices(_LOAD_BATCH_ROWS)])
        workload = f"{rows.height:,} rows of {MOTES} motes, 20 days, sorted by mote and time, in {_LOAD_BATCH_ROWS:,}s"
        yield result("sqlite_bulk_write", rows.height / taken, "rows/s", workload, 350_000)

        live = building(days=1, seed=1).with_columns(pl.col("timestamp") + 20 * DAY_NS).sort("timestamp")[:100_000]
        taken = seconds(lambda: [store.write_readings(batch) for batch in live.iter_slices(1_000)])
        workload = f"100 batches of 1,000 rows in time order into {rows.height:,} rows"
        yield result("sqlite_live_write", live.height / taken, "rows/s", workload, 60_000)

        total = store.count_readings()
        asked = f"{MOTES} motes, {total:,} rows"
        yield result("sqlite_latest", milliseconds(store.latest), "ms", asked, 10)
        end = _START_NS + 20 * DAY_NS
        page = lambda: store.readings(_START_NS, end, limit=1_000)  # noqa: E731
        yield result("sqlite_page", milliseconds(page), "ms", f"first 1,000 readings of 20 days, {asked}", None)
        week = lambda: store.readings(end - 7 * DAY_NS, end, [17])  # noqa: E731
        yield result("sqlite_week_of_a_mote", milliseconds(week), "ms", f"20,160 readings of one mote, {asked}", None)
        store.close()
    with _folder() as folder:
        store = _store(folder)
        rows = building(days=1, motes=1_000)
        store.write_readings(rows)
        asked = f"1,000 motes, {rows.height:,} rows"
        yield result("sqlite_latest_1000", milliseconds(store.latest), "ms", asked, 50)
        end = _START_NS + DAY_NS
        page = lambda: store.readings(_START_NS, end, limit=1_000)  # noqa: E731
        yield result("sqlite_page_1000", milliseconds(page), "ms", f"first 1,000 readings of a day, {asked}", None)
        store.close()


def _beside_bulk() -> Iterator[Result]:
    """How long a live write waits while another process loads in bulk."""
    live = building(days=1, motes=42)[:42]
    with _folder() as folder:
        store = _store(folder)
        store.write_readings(live)
        context = multiprocessing.get_context("spawn")
        loading = context.Event()
        process = context.Process(target=_bulk, args=(folder, loading))
        process.start()
        loading.wait()
        waits = []
        while process.is_alive():
            waits.append(1000 * seconds(lambda: store.write_readings(live)))
            time.sleep(0.005)
        process.join()
        store.close()
    workload = f"{len(waits)} writes of 42 rows while another process writes {20 * 2_880 * MOTES:,}"
    yield result("sqlite_live_wait_p50", float(np.quantile(waits, 0.5)), "ms", workload, None)
    yield result("sqlite_live_wait_p99", float(np.quantile(waits, 0.99)), "ms", workload, None)


def _bulk(folder: Path, loading: Event) -> None:
    store, rows = _store(folder), building(days=20)
    loading.set()
    for batch in rows.iter_slices(_LOAD_BATCH_ROWS):
        store.write_readings(batch)
    store.close()


def _archive() -> Iterator[Result]:
    for days in (1, 36):
        batch = building(days=days, motes=_LOAD_BATCH_ROWS // (2_880 * days) or 1)
        with _folder() as folder:
            archive = Archive(str(folder / "archive"))
            archive.create()
            taken = seconds(lambda archive=archive, batch=batch: _append(archive, [batch] * 3))
        motes = batch["mote_id"].n_unique()
        workload = f"3 commits of {batch.height:,} rows, {motes} motes, {days} days, into year/month/day/mote_id"
        yield result(f"archive_append_{days}_days", 3 * batch.height / taken, "rows/s", workload, None)


def _both() -> Iterator[Result]:
    rows = building(days=36)
    batches = list(rows.iter_slices(_LOAD_BATCH_ROWS))
    with _folder() as folder:
        store, archive = _store(folder), Archive(str(folder / "archive"))
        archive.create()

        def load() -> None:
            hot = threading.Thread(target=lambda: [store.write_readings(batch) for batch in batches])
            hot.start()
            _append(archive, batches)
            hot.join()

        taken = seconds(load)
        store.close()
    workload = f"{rows.height:,} rows of {MOTES} motes over 36 days, batches of {_LOAD_BATCH_ROWS:,}, a thread a store"
    yield result("both_stores_write", rows.height / taken, "rows/s", workload, 150_000)


def _append(archive: Archive, batches: list[pl.DataFrame]) -> None:
    app, position = "benchmark", None
    for batch in batches:
        start = position or 0
        rows = batch.with_columns(
            source=pl.lit("benchmark"),
            source_partition=pl.lit(0, pl.Int32),
            source_offset=pl.int_range(start, start + batch.height, dtype=pl.Int64),
        )
        entry = LedgerEntry(app=app, start=start, end=start + batch.height, stored=batch.height)
        archive.append(Commit(rows, [entry], {app: position}))
        position = entry.end


def _store(folder: Path) -> SqliteHotStore:
    return SqliteHotStore(folder / "hot.sqlite", retention_days=None)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sieis-bench-") as folder:
        yield Path(folder)
