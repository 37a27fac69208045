"""The log of a Delta table read commit by commit: the library shows the newest state, not what each commit did.

Belongs here: fetching and decoding commits, from a folder or S3. Not here: what they mean (touched.py, fates.py).
"""

import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final, NamedTuple

import msgspec
import polars as pl

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.stores.objects import object_store

_COMMIT: Final = re.compile(r"_delta_log/(\d{20})\.json")
_CHECKPOINT: Final = re.compile(r"_delta_log/(\d{20})\.checkpoint\.parquet")


class LogUnavailableError(RetriableError):
    """The log of a table does not answer; the same call may succeed later."""


class LogError(FatalError):
    """A commit in the log of a table is no list of actions; a person must look."""


class File(msgspec.Struct, frozen=True, rename="camel"):
    """A file that one commit added or removed; without `data_change` its rows lie in other files of that commit."""

    path: str
    data_change: bool = True
    partition_values: dict[str, str | None] | None = None


class _Position(msgspec.Struct, frozen=True, rename="camel"):
    """An app transaction."""

    app_id: str
    version: int


class _Action(msgspec.Struct, frozen=True):
    """One line of a commit; all other kinds of action are passed over."""

    add: File | None = None
    remove: File | None = None
    txn: _Position | None = None
    commit_info: dict[str, Any] | None = msgspec.field(default=None, name="commitInfo")


class _Checkpoint(msgspec.Struct, frozen=True):
    """What `_last_checkpoint` says: the version of the newest checkpoint."""

    version: int


class LoggedCommit(NamedTuple):
    """The files that a commit added and removed, its app transactions, and what its writer says of it.

    `told` holds the time (`timestamp`, Unix ms) and `sieis.ledger`, `sieis.removed` among others.
    """

    files: list[File]
    positions: dict[str, int]
    told: dict[str, Any]

    @property
    def committed_at(self) -> int:
        """When it was committed, Unix ns, by the writer's clock."""
        return int(self.told.get("timestamp", 0)) * 1_000_000


class LoggedSpan(NamedTuple):
    """The commits of a span of time by version, and the version below which others of it may have been cleaned up."""

    commits: dict[int, LoggedCommit]
    begins: int


#: Writers' clocks differ: the commits of a span of time are looked for this far beyond it.
_CLOCKS_NS: Final = 300 * 1_000_000_000


class CommitLog:
    """The commits of the Delta table at `uri`. Protocol: https://github.com/delta-io/delta/blob/master/PROTOCOL.md."""

    def __init__(self, uri: str, storage_options: Mapping[str, str]) -> None:
        self.uri = uri
        self._store = object_store(uri, storage_options)
        self._decoder = msgspec.json.Decoder(_Action)

    def versions(self, first: int) -> list[int]:
        """The versions from `first` on whose commits the log still holds, ascending.

        Raises: LogUnavailableError.
        """
        found = (_COMMIT.fullmatch(name) for name in self._names(first))
        return sorted(int(one[1]) for one in found if one and int(one[1]) >= first)

    def _names(self, first: int) -> list[str]:
        """The objects of the log that are named after versions from `first` on, and perhaps others."""
        import obstore  # noqa: PLC0415 - most who open an archive never come here

        # Names are numbers of equal length, so that S3 begins its list where it is told to.
        after = f"_delta_log/{first - 1:020}.json" if first else None
        try:
            return [found["path"] for page in obstore.list(self._store, "_delta_log", offset=after) for found in page]
        except (obstore.exceptions.BaseError, OSError) as error:
            raise LogUnavailableError(f"the log of {self.uri} could not be listed: {_first_line(error)}") from None

    def between(self, newest: int, start_ns: int, end_ns: int) -> LoggedSpan:
        """The commits up to version `newest` that were made in start_ns <= time < end_ns (Unix ns).

        Few others are read: versions ascend with time, give or take what writers' clocks differ by, so that the first
        is found by halving. Raises: LogUnavailableError, LogError.
        """
        first, beyond = 0, newest + 1
        while first < beyond:
            middle = (first + beyond) // 2
            commit = self.commit(middle)
            if commit is None or commit.committed_at < start_ns - _CLOCKS_NS:
                first = middle + 1
            else:
                beyond = middle
        begins = first if first and self.commit(first - 1) is None else 0
        found: dict[int, LoggedCommit] = {}
        for version in range(first, newest + 1):
            commit = self.commit(version)
            if commit is None:  # the log is being cleaned up
                begins, found = version + 1, {}
            elif commit.committed_at >= end_ns + _CLOCKS_NS:
                break
            elif start_ns <= commit.committed_at < end_ns:
                found[version] = commit
        return LoggedSpan(found, begins)

    def positions(self) -> dict[str, int]:
        """Every app transaction that the table holds, by its name: from the newest checkpoint and the commits after it.

        The library tells of those alone whose name is known. Raises: LogUnavailableError, LogError.
        """
        checkpoint = self._newest_checkpoint()
        found = {} if checkpoint is None else self._checkpointed(checkpoint)
        for version in self.versions(0 if checkpoint is None else checkpoint + 1):
            if (commit := self.commit(version)) is not None:
                found |= commit.positions
        return found

    def _newest_checkpoint(self) -> int | None:
        """The version of the newest checkpoint; None while there is none."""
        if (text := self._get("_last_checkpoint")) is None:  # the protocol calls it a hint: it may be missing
            return max(
                (int(found[1]) for name in self._names(0) if (found := _CHECKPOINT.fullmatch(name))), default=None
            )
        try:
            return msgspec.json.decode(text, type=_Checkpoint).version
        except msgspec.MsgspecError as error:
            raise LogError(
                f"`_last_checkpoint` in the log of {self.uri} is damaged ({error}): delete that file, a listing serves"
            ) from error

    def _checkpointed(self, version: int) -> dict[str, int]:
        """The app transactions of a checkpoint: of its columns, which name all files, only the one that holds them."""
        path = f"{version:020}.checkpoint.parquet"
        if (content := self._get(path)) is None:
            raise LogUnavailableError(f"the checkpoint {path} of {self.uri} was replaced meanwhile")
        try:
            held = pl.scan_parquet(BytesIO(content)).select("txn").drop_nulls().unnest("txn").collect()
            return dict(held.select("appId", "version").iter_rows())
        except pl.exceptions.PolarsError as error:
            raise LogError(f"the checkpoint {path} of {self.uri} cannot be read: {_first_line(error)}") from error

    def commit(self, version: int) -> LoggedCommit | None:
        """The commit that made `version`; None where the log was cleaned of it.

        Raises: LogUnavailableError, LogError.
        """
        if (text := self._get(f"{version:020}.json")) is None:
            return None
        try:
            actions = self._decoder.decode_lines(text)
        except msgspec.DecodeError as error:
            raise LogError(
                f"version {version} in the log of {self.uri} is damaged ({error}): restore the table from a backup"
            ) from error
        files = [file for action in actions for file in (action.add, action.remove) if file is not None]
        positions = {action.txn.app_id: action.txn.version for action in actions if action.txn is not None}
        return LoggedCommit(files, positions, next((one.commit_info for one in actions if one.commit_info), {}))

    def _get(self, name: str) -> bytes | None:
        """An object of the log; None where there is none. Raises: LogUnavailableError."""
        import obstore  # noqa: PLC0415 - as above

        try:
            return obstore.get(self._store, f"_delta_log/{name}").bytes().to_bytes()
        except FileNotFoundError:
            return None
        except (obstore.exceptions.BaseError, OSError) as error:
            raise LogUnavailableError(
                f"the log of {self.uri} could not be read at {name}: {_first_line(error)}"
            ) from None


def _first_line(error: BaseException) -> str:
    """The rest of the library's text is a dump of the request."""
    return str(error).partition("\n")[0]
