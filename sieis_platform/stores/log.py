"""The log of a Delta table read commit by commit: the library shows the newest state, not what each commit did.

Belongs here: fetching and decoding commits, from a folder or S3. Not here: what they mean (touched.py).
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from sieis_platform.errors import RetriableError
from sieis_platform.stores.s3 import bucket_of, is_s3

_S3: Final = "s3://"


class LogUnavailableError(RetriableError):
    """The log of a table does not answer; the same call may succeed later."""


class File(msgspec.Struct, frozen=True, rename="camel"):
    """A file that one commit added or removed; without `data_change` its rows lie in other files of that commit."""

    path: str
    data_change: bool = True
    partition_values: dict[str, str | None] | None = None


class _Action(msgspec.Struct, frozen=True):
    """One line of a commit; all other kinds of action are passed over."""

    add: File | None = None
    remove: File | None = None


class CommitLog:
    """The commits of the Delta table at `uri`. Protocol: https://github.com/delta-io/delta/blob/master/PROTOCOL.md."""

    def __init__(self, uri: str, storage_options: Mapping[str, str]) -> None:
        self.uri = uri
        self._store = _open(uri, storage_options)
        self._decoder = msgspec.json.Decoder(_Action)

    def files(self, version: int) -> list[File] | None:
        """The files that commit `version` added and removed; None where the log was cleaned of it.

        Raises: LogUnavailableError.
        """
        try:
            text = obstore.get(self._store, f"_delta_log/{version:020}.json").bytes().to_bytes()
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            # The rest of the library's text is a dump of the request.
            first = str(error).partition("\n")[0]
            raise LogUnavailableError(
                f"the log of {self.uri} could not be read at version {version}: {first}"
            ) from None
        actions = self._decoder.decode_lines(text)
        return [file for action in actions for file in (action.add, action.remove) if file is not None]


def _open(uri: str, options: Mapping[str, str]) -> LocalStore | S3Store:
    """The object store of a table, from the options that the Delta library takes (s3.storage_options)."""
    if not is_s3(uri):
        return LocalStore(uri.removeprefix("file://"))
    client: Any = {name: options[name] for name in ("timeout", "connect_timeout") if name in options}
    client["allow_http"] = options.get("allow_http") == "true"
    config: Any = {name: value for name, value in options.items() if name.startswith("aws_")}
    retry: Any = {"max_retries": int(options.get("max_retries", "3"))}
    prefix = uri.removeprefix(_S3).partition("/")[2]
    return S3Store(bucket_of(uri), prefix=prefix or None, config=config, client_options=client, retry_config=retry)
