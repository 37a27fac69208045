"""What the Delta tables (archive, marts) share: which of the library's errors pass by themselves; a table's weight.

Belongs here: error translation and figures from the log. Not here: the layout or the meaning of any table.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import polars as pl
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import (
    CommitFailedError,
    DeltaError,
    DeltaProtocolError,
    SchemaMismatchError,
    TableNotFoundError,
)

from sieis_platform.errors import FatalError, RetriableError

# The library has one class for most of its errors: their text tells what will not pass by itself.
_FULL: Final = "No space left on device"
_BAD_PATH: Final = ("Could not create local directory", "Not a directory", "Permission denied", "Read-only file system")
_CONVERSION: Final = "Arrow error"
_COLOUR: Final = re.compile("\x1b\\[[0-9;]*m")


class TableInfo(NamedTuple):
    """Live files of a table, their rows and bytes, all from the log."""

    version: int
    files: int
    rows: int
    bytes: int


def info(table: DeltaTable) -> TableInfo:
    """What the table weighs at its version; nothing but the log is read."""
    actions = pl.DataFrame(table.get_add_actions(flatten=True))
    if actions.is_empty():
        return TableInfo(table.version(), 0, 0, 0)
    return TableInfo(
        table.version(), actions.height, int(actions["num_records"].sum()), int(actions["size_bytes"].sum())
    )


def create_empty(
    uri: str,
    schema: pl.Schema,
    *,
    partition_by: Sequence[str],
    name: str,
    description: str,
    storage_options: dict[str, str],
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
        if _FULL in text:
            raise unavailable(f"the disk of the {what} at {uri} is full; free space to go on ({text})") from error
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
    """The library's message, which may have several lines and colours, on one and without."""
    return " ".join(_COLOUR.sub("", str(error)).split())
