"""From settings to stores: the one place that decides which hot store, archive and marts an installation has.

Belongs here: that choice. Nothing is connected, read or created until a store is used.
"""

from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.hot import HotStore
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.s3 import storage_options
from sieis_platform.stores.sqlite import SqliteHotStore


def open_hot(settings: Settings) -> HotStore:
    """The hot store of this installation."""
    return SqliteHotStore(
        settings.hot_path,
        retention_days=settings.hot_retention_days,
        piece_seconds=settings.hot_piece_milliseconds / 1000,
    )


def open_archive(settings: Settings) -> Archive:
    """The archive of this installation; one instance for one thread. Raises: S3SettingsError."""
    uri = settings.archive_location
    return Archive(uri, storage_options(settings, uri), mote_folders=settings.archive_mote_folders)


def open_marts(settings: Settings) -> Marts:
    """The marts of this installation. Raises: S3SettingsError."""
    return Marts(settings.marts_location, storage_options(settings, settings.marts_location))
