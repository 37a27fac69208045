"""What SIEIS needs in InfluxDB: organisation, buckets with their retention, a token that may use them and nothing else.

Belongs here: making and correcting that, any number of times. Not here: the command `sieis setup`.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import structlog

from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings
from sieis_platform.stores.hot import HotStoreError
from sieis_platform.stores.influx.client import InfluxClient
from sieis_platform.timeline import DAY_NS

log = structlog.get_logger(__name__)

_DAY_SECONDS: Final = DAY_NS // 1_000_000_000
_PAGE: Final = 100
#: How the token is found again; InfluxDB 2.7 shows the tokens it has to its operator.
_DESCRIPTION: Final = "sieis: reads and writes its own buckets"
_OPERATOR: Final = "sieis"


class ForeignBucketError(FatalError):
    """A bucket that is to be removed was made by somebody else."""


class Prepared(NamedTuple):
    """The token SIEIS works with (SIEIS_INFLUX_TOKEN), and how what was there differs from the settings."""

    token: str
    differences: list[str]


def prepare(settings: Settings, *, description: str = "", shorten_retention: bool = False) -> Prepared:
    """Make what is missing, and lengthen the retention of what is there; shorten it only with `shorten_retention`.

    What is older than a bucket's retention is deleted within half an hour, and nothing brings it back. An InfluxDB that
    nobody has set up yet is, with the operator token of the settings and a password that nobody keeps. Repeating it
    changes nothing and returns the same token. New buckets get `description`.

    Raises: HotStoreError (no address or operator token, or refused), HotStoreUnavailableError.
    """
    with _operating(settings) as (client, operator):
        _first_use(client, settings, operator)
        org = _organisation(client, settings.influx_org)
        wanted = {settings.influx_bucket: settings.hot_retention_days}
        days = settings.hot_hourly_retention_days
        wanted[settings.influx_hourly_bucket] = max(days, wanted.get(settings.influx_hourly_bucket, 0))
        there = {bucket["name"]: bucket for bucket in _pages(client, "/buckets", "buckets", {"orgID": org})}
        ids, differences = [], []
        for name, days in wanted.items():
            if (found := there.get(name)) is None:
                ids.append(_new_bucket(client, org, name, days, description))
                continue
            ids.append(found["id"])
            if difference := _retention(client, found, days, shorten=shorten_retention):
                differences.append(difference)
        return Prepared(_token(client, org, ids), differences)


def first_use(settings: Settings) -> None:
    """Set up an InfluxDB that nobody has set up yet, as `prepare` does; any other stays as it is.

    The bucket that comes with it belongs to whom these settings are.

    Raises: HotStoreError, HotStoreUnavailableError.
    """
    with _operating(settings) as (client, operator):
        _first_use(client, settings, operator)


def remove(settings: Settings, *, description: str) -> None:
    """Remove the buckets of the settings with all they hold, and the tokens made for them; missing ones are no error.

    Only buckets that `prepare` made with this `description` are removed.

    Raises: ForeignBucketError, HotStoreError, HotStoreUnavailableError.
    """
    with _operating(settings) as (client, _operator):
        if client.api("GET", "/setup")["allowed"]:
            return  # nobody has set it up: it holds nothing
        org = _organisation(client, settings.influx_org)
        names = (settings.influx_bucket, settings.influx_hourly_bucket)
        found = [bucket for bucket in _pages(client, "/buckets", "buckets", {"orgID": org}) if bucket["name"] in names]
        for bucket in found:
            if bucket.get("description", "") != description:
                raise ForeignBucketError(
                    f"InfluxDB at {client.address} has a bucket {bucket['name']} that is not {description}; "
                    "delete or rename it if nobody needs it"
                )
        gone = {bucket["id"] for bucket in found}
        for token in client.api("GET", "/authorizations", params={"orgID": org})["authorizations"]:
            if token["description"] == _DESCRIPTION and gone & {
                one["resource"].get("id") for one in token["permissions"]
            }:
                client.api("DELETE", f"/authorizations/{token['id']}")
        for bucket in found:
            client.api("DELETE", f"/buckets/{bucket['id']}")


@contextmanager
def _operating(settings: Settings) -> Iterator[tuple[InfluxClient, str]]:
    """A client that may do everything, and its token."""
    if not settings.influx_url or settings.influx_admin_token is None:
        raise HotStoreError("setting up InfluxDB needs SIEIS_INFLUX_URL and SIEIS_INFLUX_ADMIN_TOKEN")
    operator = settings.influx_admin_token.get_secret_value()
    client = InfluxClient(
        settings.influx_url, org=settings.influx_org, token=operator, timeout_seconds=settings.influx_timeout_seconds
    )
    try:
        yield client, operator
    finally:
        client.close()


def _first_use(client: InfluxClient, settings: Settings, operator: str) -> None:
    if client.api("GET", "/setup")["allowed"]:
        client.api(
            "POST",
            "/setup",
            body={
                "username": _OPERATOR,
                "password": secrets.token_urlsafe(24),
                "org": settings.influx_org,
                "bucket": settings.influx_bucket,
                "retentionPeriodSeconds": settings.hot_retention_days * _DAY_SECONDS,
                "token": operator,
            },
        )
        log.info("InfluxDB set up", address=client.address, org=settings.influx_org, operator=_OPERATOR)


def _organisation(client: InfluxClient, name: str) -> str:
    # Asked for by name a missing one is a 404; the list is short.
    for org in _pages(client, "/orgs", "orgs", {}):
        if org["name"] == name:
            return org["id"]
    log.info("organisation made", org=name)
    return client.api("POST", "/orgs", body={"name": name})["id"]


def _new_bucket(client: InfluxClient, org: str, name: str, days: int, description: str) -> str:
    """The id of a bucket made now, with a retention of `days`."""
    log.info("bucket made", bucket=name, days=days)
    body = {"orgID": org, "name": name, "description": description, "retentionRules": [_rule(days)]}
    return client.api("POST", "/buckets", body=body)["id"]


def _retention(client: InfluxClient, bucket: dict[str, Any], days: int, *, shorten: bool) -> str:
    """Give the bucket a retention of `days` if that keeps more, or with `shorten`; else how it differs."""
    kept = [rule["everySeconds"] for rule in bucket["retentionRules"] if rule["everySeconds"]]
    seconds = min(kept, default=None)  # no rule, or one of 0 s: for ever
    if seconds == days * _DAY_SECONDS:
        return ""
    if not shorten and (seconds is None or seconds > days * _DAY_SECONDS):
        keeps = "for ever" if seconds is None else f"for {seconds / _DAY_SECONDS:g} days"
        return (
            f"bucket {bucket['name']} keeps its data {keeps}, the settings say {days} days; `sieis setup "
            "--shorten-retention` deletes what is older"
        )
    log.warning("retention of a bucket changed", bucket=bucket["name"], seconds_before=seconds, days=days)
    client.api("PATCH", f"/buckets/{bucket['id']}", body={"retentionRules": [_rule(days)]})
    return ""


def _rule(days: int) -> dict[str, object]:
    return {"type": "expire", "everySeconds": days * _DAY_SECONDS}


def _token(client: InfluxClient, org: str, buckets: list[str]) -> str:
    wanted = {(action, bucket) for bucket in dict.fromkeys(buckets) for action in ("read", "write")}
    for found in client.api("GET", "/authorizations", params={"orgID": org})["authorizations"]:
        granted = {(one["action"], one["resource"].get("id")) for one in found["permissions"]}
        if (
            found["description"] == _DESCRIPTION
            and found["status"] == "active"
            and granted == wanted
            and found["token"]
        ):
            return found["token"]
    permissions = [
        {"action": action, "resource": {"type": "buckets", "id": bucket, "orgID": org}}
        for action, bucket in sorted(wanted)
    ]
    body = {"orgID": org, "description": _DESCRIPTION, "permissions": permissions}
    log.info("token made", permissions=len(permissions))
    return client.api("POST", "/authorizations", body=body)["token"]


def _pages(client: InfluxClient, path: str, key: str, params: dict[str, str | int]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = client.api("GET", path, params={**params, "limit": _PAGE, "offset": len(found)})[key]
        found += page
        if len(page) < _PAGE:
            return found
