"""What only the SQLite hot store does: pieces, locks, broken and vanished files. The contract: test_hot_contract.py."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sieis_platform.errors import SieisError
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.hot import AGGREGATE_SCHEMA, Expired, HotStoreError, HotStoreUnavailableError
from sieis_platform.stores.sqlite import SCHEMA_VERSION, SqliteHotStore
from sieis_platform.timeline import DAY_NS


def readings(rows: list[tuple[int, int, float]]) -> pl.DataFrame:
    return pl.DataFrame([(*row, 0.0, None, 2.7) for row in rows], schema=READING_SCHEMA, orient="row")


def many(rows: int, mote: int = 1) -> pl.DataFrame:
    return readings([(mote, i, float(i)) for i in range(rows)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "hot.sqlite"


def open_store(path: Path, **options: Any) -> SqliteHotStore:
    return SqliteHotStore(path, **{"retention_days": None, "hourly_retention_days": None, **options})


def test_reading_makes_no_file(path: Path) -> None:
    store = open_store(path)
    store.ping()
    assert store.latest().is_empty()
    assert not path.parent.exists()
    store.write_readings(many(1))
    assert path.exists()


def test_what_was_written_outlives_the_process(path: Path) -> None:
    first = open_store(path)
    first.write_readings(many(10))
    second = open_store(path)
    assert second.count_readings() == 10
    first.close()
    assert second.latest()["timestamp"].to_list() == [9]


def test_the_file_has_its_schema_version(path: Path) -> None:
    open_store(path).write_readings(many(1))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_reader_that_came_first_sees_what_another_process_writes(path: Path) -> None:
    reader = open_store(path)
    assert reader.count_readings() == 0
    open_store(path).write_readings(many(3))
    assert reader.count_readings() == 3


# -- pieces ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [499, 500, 501, 4_999, 5_000, 5_001, 23_456])
@pytest.mark.parametrize("piece_seconds", [1e-9, 0.05])
def test_pieces_of_any_size_leave_nothing_out(path: Path, rows: int, piece_seconds: float) -> None:
    store = open_store(path, piece_seconds=piece_seconds)
    frame = many(rows).sample(fraction=1, shuffle=True, seed=1)
    assert store.write_readings(frame) == (rows, 0, 0)
    assert store.readings(0, rows).equals(many(rows))
    assert store.delete_readings(1, rows) == rows - 1
    assert store.readings(0, rows)["timestamp"].to_list() == [0]


def aggregates(rows: int, motes: int, step: int) -> pl.DataFrame:
    """So many rows, those of all motes at each `step` ns."""
    index = pl.int_range(rows, dtype=pl.Int64)
    frame = pl.select((index % motes + 1).alias("mote_id"), (index // motes * step).alias("period_start"))
    rest = [pl.lit(1).cast(kind).alias(name) for name, kind in AGGREGATE_SCHEMA.items() if name not in frame.columns]
    return frame.with_columns(rest).select(AGGREGATE_SCHEMA.names()).cast(AGGREGATE_SCHEMA)


def test_what_is_beyond_the_retention_leaves_the_file(path: Path) -> None:
    whole = open_store(path)
    whole.write_readings(pl.concat([many(20, mote) for mote in (1, 2)]))
    for period in ("daily", "hourly"):
        # More motes at one moment than a piece has rows.
        whole.write_aggregates(period, aggregates(60_000, 6_000, step=1))
    now = 30 * DAY_NS + 15
    old = SqliteHotStore(path, retention_days=30, hourly_retention_days=None, piece_seconds=1e-9, now_ns=lambda: now)
    assert old.expire() == Expired(readings=30, daily=60_000, hourly=0)
    assert old.expire() == Expired(0, 0, 0)
    assert whole.readings(0, 100)["timestamp"].to_list() == [ns for ns in range(15, 20) for _ in (1, 2)]
    assert whole.aggregates("hourly", 0, 100).height == 60_000
    older = SqliteHotStore(path, retention_days=None, hourly_retention_days=30, now_ns=lambda: now - 10)
    assert older.expire() == Expired(0, 0, hourly=30_000)
    assert whole.aggregates("hourly", 0, 100)["period_start"].min() == 5


@pytest.mark.parametrize("what", ["readings", "aggregates"])
def test_expiring_lets_live_writes_in_after_every_piece(path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, live = open_store(path), open_store(path, lock_seconds=0)
    if what == "readings":
        whole.write_readings(many(30_000))
    else:
        whole.write_aggregates("hourly", aggregates(30_000, 50, step=1))
    store = open_store(path, retention_days=1, hourly_retention_days=1, piece_seconds=1e-9, now_ns=lambda: 9 * DAY_NS)
    pieces: list[int] = []
    writing = store._writing

    @contextmanager
    def watched() -> Iterator[sqlite3.Connection]:
        with writing() as connection:
            before = connection.total_changes
            yield connection
            pieces.append(connection.total_changes - before)
        live.write_readings(readings([(7, 9 * DAY_NS + len(pieces), 1.0)]))

    monkeypatch.setattr(store, "_writing", watched)
    assert sum(store.expire()) == 30_000 == sum(pieces)
    # The first piece is a guess; the others take as long as they may, which here is next to nothing.
    assert pieces[0] == 5_000
    assert set(pieces[1:]) == {500}
    assert whole.count_readings(9 * DAY_NS) == len(pieces) == 51


def test_expiring_makes_no_file(path: Path) -> None:
    assert open_store(path, retention_days=1).expire() == Expired(0, 0, 0)
    assert not path.exists()


def test_a_bulk_write_that_fails_keeps_whole_pieces_and_may_be_repeated(
    path: Path,
) -> None:
    store = open_store(path, piece_seconds=1e-9)
    store.write_readings(many(1))
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TRIGGER stop BEFORE INSERT ON readings WHEN NEW.timestamp = 19999 "
            "BEGIN SELECT RAISE(ABORT, 'stop'); END"
        )
    with pytest.raises(HotStoreError, match="stop"):
        store.write_readings(many(20_000))
    kept = store.count_readings()
    assert 5_000 <= kept < 20_000
    assert kept % 500 == 0, "the piece that failed must be gone as a whole"
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER stop")
    assert store.write_readings(many(20_000)).written == 20_000
    assert store.count_readings() == 20_000


_BULK = """
import sys
from pathlib import Path
import polars as pl
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.sqlite import SqliteHotStore
store = SqliteHotStore(Path(sys.argv[1]), retention_days=None)
index = pl.int_range(300_000, dtype=pl.Int64, eager=True)
rows = pl.DataFrame({"mote_id": index % 50 + 2, "timestamp": index}).with_columns(
    pl.lit(float(sys.argv[2]), pl.Float32).alias(field) for field in READING_SCHEMA.names()[2:])
print("ready", flush=True)
sys.stdin.readline()
assert store.write_readings(rows).written == 300_000
store.close()
"""


def test_a_live_writer_and_bulk_writers_in_other_processes_take_turns(
    path: Path,
) -> None:
    bulk = [
        subprocess.Popen(
            [sys.executable, "-c", _BULK, str(path), str(value)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for value in (1, 2)
    ]
    for process in bulk:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    store = open_store(path)
    for process in bulk:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    writes = 0
    while writes < 10 or any(process.poll() is None for process in bulk):
        store.write_readings(readings([(1, writes, float(writes))]))
        assert store.latest([1])["timestamp"].to_list() == [writes], "a write is visible as soon as it returns"
        writes += 1
    assert [process.wait() for process in bulk] == [0, 0]
    assert store.count_readings() == 300_000 + writes
    values = store.readings(0, 300_000, list(range(2, 52)))["temperature"].unique()
    assert set(values) <= {1.0, 2.0}


def test_many_first_writers_and_readers_may_race(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def run(store: SqliteHotStore, start: threading.Barrier, mote: int) -> None:
        try:
            start.wait()
            store.write_readings(many(1, mote)) if mote else [store.latest() for _ in range(20)]
        except BaseException as error:  # noqa: BLE001 - asserted on below, in the test's own thread
            errors.append(error)

    for race in range(20):
        file = tmp_path / str(race) / "hot.sqlite"
        start = threading.Barrier(6)
        stores = [open_store(file) for _ in range(6)]
        threads = [
            threading.Thread(target=run, args=(store, start, mote))
            for store, mote in zip(stores, [0, 0, 1, 2, 3, 4], strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert stores[0].latest()["mote_id"].to_list() == [1, 2, 3, 4]
        for store in stores:
            store.close()


# -- what can be wrong -------------------------------------------------------------------------------------------------
def test_a_lock_that_stays_is_named_and_passes(path: Path) -> None:
    store = open_store(path, lock_seconds=0.05)
    store.write_readings(many(1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HotStoreUnavailableError, match="locked"):
        store.write_readings(many(5))
    assert store.count_readings() == 1, "readers never wait for a writer"
    other.execute("ROLLBACK")
    other.close()
    assert store.write_readings(many(5)).written == 5


def test_a_full_disk_is_named_loses_nothing_and_passes(small_disk: Any) -> None:
    store = open_store(small_disk.folder / "hot.sqlite", piece_seconds=1e-9)
    store.write_readings(many(1))
    with pytest.raises(HotStoreUnavailableError, match="full; free space"):
        store.write_readings(many(50_000))
    kept = store.count_readings()
    assert 1 < kept < 50_000
    assert store.readings(0, 50_000).equals(many(kept)), "what was acknowledged piece by piece is intact"
    small_disk.grow(64 * 1024)
    assert store.write_readings(many(50_000)).written == 50_000
    assert store.count_readings() == 50_000
    store.close()


Use = Callable[[SqliteHotStore], object]
USES: dict[str, Use] = {
    "ping": lambda store: store.ping(),
    "latest": lambda store: store.latest(),
    "write": lambda store: store.write_readings(many(1)),
    "delete": lambda store: store.delete_readings(0, 1),
    "expire": lambda store: store.expire(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_file_that_is_no_database_is_named(tmp_path: Path, use: Use) -> None:
    path = tmp_path / "hot.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at. " * 100)
    with pytest.raises(HotStoreError, match="move it away"):
        use(open_store(path))
    assert path.read_bytes().startswith(b"not a database"), "and it is not touched"


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_a_database_of_someone_else_is_left_alone(tmp_path: Path, use: Use, version: int) -> None:
    path = tmp_path / "hot.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(HotStoreError, match=f"schema {version}"):
        use(open_store(path))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_directory_in_its_place_is_named(tmp_path: Path, use: Use) -> None:
    (tmp_path / "hot.sqlite").mkdir()
    with pytest.raises(HotStoreError, match=r"hot\.sqlite"):
        use(open_store(tmp_path / "hot.sqlite"))


def test_a_file_in_place_of_its_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HotStoreError, match="file"):
        open_store(tmp_path / "file" / "hot.sqlite").write_readings(many(1))


def test_damaged_pages_are_named(path: Path) -> None:
    store = open_store(path)
    store.write_readings(many(50_000))
    store.close()
    with path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 8 * 4096))
    with pytest.raises(HotStoreError, match="damaged"):
        open_store(path).readings(0, 50_000)


def test_a_file_removed_under_an_open_store_is_begun_anew(path: Path) -> None:
    store = open_store(path)
    store.write_readings(many(10))
    assert store.count_readings() == 10
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert store.count_readings() == 0
    store.write_readings(many(2))
    assert store.count_readings() == 2
    assert open_store(path).count_readings() == 2


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_closed_store_says_so(path: Path, use: Use) -> None:
    store = open_store(path)
    store.write_readings(many(1))
    store.latest()
    store.close()
    store.close()
    with pytest.raises(SieisError, match="closed"):
        use(store)
