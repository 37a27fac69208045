"""The S3 server of the settings: options for the Delta library and Polars, and buckets made and emptied.

Belongs here: all that knows S3 options and their names. Not here: what is kept there (archive, marts).
"""

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.settings import Settings

if TYPE_CHECKING:
    from obstore.store import S3Store

_S3: Final = "s3://"
# The rules all S3 servers share (Amazon S3 user guide, "General purpose bucket naming rules").
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
#: A refused connection is tried again after 0.1, 0.2 and 0.4 s: enough for a reset, and an outage is known in a second.
#: More patience belongs to the callers, who back off while they stay in their consumer group.
_RETRIES: Final = 3
_CONNECT_SECONDS: Final = 2.0  # TCP within one data centre takes milliseconds; one lost SYN is sent again after 1 s
_SIGNED_FOR: Final = dt.timedelta(seconds=60)


class S3SettingsError(FatalError):
    """The S3 settings are incomplete or contradict each other."""


class BucketUnavailableError(RetriableError):
    """The S3 server did not answer; the same call may succeed later."""


class BucketError(FatalError):
    """The S3 server refuses to make or empty a bucket, or the bucket is not ours to empty."""


def is_s3(uri: str) -> bool:
    """Whether `uri` lies on an S3 server."""
    return uri.startswith(_S3)


def bucket_of(uri: str) -> str:
    """The bucket of an s3:// address. Raises: S3SettingsError where it names none that a server would take."""
    bucket = uri.removeprefix(_S3).partition("/")[0]
    if not is_s3(uri) or not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise S3SettingsError(f"{uri} names no bucket; write s3://bucket/path")
    return bucket


def storage_options(settings: Settings, uri: str) -> dict[str, str]:
    """Options of the Delta library for `uri`: where, as whom, how long; nothing for a folder. Holds the secret.

    Names: https://delta-io.github.io/delta-rs/integrations/object-storage/special_configuration and object_store's
    AmazonS3ConfigKey, ClientConfigKey. Raises: S3SettingsError.
    """
    if not is_s3(uri):
        return {}
    bucket_of(uri)
    key, secret = _credentials(settings)
    options = {
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "aws_region": settings.s3_region,
        "aws_virtual_hosted_style_request": "false",
        # Two writers cannot both make version N: the server refuses the second PUT (If-None-Match: *).
        "aws_conditional_put": "etag",
        "allow_http": str(settings.s3_allow_http).lower(),
        "connect_timeout": f"{_CONNECT_SECONDS:g}s",
        "timeout": f"{settings.s3_timeout_seconds:g}s",
        "max_retries": str(_RETRIES),
        # No retry begins later than this: a server that hangs costs one timeout, not four.
        "retry_timeout": f"{settings.s3_timeout_seconds:g}s",
    }
    if settings.s3_session_token:
        options["aws_session_token"] = settings.s3_session_token.get_secret_value()
    if settings.s3_endpoint_url:
        options["aws_endpoint_url"] = _endpoint(settings)
    return options


def scan_options(options: Mapping[str, str]) -> dict[str, Any]:
    """What Polars needs beside the Delta table's own options: the retries under its names, as numbers."""
    if "max_retries" not in options:
        return {}
    milliseconds = round(float(options["retry_timeout"].removesuffix("s")) * 1_000)
    return {"max_retries": int(options["max_retries"]), "retry_timeout_ms": milliseconds}


@dataclass(frozen=True)
class Bucket:
    """A bucket that is there now, and whether this call made it."""

    name: str
    made: bool


def make_bucket(settings: Settings, name: str) -> Bucket:
    """Make the bucket; nothing happens where it is ours already.

    CreateBucket is one PUT to the bucket's root. obstore, which has no such call, signs it and httpx sends it: no
    S3 client is needed for a single request.
    Raises: BucketUnavailableError, BucketError, S3SettingsError.
    """
    import httpx  # noqa: PLC0415 - setup alone needs the two; whoever opens a store must not pay for them
    import obstore  # noqa: PLC0415

    store = _objects(settings, name)
    body = "" if settings.s3_region == "us-east-1" else _LOCATION.format(region=settings.s3_region)
    where = settings.s3_endpoint_url or "AWS"
    try:
        # The signed address is as good as a key for a minute: it must stand in no message.
        answer = httpx.put(
            obstore.sign(store, "PUT", "", _SIGNED_FOR),
            content=body,
            timeout=httpx.Timeout(settings.s3_timeout_seconds, connect=_CONNECT_SECONDS),
            trust_env=False,
        )
    except httpx.TransportError as error:
        raise BucketUnavailableError(f"the S3 server at {where} does not answer ({type(error).__name__})") from None
    code = found[1] if (found := re.search(r"<Code>(\w+)</Code>", answer.text)) else ""
    if answer.is_success or code == "BucketAlreadyOwnedByYou":
        return Bucket(name, made=answer.is_success)
    kind = BucketUnavailableError if answer.is_server_error else BucketError
    raise kind(f"the S3 server at {where} did not make bucket {name}: {answer.status_code} {code}".rstrip())


def empty_bucket(settings: Settings, name: str, *, mark: str) -> int:
    """Delete every object of the bucket but `mark`, an object by which a bucket says that it may be emptied.

    An empty bucket is marked; in one that holds other objects the mark must be there. Returns how many were deleted.
    Raises: BucketUnavailableError, BucketError (no mark, no bucket, no rights), S3SettingsError.
    """
    import obstore  # noqa: PLC0415 - as above
    from obstore import exceptions  # noqa: PLC0415

    store = _objects(settings, name)
    where = f"bucket {name} on the S3 server at {settings.s3_endpoint_url or 'AWS'}"
    try:
        paths = [found["path"] for page in obstore.list(store) for found in page]
        if not paths:
            obstore.put(store, mark, b"")
        elif mark not in paths:
            raise BucketError(f"{where} holds objects, and no {mark} that says they may be deleted; look at it")
        others = [path for path in paths if path != mark]
        if others:
            obstore.delete(store, others)
    # Their text may hold a signed address.
    except (exceptions.NotFoundError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise BucketError(f"{where} cannot be emptied ({type(error).__name__}); check its name and the keys") from None
    except exceptions.BaseError as error:
        raise BucketUnavailableError(f"{where} could not be emptied ({type(error).__name__})") from None
    return len(others)


def _objects(settings: Settings, name: str) -> "S3Store":
    from obstore.store import S3Store  # noqa: PLC0415 - as above

    bucket_of(f"{_S3}{name}")
    key, secret = _credentials(settings)
    options: dict[str, Any] = {
        "access_key_id": key,
        "secret_access_key": secret,
        "region": settings.s3_region,
        "virtual_hosted_style_request": False,
        "client_options": {"allow_http": settings.s3_allow_http, "timeout": f"{settings.s3_timeout_seconds:g}s"},
    }
    if settings.s3_session_token:
        options["session_token"] = settings.s3_session_token.get_secret_value()
    if settings.s3_endpoint_url:
        options["endpoint"] = _endpoint(settings)
    return S3Store(name, **options)


_LOCATION: Final = (
    '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
)


def _credentials(settings: Settings) -> tuple[str, str]:
    secret = settings.s3_secret_access_key.get_secret_value() if settings.s3_secret_access_key else ""
    if not settings.s3_access_key_id or not secret:
        raise S3SettingsError("S3 needs SIEIS_S3_ACCESS_KEY_ID and SIEIS_S3_SECRET_ACCESS_KEY")
    return settings.s3_access_key_id, secret


def _endpoint(settings: Settings) -> str:
    endpoint = settings.s3_endpoint_url.rstrip("/")
    if not re.fullmatch(r"https?://[^/@\s]+", endpoint):
        raise S3SettingsError("SIEIS_S3_ENDPOINT_URL must look like https://host:port, without credentials or path")
    if endpoint.startswith("http://") and not settings.s3_allow_http:
        raise S3SettingsError(f"{endpoint} speaks without TLS; set SIEIS_S3_ALLOW_HTTP=true if that is meant")
    return endpoint
