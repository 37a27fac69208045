"""Small objects beside the tables, in a folder or on the S3 server that the table options describe.

Belongs here: writing, reading and listing them. Not here: tables (delta) or buckets (s3).
"""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sieis_platform.errors import RetriableError
from sieis_platform.stores.s3 import bucket_of, is_s3

if TYPE_CHECKING:
    from obstore.store import LocalStore, S3Store


class ObjectUnavailableError(RetriableError):
    """An object beside a table could not be read, written or listed; the same call may succeed later."""


def put(uri: str, options: Mapping[str, str], path: str, content: bytes) -> None:
    """Write `{uri}/{path}` in place of what is there, whole or not at all. Raises: ObjectUnavailableError."""
    import obstore  # noqa: PLC0415 - most who open a store never come here

    try:
        obstore.put(object_store(uri, options), path, content)
    except (obstore.exceptions.BaseError, OSError) as error:
        raise ObjectUnavailableError(f"{uri}/{path} could not be written ({type(error).__name__})") from None


def tag(uri: str, options: Mapping[str, str], path: str) -> str | None:
    """What tells the object `{uri}/{path}` from any other that ever lay there; None where there is none.

    Raises: ObjectUnavailableError.
    """
    try:
        if not is_s3(uri):
            found = (Path(uri) / path).stat()
            return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"

        import obstore  # noqa: PLC0415 - as above

        try:
            return obstore.head(object_store(uri, options), path)["e_tag"]
        except obstore.exceptions.NotFoundError:
            return None
        except obstore.exceptions.BaseError as error:
            raise ObjectUnavailableError(f"{uri}/{path} could not be looked at ({type(error).__name__})") from None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ObjectUnavailableError(f"{uri}/{path} could not be looked at ({type(error).__name__})") from None


def folders(uri: str, options: Mapping[str, str]) -> list[str]:
    """Names of the folders right below `uri`, ascending; none where it is not there.

    Raises: ObjectUnavailableError.
    """
    import obstore  # noqa: PLC0415

    if not is_s3(uri) and not Path(uri).exists():
        return []
    try:
        found = obstore.list_with_delimiter(object_store(uri, options))["common_prefixes"]
    except (obstore.exceptions.BaseError, OSError) as error:
        raise ObjectUnavailableError(f"{uri} could not be listed ({type(error).__name__})") from None
    return sorted(path.rstrip("/").rpartition("/")[2] for path in found)


def object_store(uri: str, options: Mapping[str, str]) -> "LocalStore | S3Store":
    """The store whose root is `uri`, from the options that the Delta library takes (s3.storage_options)."""
    from obstore.store import LocalStore, S3Store  # noqa: PLC0415

    if not is_s3(uri):
        return LocalStore(uri, mkdir=True)
    client: Any = {name: options[name] for name in ("connect_timeout", "timeout")}
    return S3Store(
        bucket_of(uri),
        prefix=uri.removeprefix("s3://").partition("/")[2].strip("/"),
        config={name: value for name, value in options.items() if name.startswith("aws_")},  # pyright: ignore[reportArgumentType] - the names are checked at run time
        client_options=client | {"allow_http": options["allow_http"] == "true"},
        retry_config={
            "max_retries": int(options["max_retries"]),
            "retry_timeout": dt.timedelta(seconds=float(options["retry_timeout"].removesuffix("s"))),
        },
    )
