"""What the Delta tables (archive, marts) share: which of the library's errors pass by themselves; a table's weight.

Belongs here: error translation and figures from the log. Not here: the layout or the meaning of any table.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import (
    CommitFailedError,
    DeltaError,
    DeltaProtocolError,
    SchemaMismatchError,
    TableNotFoundError,
)

from sieis_platform.errors import FatalError, RetriableError


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
    except TableNotFoundError as error:
        raise fatal(f"there is no {what} at {uri}; {missing}") from error
    except (SchemaMismatchError, DeltaProtocolError) as error:
        raise fatal(f"the {what} at {uri} does not fit what is read or written: {error}") from error
    except (PermissionError, NotADirectoryError) as error:
        raise fatal(f"the {what} at {uri} cannot be opened: {error}; check the path and its permissions") from error
    except (DeltaError, OSError) as error:
        raise unavailable(f"the {what} at {uri} could not be reached or written: {error}") from error
