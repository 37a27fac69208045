"""What can go wrong with the archive's tables, and the library's errors turned into it.

Belongs here: the errors. Not here: the tables (archive, cold).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.stores.delta import translated
from sieis_platform.stores.files import forget


class ArchiveUnavailableError(RetriableError):
    """The archive does not answer or could not be written (disk full, S3 down); the same call may succeed later."""


class ArchiveError(FatalError):
    """The archive is not what it should be (foreign schema, broken log); a person must look."""


class FenceError(ArchiveError):
    """A position in the table is not where this writer left it: another writer was here, or this one is stale."""

    def __init__(self, app_id: str, expected: int | None, found: int | None) -> None:
        self.app_id, self.expected, self.found = app_id, expected, found
        super().__init__(
            f"the archive holds {app_id} at {found}, this writer expected {expected}: another writer was here"
        )


class VersionGoneError(ArchiveError):
    """A version was asked for whose log entry or files were cleaned up: it was older than the horizon of the vacuum."""


class LedgerGapError(ArchiveError):
    """A part of the ledger is neither in the log nor in its copy."""


class ColdTierError(ArchiveError):
    """Days lie in the cold table, and it is not named by the settings, not there, or not the one they were moved to."""


@contextmanager
def archive_translated(
    uri: str, what: str = "archive", missing: str = "run `sieis load FILE` or `sieis consume` first"
) -> Iterator[None]:
    """Turn the library's errors into ours; CommitFailedError passes, whoever commits decides about it."""
    try:
        with translated(what, uri, unavailable=ArchiveUnavailableError, fatal=ArchiveError, missing=missing):
            yield
    except ArchiveUnavailableError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            forget(uri)
            raise VersionGoneError(
                f"a file of the {what} at {uri} is gone: the version read is older than the horizon of the vacuum, or "
                f"the file was deleted by other means; read the newest version ({error.__cause__})"
            ) from error
        raise
