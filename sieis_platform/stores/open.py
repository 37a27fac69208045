"""From settings to stores: the one place that decides which hot store, archive and marts an installation has.

Belongs here: that choice. Nothing is connected, read or created until a store is used.
"""

from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.cold import Cold
from sieis_platform.stores.hot import HotStore, HotStoreError
from sieis_platform.stores.influx import InfluxClient, InfluxHotStore
from sieis_platform.stores.ledger import LedgerCopy
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.s3 import storage_options
from sieis_platform.stores.sqlite import SqliteHotStore


def open_hot(settings: Settings) -> HotStore:
    """The hot store of this installation. Raises: HotStoreError where its settings are incomplete."""
    if settings.hot_store == "influx":
        return _open_influx(settings)
    return SqliteHotStore(
        settings.hot_path,
        retention_days=settings.hot_retention_days,
        hourly_retention_days=settings.hot_hourly_retention_days,
        piece_seconds=settings.hot_piece_milliseconds / 1000,
    )


def open_archive(settings: Settings) -> Archive:
    """The archive of this installation; one instance for one thread. Raises: S3SettingsError."""
    uri = settings.archive_location
    return Archive(
        uri,
        storage_options(settings, uri),
        mote_folders=settings.archive_mote_folders,
        ledger_copy=LedgerCopy(open_marts(settings)),
        cold=Cold(settings.archive_cold_uri, storage_options(settings, settings.archive_cold_uri)),
    )


def open_marts(settings: Settings) -> Marts:
    """The marts of this installation. Raises: S3SettingsError."""
    return Marts(settings.marts_location, storage_options(settings, settings.marts_location))


def _open_influx(settings: Settings) -> HotStore:
    if settings.influx_token is None:
        raise HotStoreError("SIEIS_INFLUX_URL is set but SIEIS_INFLUX_TOKEN is not; `sieis setup` makes a token")
    client = InfluxClient(
        settings.influx_url,
        org=settings.influx_org,
        token=settings.influx_token.get_secret_value(),
        timeout_seconds=settings.influx_timeout_seconds,
        compress=settings.influx_compress,
    )
    return InfluxHotStore(
        client,
        bucket=settings.influx_bucket,
        hourly_bucket=settings.influx_hourly_bucket,
        retention_days=settings.hot_retention_days,
        hourly_retention_days=settings.hot_hourly_retention_days,
        request_rows=settings.influx_request_rows,
    )
