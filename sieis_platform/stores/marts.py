"""The marts: derived Delta tables under one root, which can be rebuilt from the archive.

`ledger` and `correction_images` cannot: these two need a backup, as the archive does.
Belongs here: naming, atomic replacement of windows, reads. Not here: what a mart means or how it is computed.
"""

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

import polars as pl
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.stores.delta import (
    KEEP_LOG,
    Cleaned,
    TableInfo,
    clean,
    create_empty,
    info,
    scan,
    set_properties,
    translated,
)
from sieis_platform.stores.files import TableFiles
from sieis_platform.stores.objects import folders

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,99}")
_WRITER: Final = WriterProperties(compression="SNAPPY")
#: The library tries again where commits do not conflict; ours are the rounds in which the write is computed anew.
_COMMITS: Final = CommitProperties(max_commit_retries=100)
_ROUNDS: Final = 20

# What is asked of a mart are days, and those are folders. Statistics of every column of every file (26 in the
# aggregates) made opening a mart of 360 days three times as dear. Rows are counted without them.
_PROPERTIES: Final = {"delta.dataSkippingNumIndexedCols": "0"}


class MartUnavailableError(RetriableError):
    """The marts do not answer or could not be written; the same call may succeed later."""


class MartError(FatalError):
    """A mart does not exist, or does not fit what is written to it."""


class Marts:
    """Delta tables `{root}/{table}` (a folder or s3://); `table` matches ^[a-z][a-z0-9_]*$, anything else is refused.

    A table whose first frame has the column `date` (text, YYYY-MM-DD) is partitioned by it. Writers may add columns;
    rows written before have null there.
    """

    def __init__(self, root: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.root = root.rstrip("/")
        self._storage_options = dict(storage_options or {})

    def __repr__(self) -> str:
        return f"Marts({self.root!r})"

    # -- reads ---------------------------------------------------------------------------------------------------
    def exists(self, table: str) -> bool:
        """Whether the mart has been written. Raises: MartUnavailableError, MartError (bad name)."""
        uri = self._uri(table)
        with self._translated(table):
            return DeltaTable.is_deltatable(uri, storage_options=self._storage_options)

    def scan(self, table: str) -> pl.LazyFrame:
        """The mart at its newest version. Raises: MartError where it does not exist, MartUnavailableError."""
        with self._translated(table):
            return scan(self.table(table), self._storage_options)

    def reading(self, table: str) -> AbstractContextManager[None]:
        """Context in which frames of that mart are collected: only then are the files read.

        Raises inside: MartUnavailableError, MartError.
        """
        return self._translated(table)

    def version(self, table: str) -> int:
        """Newest version of the mart. Raises: MartError where it does not exist, MartUnavailableError."""
        return self.table(table).version()

    def info(self, table: str) -> TableInfo:
        """Version, files, rows and bytes. Raises: MartError where it does not exist, MartUnavailableError."""
        return info(self.files(table))

    def files(self, table: str) -> TableFiles:
        """The mart's files at its newest version. Raises: as `table`."""
        opened = self.table(table)
        with self._translated(table):
            return TableFiles.of(opened)

    def tables(self) -> list[str]:
        """Names of the marts that have been written, ascending; other folders are none.

        Raises: ObjectUnavailableError, MartUnavailableError, MartError.
        """
        found = folders(self.root, self._storage_options)
        return [name for name in found if _NAME.fullmatch(name) and self.exists(name)]

    # -- writes --------------------------------------------------------------------------------------------------
    def replace_days(self, table: str, frame: pl.DataFrame, start: dt.date, end: dt.date) -> int:
        """Put `frame` in place of every row with start <= date <= end, in one commit; the version made.

        An empty frame clears the window. Twice is like once. Writers of other days may run at the same time.

        Raises: MartError where a row of `frame` lies outside the window, MartUnavailableError.
        """
        first, last = start.isoformat(), end.isoformat()
        if first > last:
            raise MartError(f"the window {first} to {last} of mart {table} is empty")
        if frame.schema.get("date") != pl.String:
            raise MartError(f"mart {table} is replaced by days: its rows need the column `date` as text (YYYY-MM-DD)")
        outside = frame.filter(~pl.col("date").is_between(pl.lit(first), pl.lit(last)) | pl.col("date").is_null())
        if not outside.is_empty():
            raise MartError(
                f"{outside.height} rows for mart {table} lie outside {first} to {last}, e.g. {outside['date'][0]}"
            )
        # Both dates come from date.isoformat(): digits and dashes only.
        predicate = f"date >= '{first}' AND date <= '{last}'"
        self._create(table, frame)
        return self._commit(table, lambda opened: self._overwrite(opened, frame, predicate))

    def replace(self, table: str, frame: pl.DataFrame) -> int:
        """Put `frame` in place of the whole mart, its columns included, in one commit; the version made."""
        self._create(table, frame)
        return self._commit(
            table,
            lambda opened: write_deltalake(
                opened,
                frame,
                mode="overwrite",
                schema_mode="overwrite",
                writer_properties=_WRITER,
                commit_properties=_COMMITS,
            ),
        )

    def append(self, table: str, frame: pl.DataFrame) -> int:
        """Add rows; the version made. Not idempotent: for logs of what happened, not for what is computed."""
        self._create(table, frame)
        return self._commit(
            table,
            lambda opened: write_deltalake(
                opened, frame, mode="append", schema_mode="merge", writer_properties=_WRITER, commit_properties=_COMMITS
            ),
        )

    def tidy(self, table: str, horizon_hours: int) -> Cleaned:
        """Compact the mart and delete files and log entries that no version younger than the horizon needs.

        Raises: MartUnavailableError, MartError.
        """
        for _ in range(_ROUNDS):
            opened = self.table(table)
            try:
                with self._translated(table):
                    set_properties(opened, _PROPERTIES)  # a mart of an earlier release lacks them
                    opened.optimize.compact(
                        writer_properties=_WRITER, commit_properties=_COMMITS, post_commithook_properties=KEEP_LOG
                    )
                    return clean(opened, horizon_hours)
            except CommitFailedError:
                continue
        raise self._outrun(table)

    def merge(self, table: str, frame: pl.DataFrame, key: Sequence[str]) -> int:
        """Add rows, each in place of the one with the same values in the columns `key` (no nulls); the version made.

        Twice is like once: for a history of what happened. `frame` has no two rows of one key.

        Raises: MartError (a column's name that is none), MartUnavailableError.
        """
        if bad := [name for name in (*frame.columns, *key) if not _NAME.fullmatch(name)]:
            raise MartError(f"mart {table} cannot have columns named {', '.join(map(repr, bad))}")
        predicate = " AND ".join(f"kept.{name} = added.{name}" for name in key)
        self._create(table, frame)
        return self._commit(table, lambda opened: self._merge(opened, frame, predicate))

    def _merge(self, opened: DeltaTable, frame: pl.DataFrame, predicate: str) -> None:
        merger = opened.merge(
            frame,
            predicate,
            source_alias="added",
            target_alias="kept",
            writer_properties=_WRITER,
            commit_properties=_COMMITS,
        )
        merger.when_matched_update_all().when_not_matched_insert_all().execute()

    def _overwrite(self, opened: DeltaTable, frame: pl.DataFrame, predicate: str) -> None:
        write_deltalake(
            opened,
            frame,
            mode="overwrite",
            predicate=predicate,
            schema_mode="merge",
            writer_properties=_WRITER,
            commit_properties=_COMMITS,
        )

    def _create(self, table: str, frame: pl.DataFrame) -> None:
        """Make the empty table where there is none, so that two first writers do not both think they are first."""
        if untyped := [name for name, dtype in frame.schema.items() if dtype == pl.Null]:
            raise MartError(f"the columns {', '.join(untyped)} for mart {table} have no type; cast them")
        if self.exists(table):
            return
        with self._translated(table):
            create_empty(
                self._uri(table),
                frame.schema,
                partition_by=["date"] if "date" in frame.columns else [],
                name=table,
                description="",
                storage_options=self._storage_options,
                configuration=_PROPERTIES,
            )

    def _commit(self, table: str, write: Callable[[DeltaTable], None]) -> int:
        """`write` on the newest version until its commit meets no conflicting one."""
        for _ in range(_ROUNDS):
            opened = self.table(table)
            try:
                with self._translated(table):
                    write(opened)
            except CommitFailedError:
                continue
            return opened.version()
        raise self._outrun(table)

    def _outrun(self, table: str) -> MartUnavailableError:
        return MartUnavailableError(
            f"mart {table} under {self.root}: other writers were faster {_ROUNDS} times; try again later"
        )

    def table(self, table: str) -> DeltaTable:
        """The mart at its newest version. Raises: MartError where it does not exist, MartUnavailableError."""
        uri = self._uri(table)
        with self._translated(table):
            return DeltaTable(uri, storage_options=self._storage_options)

    def _uri(self, table: str) -> str:
        if not _NAME.fullmatch(table):
            raise MartError(f"{table[:100]!r} is not the name of a mart (lower case letters, digits and underscores)")
        return f"{self.root}/{table}"

    def _translated(self, table: str) -> AbstractContextManager[None]:
        return translated(
            f"mart {table}",
            self.root,
            unavailable=MartUnavailableError,
            fatal=MartError,
            missing="materialize it first (`sieis up`, or the assets in Dagster)",
        )
