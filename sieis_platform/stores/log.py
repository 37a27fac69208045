"""The log of a Delta table read commit by commit: the library shows the newest state, not what each commit did.

Belongs here: fetching and decoding commits, from a folder or S3. Not here: what they mean (touched.py).
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.stores.objects import object_store

_COMMIT: Final = re.compile(r"_delta_log/(\d{20})\.json")


class LogUnavailableError(RetriableError):
    """The log of a table does not answer; the same call may succeed later."""


class LogError(FatalError):
    """A commit in the log of a table is no list of actions; a person must look."""


class File(msgspec.Struct, frozen=True, rename="camel"):
    """A file that one commit added or removed; without `data_change` its rows lie in other files of that commit."""

    path: str
    data_change: bool = True
    partition_values: dict[str, str | None] | None = None


class _Action(msgspec.Struct, frozen=True):
    """One line of a commit; all other kinds of action are passed over."""

    add: File | None = None
    remove: File | None = None
    commit_info: dict[str, Any] | None = msgspec.field(default=None, name="commitInfo")


class LoggedCommit(NamedTuple):
    """The files that a commit added and removed, and what its writer says of it (`sieis.removed` among others)."""

    files: list[File]
    told: dict[str, Any]


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
        import obstore  # noqa: PLC0415 - as below

        # Names are numbers of equal length, so that S3 begins its list where it is told to.
        after = f"_delta_log/{first - 1:020}.json" if first else None
        try:
            names = [found["path"] for page in obstore.list(self._store, "_delta_log", offset=after) for found in page]
        except (obstore.exceptions.BaseError, OSError) as error:
            raise LogUnavailableError(f"the log of {self.uri} could not be listed: {_first_line(error)}") from None
        return sorted(int(found[1]) for name in names if (found := _COMMIT.fullmatch(name)) and int(found[1]) >= first)

    def commit(self, version: int) -> LoggedCommit | None:
        """The commit that made `version`; None where the log was cleaned of it.

        Raises: LogUnavailableError, LogError.
        """
        import obstore  # noqa: PLC0415 - most who open an archive never come here

        try:
            text = obstore.get(self._store, f"_delta_log/{version:020}.json").bytes().to_bytes()
        except FileNotFoundError:
            return None
        except (obstore.exceptions.BaseError, OSError) as error:
            raise LogUnavailableError(
                f"the log of {self.uri} could not be read at version {version}: {_first_line(error)}"
            ) from None
        try:
            actions = self._decoder.decode_lines(text)
        except msgspec.DecodeError as error:
            raise LogError(
                f"version {version} in the log of {self.uri} is damaged ({error}): restore the table from a backup"
            ) from error
        files = [file for action in actions for file in (action.add, action.remove) if file is not None]
        return LoggedCommit(files, next((one.commit_info for one in actions if one.commit_info), {}))


def _first_line(error: BaseException) -> str:
    """The rest of the library's text is a dump of the request."""
    return str(error).partition("\n")[0]
