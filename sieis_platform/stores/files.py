"""The files of a Delta table at one version, and its tables kept open in this process, so that a read costs the same
however many files there are.

Belongs here: which files a version has, and which opened table may be used again. Not here: errors' meaning, columns.
"""

import datetime as dt
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from sieis_platform.stores.objects import ObjectUnavailableError, tag
from sieis_platform.stores.s3 import is_s3

#: Opened tables kept in a process, 8 MB each at 15,000 files: archives are few, the threads that read one are more.
_MOST: Final = 4


@dataclass(frozen=True)
class TableFiles:
    """A table at one version, unchanging: `listed` is the library's list of its files (`get_add_actions`, flattened).

    `root` is where the table lies as Polars opens files: a path, or s3://. `properties` are the table's own.
    """

    root: str
    version: int
    table_id: str
    schema: pl.Schema
    folders: list[str]
    listed: pl.DataFrame
    properties: Mapping[str, str]

    @classmethod
    def of(cls, table: DeltaTable) -> Self:
        """Of a table opened before, at its version. Neither log nor files are read."""
        metadata = table.metadata()
        uri = table.table_uri.rstrip("/")
        return cls(
            root=uri if is_s3(uri) else unquote(uri.removeprefix("file://")),
            version=table.version(),
            table_id=str(metadata.id),
            schema=pl.Schema(table.schema().to_arrow()),
            folders=list(metadata.partition_columns),
            listed=pl.DataFrame(table.get_add_actions(flatten=True)),
            properties=metadata.configuration,
        )

    def of_days(self, first: dt.date | None, last: dt.date | None) -> list[str]:
        """Where the files of the folders `first` to `last` lie (inclusive; None: without bound)."""
        return self._places(self.listed_of_days(first, last))

    def listed_of_days(self, first: dt.date | None, last: dt.date | None) -> pl.DataFrame:
        """What is listed of the folders `first` to `last` (inclusive; None: without bound).

        The folders are `year`, `month` and `day`, text, zero-padded: text compares as dates do.
        """
        if self.listed.is_empty():  # then the library leaves columns out
            return self.listed
        day = pl.concat_str("partition.year", "partition.month", "partition.day")
        found = self.listed.lazy()
        if first is not None:
            found = found.filter(day >= f"{first:%Y%m%d}")
        if last is not None:
            found = found.filter(day <= f"{last:%Y%m%d}")
        return found.collect()

    def all(self) -> list[str]:
        """Where all files lie."""
        return self._places(self.listed)

    def _places(self, listed: pl.DataFrame) -> list[str]:
        # Paths in the log are URL-encoded (Delta protocol, "Add File and Remove File").
        return [] if listed.is_empty() else [f"{self.root}/{unquote(path)}" for path in listed["path"]]


class _Kept(NamedTuple):
    """An opened table that nobody uses, and the tag (objects.tag) of the commit that made its version."""

    uri: str
    options: Mapping[str, str]
    table: DeltaTable
    commit: str


_LOCK: Final = threading.Lock()  # held for moves in the list only
_KEPT: Final[list[_Kept]] = []


def newest_files(uri: str, options: Mapping[str, str]) -> TableFiles:
    """The files of the table at `uri` as it is now.

    Opening a table reads and replays its checkpoint: 8 ms of processor time at 1,500 files, 45 ms at 15,000. The
    library reads on from a version it holds in 0.2 ms, so tables stay open between reads. Whoever reads has a table to
    himself until he has listed its files, and no writer ever gets it: a commit must begin with a table loaded anew.

    Raises: what the library does (delta.translated).
    """
    kept = _take(uri, options)
    if kept is not None and (again := _again(kept)) is not None:
        _keep(again)
        return TableFiles.of(again.table)
    table = DeltaTable(uri, storage_options=dict(options))
    commit = _commit(uri, options, table.version())
    files = TableFiles.of(table)
    if commit is not None:
        _keep(_Kept(uri, dict(options), table, commit))
    return files


def forget(uri: str) -> None:
    """Close what is kept open of the table at `uri`: it no longer holds what its log said."""
    with _LOCK:
        _KEPT[:] = [one for one in _KEPT if one.uri != uri]


def _take(uri: str, options: Mapping[str, str]) -> _Kept | None:
    with _LOCK:
        for position in reversed(range(len(_KEPT))):  # the one used last has least to read
            if _KEPT[position].uri == uri and _KEPT[position].options == options:
                return _KEPT.pop(position)
    return None


def _keep(kept: _Kept) -> None:
    with _LOCK:
        _KEPT.append(kept)
        del _KEPT[:-_MOST]


def _again(kept: _Kept) -> _Kept | None:
    """The table at its newest version; None where it must be opened anew.

    The library does not see that a table was removed, or removed and made again, and reads on in the new one's log. The
    commit that it had come to tells: another object, or none (also where the log was cleaned up), is another table.
    It is looked at last, so that it vouches for all that was read before.
    """
    before = kept.table.version()
    try:
        kept.table.update_incremental()
    except (DeltaError, FileNotFoundError):  # a log that ends before this version: opened anew, it tells what is wrong
        return None
    newest = kept.table.version()
    commit = kept.commit if newest == before else _commit(kept.uri, kept.options, newest)
    if commit is None or _commit(kept.uri, kept.options, before) != kept.commit:
        return None
    return kept._replace(commit=commit)


def _commit(uri: str, options: Mapping[str, str], version: int) -> str | None:
    """The tag of the commit of `version`; None where there is none, or the store does not say."""
    try:
        return tag(uri, options, f"_delta_log/{version:020}.json")
    except ObjectUnavailableError:
        return None
