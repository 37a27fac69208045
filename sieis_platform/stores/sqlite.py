"""The hot store of the embedded setting: one SQLite file in WAL mode, written in columns, read by any thread.

Belongs here: SQL, locking, what SQLite's errors mean. Not here: when to expire them.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, get_args

import polars as pl

from sieis_platform import crash
from sieis_platform.reading import READING_SCHEMA, utc
from sieis_platform.stores.hot import (
    AGGREGATE_SCHEMA,
    DAILY_SUMS_SCHEMA,
    LATEST_SCHEMA,
    SUMS,
    Expired,
    HotStoreError,
    HotStoreUnavailableError,
    Period,
    Retention,
    WriteOutcome,
    check_window,
)
from sieis_platform.stores.pieces import Pieces
from sieis_platform.timeline import DAY_NS

SCHEMA_VERSION: Final = 1

#: Range of SQLite's INTEGER, for open bounds.
_MIN_NS: Final = -(2**63)
_MAX_NS: Final = 2**63 - 1

#: Rows bound to one INSERT. One step of 500 rows holds no GIL for about 0.5 ms, so the archive's thread can run beside
#: it; measured on 1 M rows: executemany 566,000 rows/s, 10 rows a statement 809,000, 100: 948,000, 500: 1,017,000,
#: 2,000: 966,000; JSON through json_each 385,000.
_ROWS_A_STATEMENT: Final = 500
#: SQLITE_MAX_VARIABLE_NUMBER of a default build since 3.32 is 32,766.
_VARIABLES_A_STATEMENT: Final = 32_000

#: How long a write waits for another writer. Bulk writers hold the lock for one piece (50 ms) at a time, so this is
#: never reached unless something else holds a transaction open (a shell).
_LOCK_SECONDS: Final = 10.0
#: A bulk writer leaves the lock free while it prepares its next piece (more than 2 ms): polling every millisecond never
#: misses that gap, where SQLite's own handler, which backs off to 100 ms, misses it again and again.
_POLL_SECONDS: Final = 0.001
#: The gap that a delete in pieces leaves, as it has nothing to prepare: whoever polls finds it.
_GAP_SECONDS: Final = 2 * _POLL_SECONDS

#: First window of a read with a limit: 54 motes at 30 s have 6,480 readings an hour.
_FIRST_WINDOW_NS: Final = 3_600 * 1_000_000_000

_READING_COLUMNS: Final = tuple(READING_SCHEMA)
_AGGREGATE_COLUMNS: Final = tuple(AGGREGATE_SCHEMA)
_AGGREGATE_KEY: Final = ("period_start", "mote_id")
_TABLES: Final[dict[Period, str]] = {period: f"{period}_aggregates" for period in get_args(Period)}

# Clustered by (mote_id, timestamp): the newest reading of a mote is one seek, a series of a mote is one run of pages.
# No index by time: it would take bulk writes from 1,260,000 rows/s to 305,000; `readings` works in windows instead.
# `updated_at` is kept as ns (9 bytes a row instead of 33) and becomes text when read.
_DDL: Final = (
    """CREATE TABLE readings (
        mote_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,
        temperature REAL, humidity REAL, light REAL, voltage REAL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (mote_id, timestamp)
    ) WITHOUT ROWID""",
    *(
        f"CREATE TABLE {table} ("
        + ", ".join(
            f"{name} {'REAL' if dtype == pl.Float64 else 'INTEGER'}" for name, dtype in AGGREGATE_SCHEMA.items()
        )
        + f", PRIMARY KEY ({', '.join(_AGGREGATE_KEY)})) WITHOUT ROWID"
        for table in _TABLES.values()
    ),
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

# The motes in question: those asked for (a JSON array), or a loose scan of the primary key, one seek a mote.
_ASKED: Final = "WITH motes(id) AS (SELECT DISTINCT value FROM json_each(:motes))"
_ALL: Final = """WITH RECURSIVE motes(id) AS (
    SELECT min(mote_id) FROM readings
    UNION ALL
    SELECT (SELECT min(mote_id) FROM readings WHERE mote_id > motes.id) FROM motes WHERE motes.id IS NOT NULL)"""


class SqliteHotStore:
    """HotStore on the SQLite file at `path`; made at the first write, empty until then.

    One instance may be used from several threads, and several processes may use the file: readers never wait, writers
    take turns. Readings and daily aggregates older than `retention_days` before `now_ns()` do not count, hourly ones
    older than `hourly_retention_days` (None: all do). A write or delete larger than what fits in `piece_seconds` is
    committed in pieces of about that long: not atomic, but harmless to repeat.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_days: int | None = 30,
        hourly_retention_days: int | None = 90,
        piece_seconds: float = 0.05,
        lock_seconds: float = _LOCK_SECONDS,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self._retention = Retention(retention_days, hourly_retention_days)
        self._lock_seconds = lock_seconds
        self._now_ns = now_ns
        self._inserts = Pieces(piece_seconds, _ROWS_A_STATEMENT)
        self._deletes = Pieces(piece_seconds, _ROWS_A_STATEMENT)
        self._write_lock = threading.Lock()
        self._pool_lock = threading.Lock()
        self._writer: tuple[sqlite3.Connection, tuple[int, int]] | None = None
        self._readers: list[tuple[sqlite3.Connection, tuple[int, int]]] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"SqliteHotStore({str(self.path)!r})"

    # -- writes --------------------------------------------------------------------------------------------------
    def write_readings(self, readings: pl.DataFrame) -> WriteOutcome:
        """See HotStore. Raises: HotStoreUnavailableError (locked, disk full), HotStoreError."""
        rows = readings.select(pl.col(name).cast(dtype) for name, dtype in READING_SCHEMA.items())
        now = self._now_ns()
        rows = rows.filter(pl.col("timestamp") >= self._retention.oldest_ns(now))
        # In key order the pages of one mote are touched together; equal keys keep their order, so the last row wins.
        ordered = rows.sort("mote_id", "timestamp", maintain_order=True)
        self._insert("readings", (*_READING_COLUMNS, "updated_at"), ordered, constant=now)
        return WriteOutcome(rows.height, readings.height - rows.height)

    def write_aggregates(self, period: Period, aggregates: pl.DataFrame) -> None:
        """See HotStore. Raises: HotStoreUnavailableError (locked, disk full), HotStoreError."""
        rows = aggregates.select(pl.col(name).cast(dtype) for name, dtype in AGGREGATE_SCHEMA.items())
        rows = rows.filter(pl.col("period_start") >= self._oldest_ns(period))
        ordered = rows.sort("period_start", "mote_id", maintain_order=True)
        self._insert(_TABLES[period], _AGGREGATE_COLUMNS, ordered)

    def replace_aggregates(self, period: Period, aggregates: pl.DataFrame, start_ns: int, end_ns: int) -> None:
        """See HotStore. Raises: HotStoreUnavailableError (locked, disk full), HotStoreError."""
        check_window(aggregates, start_ns, end_ns)
        self.write_aggregates(period, aggregates)
        key = ["mote_id", "period_start"]
        stale = self.aggregates(period, start_ns, end_ns).join(aggregates.cast(AGGREGATE_SCHEMA), on=key, how="anti")
        for (mote,), rows in stale.group_by("mote_id", maintain_order=True):
            crash.point("aggregates.before_stale")
            for piece in rows.iter_slices(self._deletes.rows):
                with self._writing() as connection:
                    connection.executemany(
                        f"DELETE FROM {_TABLES[period]} WHERE mote_id = ? AND period_start = ?",  # noqa: S608 - constant text
                        ((mote, start) for start in piece["period_start"]),
                    )

    def delete_readings(self, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None = None) -> int:
        """See HotStore; in pieces, like every bulk write."""
        with_motes, parameters = _motes(mote_ids)
        motes = self._fetch(f"{with_motes} SELECT id FROM motes WHERE id IS NOT NULL", parameters)  # noqa: S608 - constant text
        inside = "mote_id = :mote AND timestamp >= :start AND timestamp < :end"
        return sum(
            self._delete("readings", ("timestamp",), inside, {"mote": mote, "start": start_ns, "end": end_ns})
            for (mote,) in motes
        )

    def expire(self) -> Expired:
        """See HotStore; in pieces. The file keeps its size; the space is used again."""
        removed = {
            period: self._delete(table, _AGGREGATE_KEY, "period_start < :before", {"before": self._oldest_ns(period)})
            for period, table in _TABLES.items()
        }
        return Expired(self.delete_readings(_MIN_NS, self._oldest_ns()), **removed)

    def _oldest_ns(self, period: Period = "daily") -> int:
        return self._retention.oldest_ns(self._now_ns(), period)

    def _delete(self, table: str, key: Sequence[str], where: str, parameters: dict[str, Any]) -> int:
        """Delete the rows `where` in pieces, in the order of `key` (unique among them, and an index has it)."""
        columns = ", ".join(key)
        beyond = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {columns} LIMIT 1 OFFSET :skipped"  # noqa: S608 - constant text
        if not self._fetch(beyond, {**parameters, "skipped": 0}):
            return 0
        removed, rest = 0, True
        while rest:
            # The first row beyond the piece bounds it: a DELETE with LIMIT is not in every build of SQLite.
            bounds = self._fetch(beyond, {**parameters, "skipped": self._deletes.rows})
            named = {f"bound{index}": value for index, value in enumerate(bounds[0])} if bounds else {}
            upto = f" AND ({columns}) < ({', '.join(f':{name}' for name in named)})" if named else ""
            with self._writing() as connection:
                began = time.perf_counter()
                rows = connection.execute(f"DELETE FROM {table} WHERE {where}{upto}", {**parameters, **named}).rowcount  # noqa: S608 - constant text
            self._deletes.took(rows, time.perf_counter() - began)
            removed, rest = removed + rows, bool(bounds)
            time.sleep(_GAP_SECONDS)
        return removed

    def _insert(self, table: str, columns: Sequence[str], rows: pl.DataFrame, constant: int | None = None) -> None:
        """Insert or replace `rows` in pieces; a last column that is not in `rows` gets `constant`."""
        if rows.is_empty():
            return
        width = rows.width
        row = "(" + ",".join(["?"] * width) + ("" if constant is None else f",{int(constant)}") + ")"
        most = min(_ROWS_A_STATEMENT, _VARIABLES_A_STATEMENT // width)
        head = f"INSERT OR REPLACE INTO {table} ({','.join(columns)}) VALUES "  # noqa: S608 - names are constants of this module
        full = head + ",".join([row] * most)
        start = 0
        while start < rows.height:
            piece = rows.slice(start, self._inserts.rows)
            # Outside the transaction: this is the gap in which another writer gets its turn.
            flat = _flat(piece)
            with self._writing() as connection:
                began = time.perf_counter()
                whole = piece.height - piece.height % most
                for first in range(0, whole, most):
                    connection.execute(full, flat[first * width : (first + most) * width])
                if rest := piece.height - whole:
                    connection.execute(head + ",".join([row] * rest), flat[whole * width :])
            start += piece.height
            self._inserts.took(piece.height, time.perf_counter() - began)

    # -- reads ---------------------------------------------------------------------------------------------------
    def latest(self, mote_ids: Sequence[int] | None = None) -> pl.DataFrame:
        """See HotStore: two seeks a mote, whatever the number of rows."""
        with_motes, parameters = _motes(mote_ids)
        rows = self._fetch(
            f"""{with_motes} SELECT r.mote_id, r.timestamp, temperature, humidity, light, voltage, updated_at
            FROM motes CROSS JOIN readings r
            WHERE r.mote_id = motes.id AND r.timestamp = (SELECT max(timestamp) FROM readings WHERE mote_id = motes.id)
            AND r.timestamp >= :oldest
            ORDER BY r.mote_id""",  # noqa: S608 - constant text
            {**parameters, "oldest": self._oldest_ns()},
        )
        frame = _frame(rows, pl.Schema({**READING_SCHEMA, "updated_at": pl.Int64()}))
        updated = utc("updated_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").alias("updated_timestamp")
        return frame.select(*_READING_COLUMNS, updated).cast(LATEST_SCHEMA)

    def readings(
        self, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None = None, limit: int | None = None
    ) -> pl.DataFrame:
        """See HotStore. With a limit, rows are looked for in windows that double, so that a page reads about a page."""
        with_motes, parameters = _motes(mote_ids)
        window = f"""{with_motes} SELECT r.mote_id, r.timestamp, temperature, humidity, light, voltage
            FROM motes CROSS JOIN readings r
            WHERE r.mote_id = motes.id AND r.timestamp >= :start AND r.timestamp < :end
            ORDER BY r.timestamp, r.mote_id LIMIT :limit"""  # noqa: S608 - constant text
        start_ns = max(start_ns, self._oldest_ns())
        parameters |= {"start": start_ns, "end": end_ns, "limit": -1 if limit is None else limit}
        if limit is None:
            return _frame(self._fetch(window, parameters), READING_SCHEMA)
        first = f"""{with_motes} SELECT min((
            SELECT min(timestamp) FROM readings WHERE mote_id = motes.id AND timestamp >= :start AND timestamp < :end
            )) FROM motes"""  # noqa: S608 - constant text
        rows: list[tuple[Any, ...]] = []
        width = _FIRST_WINDOW_NS
        while parameters["limit"] > 0:
            found = self._fetch(first, {**parameters, "end": end_ns})
            if not found or found[0][0] is None:
                break
            parameters["end"] = min(found[0][0] + width, end_ns)
            rows += self._fetch(window, parameters)
            parameters |= {"start": parameters["end"], "limit": limit - len(rows)}
            width *= 2
        return _frame(rows, READING_SCHEMA)

    def count_readings(self, start_ns: int | None = None, end_ns: int | None = None) -> int:
        """See HotStore."""
        oldest = self._oldest_ns()
        within = """SELECT count(*) FROM motes CROSS JOIN readings r
            WHERE r.mote_id = motes.id AND r.timestamp >= :start AND r.timestamp < :end"""
        if start_ns is None and end_ns is None:
            # All rows are counted page by page; those beyond the retention, a day's at most, one by one.
            counted = f"{_ALL} SELECT (SELECT count(*) FROM readings) - ({within})"  # noqa: S608 - constant text
            rows = self._fetch(counted, {"start": _MIN_NS, "end": oldest})
        else:
            bounds = {
                "start": oldest if start_ns is None else max(start_ns, oldest),
                "end": _MAX_NS if end_ns is None else end_ns,
            }
            rows = self._fetch(f"{_ALL} {within}", bounds)
        return rows[0][0] if rows else 0

    def daily_sums(self, start_ns: int, end_ns: int) -> pl.DataFrame:
        """See HotStore: one pass over the table in its own order, mote by mote."""
        sums = ", ".join(f"total({field})" for field in SUMS.values())
        # Not `timestamp / day`, which rounds towards zero: days before 1970 would share one.
        day = f"timestamp - ((timestamp % {DAY_NS}) + {DAY_NS}) % {DAY_NS}"
        rows = self._fetch(
            f"""{_ALL} SELECT r.mote_id, {day} AS day_start, count(*), {sums}
            FROM motes CROSS JOIN readings r
            WHERE r.mote_id = motes.id AND r.timestamp >= :start AND r.timestamp < :end
            GROUP BY r.mote_id, day_start ORDER BY day_start, r.mote_id""",  # noqa: S608 - constant text
            {"start": max(start_ns, self._oldest_ns()), "end": end_ns},
        )
        return _frame(rows, DAILY_SUMS_SCHEMA)

    def aggregates(
        self, period: Period, start_ns: int, end_ns: int, mote_ids: Sequence[int] | None = None
    ) -> pl.DataFrame:
        """See HotStore."""
        asked = "" if mote_ids is None else "AND mote_id IN (SELECT value FROM json_each(:motes))"
        _, parameters = _motes(mote_ids)
        rows = self._fetch(
            f"""SELECT {",".join(_AGGREGATE_COLUMNS)} FROM {_TABLES[period]}
            WHERE period_start >= :start AND period_start < :end {asked} ORDER BY period_start, mote_id""",  # noqa: S608 - constant text
            {**parameters, "start": max(start_ns, self._oldest_ns(period)), "end": end_ns},
        )
        return _frame(rows, AGGREGATE_SCHEMA)

    def ping(self) -> None:
        """See HotStore; a file that does not exist yet is an empty store and answers."""
        self._fetch("SELECT 1", {})

    def close(self) -> None:
        """See HotStore."""
        with self._write_lock, self._pool_lock:
            self._closed = True
            for connection, _ in [*self._readers, *([self._writer] if self._writer else [])]:
                connection.close()
            self._readers.clear()
            self._writer = None

    def _fetch(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        with self._reading() as connection:
            return [] if connection is None else connection.execute(sql, parameters).fetchall()

    # -- connections ---------------------------------------------------------------------------------------------
    def _file(self) -> tuple[int, int] | None:
        """Identity of the file, to notice that it was removed or replaced under an open connection."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HotStoreError(f"the hot store {self.path} cannot be opened: {error}") from error
        return status.st_dev, status.st_ino

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection that only reads, or None while nothing has been written yet."""
        file = self._file()
        if file is None:
            yield None
            return
        with self._translated():
            connection = self._idle_reader(file) or self._open("rw")
            healthy = False
            try:
                yield connection if self._version(connection) else None
                healthy = True
            finally:
                with self._pool_lock:
                    if healthy and not self._closed:
                        self._readers.append((connection, file))
                    else:
                        connection.close()

    def _idle_reader(self, file: tuple[int, int]) -> sqlite3.Connection | None:
        with self._pool_lock:
            self._check_open()
            while self._readers:
                connection, opened = self._readers.pop()
                if opened == file:
                    return connection
                connection.close()
        return None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The connection that writes, in one transaction, committed at the end and rolled back on an error."""
        with self._write_lock, self._translated():
            self._check_open()
            connection = self._open_writer()
            self._wait(connection, "BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors (disk full)
                    connection.execute("ROLLBACK")
                raise

    def _wait(self, connection: sqlite3.Connection, statement: str) -> None:
        """Execute a statement that needs the lock, when it is free."""
        deadline = time.monotonic() + self._lock_seconds
        while True:
            try:
                connection.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_SECONDS)

    def _open_writer(self) -> sqlite3.Connection:
        file = self._file()
        if self._writer is not None:
            connection, opened = self._writer
            if opened == file:
                return connection
            connection.close()
            self._writer = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HotStoreError(f"the folder of the hot store {self.path} cannot be made: {error}") from error
        connection = self._open("rwc")
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        file = self._file()
        if file is None:
            raise HotStoreUnavailableError(f"the hot store {self.path} was removed while it was being opened")
        self._writer = (connection, file)
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # SQLite's own handler does not cover the change of the journal mode: two first writers would fail.
        self._wait(connection, "PRAGMA journal_mode = WAL")
        if not self._version(connection):
            self._wait(connection, "BEGIN IMMEDIATE")
            if not self._version(connection):
                for statement in _DDL:
                    connection.execute(statement)
            connection.execute("COMMIT")
        connection.execute("PRAGMA busy_timeout = 0")  # from here on _wait waits, and better
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = OFF")  # some builds overwrite what is deleted with zeros
        connection.execute("PRAGMA cache_size = -65536")  # KiB
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages of 4 KiB
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")

    def _open(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=self._lock_seconds,
        )
        if mode != "rwc":
            connection.execute("PRAGMA query_only = ON")
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        """Schema version of the file, 0 while it is empty."""
        version = _user_version(connection)
        if version == 0:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                return 0
            version = _user_version(connection)  # another process may have made the tables since
        if version == SCHEMA_VERSION:
            return version
        raise HotStoreError(
            f"{self.path} is not a hot store of this version of SIEIS (schema {version}, expected {SCHEMA_VERSION}); "
            "move it away and fill a new one from the archive"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise HotStoreError(f"the hot store {self.path} has been closed")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _translate(self.path, error) from error


def _motes(mote_ids: Sequence[int] | None) -> tuple[str, dict[str, Any]]:
    """The WITH clause that lists the motes in question, and its parameter."""
    if mote_ids is None:
        return _ALL, {}
    return _ASKED, {"motes": json.dumps([int(mote) for mote in mote_ids])}


def _flat(rows: pl.DataFrame) -> list[Any]:
    """The values of `rows` row by row in one list, made column by column."""
    width = rows.width
    flat: list[Any] = [None] * (width * rows.height)
    for index, column in enumerate(rows.iter_columns()):
        flat[index::width] = column.to_list()
    return flat


def _frame(rows: list[tuple[Any, ...]], schema: pl.Schema) -> pl.DataFrame:
    """Rows of a query as a frame, made column by column."""
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pl.DataFrame(
        [pl.Series(name, column, dtype=dtype) for (name, dtype), column in zip(schema.items(), columns, strict=True)]
    )


def _user_version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _translate(path: Path, error: sqlite3.Error) -> HotStoreError | HotStoreUnavailableError:
    code = _primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return HotStoreUnavailableError(f"the hot store {path} is locked by another process ({error})")
    if code == sqlite3.SQLITE_FULL:
        return HotStoreUnavailableError(f"the disk of the hot store {path} is full; free space to go on ({error})")
    if code == sqlite3.SQLITE_IOERR:
        return HotStoreUnavailableError(
            f"the disk of the hot store {path} does not answer or is full; check it and free space ({error})"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return HotStoreError(
            f"{path} is damaged or no SQLite file ({error}); move it away and fill a new one from the archive"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return HotStoreError(
            f"the hot store {path} cannot be opened or written; check its owner and permissions ({error})"
        )
    return HotStoreError(f"the hot store {path} refused a statement ({error})")
