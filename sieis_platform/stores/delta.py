"""What the Delta tables (archive, marts) share: which of the library's errors pass by themselves; a table's weight.

Belongs here: error translation and figures from the log. Not here: the layout or the meaning of any table.
"""

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import polars as pl
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema
from deltalake.exceptions import (
    CommitFailedError,
    DeltaError,
    DeltaProtocolError,
    SchemaMismatchError,
    TableNotFoundError,
)

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.stores.files import TableFiles
from sieis_platform.stores.s3 import is_s3, scan_options

# The library has one class for most of its errors: their text tells what will not pass by itself.
_FULL: Final = ("No space left on device", "XMinioStorageFull")
_BAD_PATH: Final = ("Could not create local directory", "Not a directory", "Permission denied", "Read-only file system")
_CONVERSION: Final = "Arrow error"
_NO_BUCKET: Final = "NoSuchBucket"
_REFUSED: Final = (
    "403 Forbidden",
    "401 Unauthorized",
    "lacked the necessary privileges",
    "lacked valid authentication",
)

#: Checkpoints now and then, but no clean-up of the log: the archive's ledger lives in it. Compaction and vacuum do not
#: heed this; the property `delta.enableExpiredLogCleanup` = false they do.
KEEP_LOG: Final = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)

_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
# Of an S3 server's answer the code is kept: the rest may hold the access key and what was signed.
_ANSWER: Final = re.compile(r"<\?xml.*?<Code>(\w+)</Code>.*?</Error>|<\?xml.*", re.DOTALL)


class TableInfo(NamedTuple):
    """Live files of a table, their rows and bytes, all from the log."""

    version: int
    files: int
    rows: int
    bytes: int


def info(table: TableFiles) -> TableInfo:
    """What the table weighs at its version."""
    listed = table.listed
    if listed.is_empty():
        return TableInfo(table.version, 0, 0, 0)
    return TableInfo(table.version, listed.height, int(listed["num_records"].sum()), int(listed["size_bytes"].sum()))


def scan_days(
    table: TableFiles, storage_options: Mapping[str, str], first: dt.date | None, last: dt.date | None
) -> pl.LazyFrame:
    """The rows of the folders of `first` to `last` (both inclusive; None: without bound), `year`, `month`, `day`.

    Polars prunes by the statistics of every file of the table, 90 ms of processor time beside 15,000 files where one
    day has 42; the library's own predicate takes 5 ms, the dates in its list of files 0.5 ms. What follows is what
    Polars does with the files it is left.
    """
    return _scan_files(table, table.of_days(first, last), storage_options)


def _scan_files(table: TableFiles, paths: list[str], storage_options: Mapping[str, str]) -> pl.LazyFrame:
    schema, folders = table.schema, table.folders
    if not paths:
        return pl.LazyFrame(schema=schema)
    return pl.scan_parquet(
        paths,
        schema={name: kind for name, kind in schema.items() if name not in folders},  # else a file is opened for it
        hive_partitioning=True,
        hive_schema={name: schema[name] for name in folders},
        missing_columns="insert",
        extra_columns="ignore",
        storage_options={**storage_options, **scan_options(storage_options)} or None,
        credential_provider=None,
    ).select(schema.names())


def set_properties(table: DeltaTable, wanted: Mapping[str, str]) -> None:
    """Make the table's properties hold `wanted`; nothing is committed where they do."""
    held = table.metadata().configuration
    if differing := {name: value for name, value in wanted.items() if held.get(name) != value}:
        table.alter.set_table_properties(differing, post_commithook_properties=KEEP_LOG)


class Cleaned(NamedTuple):
    """What `clean` deleted."""

    files: int
    log_entries: int


def clean(table: DeltaTable, horizon_hours: int, *, log: bool = True) -> Cleaned:
    """Checkpoint the table, then delete files that no version younger than the horizon needs, and their log entries.

    Without `log` there is no checkpoint, and the log stays as it is.

    A reader that opened the table within the horizon finds every file it looks for. Tombstones are kept as long in the
    checkpoints, else a full vacuum would take a file for an orphan before its time; and it is full, because files of
    writers that were killed stand in no log.
    """
    horizon = f"interval {horizon_hours} hours"
    set_properties(table, {"delta.logRetentionDuration": horizon, "delta.deletedFileRetentionDuration": horizon})
    table.update_incremental()
    if log:
        table.create_checkpoint()
    oldest = _oldest_version(table) if log else 0
    files = table.vacuum(
        horizon_hours,
        dry_run=False,
        enforce_retention_duration=False,
        full=True,
        post_commithook_properties=KEEP_LOG,
    )
    if not log:
        return Cleaned(len(files), 0)
    table.cleanup_metadata()
    table.update_incremental()
    return Cleaned(len(files), max(0, _oldest_version(table) - oldest))


def _oldest_version(table: DeltaTable) -> int:
    """The oldest version that the log still has an entry of; entries have no gap."""
    return table.version() - len(table.history()) + 1


def scan(table: DeltaTable, storage_options: Mapping[str, str]) -> pl.LazyFrame:
    """The table at its version, to be read with the options it was opened with."""
    if "%" in table.table_uri and not is_s3(table.table_uri):
        # Polars asks the library for the paths, which writes `%20` for a space, and opens them as text.
        files = TableFiles.of(table)
        return _scan_files(files, files.all(), storage_options)
    return pl.scan_delta(table, storage_options=scan_options(storage_options))


def create_empty(
    uri: str,
    schema: pl.Schema,
    *,
    partition_by: Sequence[str],
    name: str,
    description: str,
    storage_options: dict[str, str],
    configuration: Mapping[str, str | None] | None = None,
) -> None:
    """Make the empty table; nothing happens where it exists, or where another process makes it at this moment.

    The library's mode "ignore" alone is not enough: of 60 races of four creators, 54 made the table twice (versions 0
    and 1) and 61 creators got a CommitFailedError. Without retries the first wins and the others see that it did.
    """
    try:
        DeltaTable.create(
            uri,
            schema=Schema.from_arrow(pl.DataFrame(schema=schema).to_arrow().schema),
            mode="ignore",
            partition_by=list(partition_by),
            name=name,
            description=description,
            configuration=dict(configuration or {}),
            storage_options=storage_options,
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except CommitFailedError:
        if not DeltaTable.is_deltatable(uri, storage_options=storage_options):
            raise


@contextmanager
def translated(
    what: str, uri: str, *, unavailable: type[RetriableError], fatal: type[FatalError], missing: str
) -> Iterator[None]:
    """Turn the library's errors into `unavailable` (may pass) and `fatal` (a person must look).

    CommitFailedError passes through: the writer decides whether to try again. `missing` says what to do about a table
    that does not exist.
    """
    try:
        yield
    except CommitFailedError:
        raise
    except (DeltaError, OSError) as error:
        text = _line(error)
        if any(sign in text for sign in _FULL):
            raise unavailable(f"the disk of the {what} at {uri} is full; free space to go on ({text})") from error
        if _NO_BUCKET in text:
            raise fatal(f"there is no bucket for the {what} at {uri}; make it with `sieis setup`") from None
        if any(sign in text for sign in _REFUSED):
            raise fatal(f"the S3 server refuses access to the {what} at {uri}; check its keys ({text})") from None
        if isinstance(error, PermissionError) or any(sign in text for sign in _BAD_PATH):
            raise fatal(
                f"the {what} at {uri} cannot be made or opened; check the path and its permissions ({text})"
            ) from error
        if isinstance(error, TableNotFoundError):
            raise fatal(f"there is no {what} at {uri}; {missing}") from error
        if isinstance(error, SchemaMismatchError | DeltaProtocolError) or _CONVERSION in text:
            raise fatal(f"the {what} at {uri} does not fit what is read or written: {text}") from error
        raise unavailable(f"the {what} at {uri} could not be reached or written: {text}") from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        # The library raises its cast errors as bare Exception.
        raise fatal(f"the {what} at {uri} does not fit what is read or written: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """The library's message on one line, without the colours of a terminal and without an S3 server's whole answer."""
    text = _ANSWER.sub(lambda found: found[1] or "", _COLOUR.sub("", str(error)))
    return " ".join(text.replace("↳", "").split())
