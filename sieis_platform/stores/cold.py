"""The cold table: whole days of the archive in a second Delta table, and which of its versions the live one goes with.

Belongs here: how the two hold together, and commits to the cold one. Not here: which days move and when (tiers,
defs.archive), reading rows (archive).

The live table says where its moved days are. Its properties name the cold table and the last day that may lie there;
the app transaction `cold` in its log is the version of the cold table that goes with it (0: the empty one). Every
reader opens exactly that version, so that rows change tables in one commit, that of the live table: what a killed run
has written to the cold table before is nowhere to be seen, and undone by the next.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from sieis_platform import crash
from sieis_platform.stores.archive_errors import ColdTierError, archive_translated
from sieis_platform.stores.archive_layout import ARCHIVE_SCHEMA, PROPERTIES, WRITER, in_layout
from sieis_platform.stores.delta import KEEP_LOG, Cleaned, clean, create_empty
from sieis_platform.stores.files import TableFiles

#: The app transaction in the live table: version of the cold table that holds what the live one no longer does.
COLD_APP: Final = "cold"
#: Properties of the live table: id of the cold table, and the last day that any row was ever moved of.
_TABLE: Final = "sieis.cold.table"
_UNTIL: Final = "sieis.cold.until"
#: Description of the cold table: whose days it holds. (The library refuses properties of our own when it makes one.)
_OF: Final = "Days of the archive {identity}, which is where they are read"

# Exactly the next version or none: a commit that is put on top of another's would take the rows of that one with it.
_ALONE: Final = CommitProperties(max_commit_retries=0)


class UnsettledError(CommitFailedError):
    """The cold table held what another run had not finished. It was undone: load the live table anew and look again.

    A CommitFailedError, because whoever commits to the archive answers that by doing just so.
    """


class Cold:
    """The cold table at `uri` (a folder or s3://), or none where it is empty. One instance for one thread."""

    def __init__(self, uri: str = "", storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri
        self.storage_options = dict(storage_options or {})
        self._opened: TableFiles | None = None
        self._known: tuple[tuple[str, int], TableFiles | None] | None = None  # of one version of the live table

    # -- reads -------------------------------------------------------------------------------------------------------
    def version(self, live: DeltaTable, first: dt.date | None = None) -> int:
        """The version of the cold table that goes with `live`; 0 where no row of `first` or later lies there.

        For days after the last that was moved nothing is read. Raises: ArchiveUnavailableError, ArchiveError.
        """
        if not _reaches(live.metadata().configuration, first):
            return 0
        with archive_translated(live.table_uri):
            return live.transaction_version(COLD_APP) or 0

    def at(self, live: DeltaTable, first: dt.date | None = None) -> TableFiles | None:
        """The cold table at that version; None where no row of `first` or later lies there.

        Raises: ColdTierError, ArchiveUnavailableError, ArchiveError.
        """
        version = self.version(live, first)
        if not version:
            return None
        held = live.metadata().configuration.get(_TABLE)
        if self._opened is None or (self._opened.table_id, self._opened.version) != (held, version):
            table = self._open(live, version)
            with self._translated():
                self._opened = TableFiles.of(table)
        return self._opened

    def files(
        self, live: TableFiles, opened: Callable[[], DeltaTable], first: dt.date | None = None
    ) -> TableFiles | None:
        """The same for the files of a live table, which `opened` opens at their version where that is needed."""
        if not _reaches(live.properties, first):
            return None
        key = live.table_id, live.version
        if self._known is None or self._known[0] != key:
            self._known = key, self.at(opened())
        return self._known[1]

    def check(self, live: DeltaTable) -> None:
        """Raises: ColdTierError where days were moved and the settings name no cold table."""
        if not self.uri and self.version(live):
            until = moved_until(live.metadata().configuration)
            raise ColdTierError(
                f"days of the archive at {live.table_uri} up to {until} lie in a cold table, but "
                "SIEIS_ARCHIVE_COLD_URI is not set: set it to where they are (`sieis cold return` brings them back)"
            )

    # -- writes ------------------------------------------------------------------------------------------------------
    def begin(self, live: DeltaTable, until: dt.date) -> None:
        """Make the cold table where it is missing, and have `live` name it and reach to `until`; twice is like once.

        Raises: ColdTierError (another archive's, or not the one days were moved to before), CommitFailedError (another
        commit was faster), ArchiveUnavailableError, ArchiveError.
        """
        if not self.uri:
            raise ColdTierError("no day can be moved: SIEIS_ARCHIVE_COLD_URI is not set")
        identity = str(live.metadata().id)
        if self.version(live):
            cold = self._open(live)
        else:
            with self._translated():
                create_empty(
                    self.uri,
                    ARCHIVE_SCHEMA,
                    partition_by=live.metadata().partition_columns,
                    name="sensor_readings_cold",
                    description=_OF.format(identity=identity),
                    storage_options=self.storage_options,
                    configuration=PROPERTIES,
                )
                cold = DeltaTable(self.uri, storage_options=self.storage_options)
        if cold.metadata().description != _OF.format(identity=identity):
            raise ColdTierError(
                f"the table at {self.uri} holds days of another archive than the one at {live.table_uri}; set "
                "SIEIS_ARCHIVE_COLD_URI to an empty place (an archive made anew needs a new one)"
            )
        held = live.metadata().configuration
        wanted = {_TABLE: str(cold.metadata().id), _UNTIL: max(until, moved_until(held) or until).isoformat()}
        if any(held.get(name) != value for name, value in wanted.items()):
            with archive_translated(live.table_uri):
                live.alter.set_table_properties(wanted, raise_if_not_exists=False, post_commithook_properties=KEEP_LOG)
        crash.point("cold.after_begin")

    def settled(self, live: DeltaTable) -> DeltaTable:
        """The cold table to commit to: its newest version holds exactly what `live` says.

        Where it does not, a run was killed between its two commits, or is between them now: its commit is undone, and
        `live` gets a commit that it would conflict with. Raises: UnsettledError then; CommitFailedError, ColdTierError,
        ArchiveUnavailableError, ArchiveError.
        """
        newest = self._open(live)
        version = self.version(live)
        if newest.version() == version:
            return newest
        told = self._open(live, version)
        if set(newest.file_uris()) == set(told.file_uris()):
            return newest  # vacuum and properties make versions too
        with self._translated():
            newest.restore(version)
        crash.point("cold.after_restore")
        with archive_translated(live.table_uri):
            write_deltalake(
                live,
                pl.DataFrame(schema=ARCHIVE_SCHEMA),
                mode="append",
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(COLD_APP, _version_of(newest))], max_commit_retries=100
                ),
                post_commithook_properties=KEEP_LOG,
            )
        raise UnsettledError(f"what another run had left in the cold table at {self.uri} was undone")

    def put(self, cold: DeltaTable, rows: pl.DataFrame, predicate: str) -> dict[str, int]:
        """Put `rows` in place of what a `settled` table holds of `predicate`.

        Returns the app transactions of the commit by which the live table lets go of those rows; without it nothing has
        happened. Raises: CommitFailedError, ArchiveUnavailableError, ArchiveError.
        """
        with self._translated():
            write_deltalake(
                cold,
                in_layout(rows),
                mode="overwrite",
                predicate=predicate,
                writer_properties=WRITER,
                commit_properties=_ALONE,
                post_commithook_properties=KEEP_LOG,
            )
        crash.point("cold.after_cold")
        return {COLD_APP: _version_of(cold)}

    def without(self, live: DeltaTable, first: dt.date | None, predicate: str) -> dict[str, int]:
        """Take what `predicate` names, of `first` and later, out of the cold table.

        Returns the app transactions of the commit by which the live table takes those rows over, or accounts for them;
        none where the cold table has no such row. Raises: as `settled`.
        """
        self.check(live)
        if not self.version(live, first):
            return {}
        cold = self.settled(live)
        before = cold.version()
        with self._translated():
            cold.delete(
                predicate, writer_properties=WRITER, commit_properties=_ALONE, post_commithook_properties=KEEP_LOG
            )
        if cold.version() == before:
            return {}
        crash.point("cold.after_cold")
        return {COLD_APP: _version_of(cold)}

    def vacuum(self, live: DeltaTable, horizon_hours: int) -> Cleaned:
        """Delete files that no version younger than the horizon needs.

        The log stays: the live table may name any version of it. Of 42 motes a year of it is 20 MB, because no
        checkpoint is written beyond the library's own, every 100 commits: opening the table on an S3 server takes
        60 ms right after one, 170 ms before the next. Raises: as `settled`.
        """
        self.check(live)
        if not self.uri or moved_until(live.metadata().configuration) is None:
            return Cleaned(0, 0)
        cold = self.settled(live)
        with self._translated():
            return clean(cold, horizon_hours, log=False)

    def _open(self, live: DeltaTable, version: int | None = None) -> DeltaTable:
        self.check(live)
        with self._translated():
            try:
                table = DeltaTable(self.uri, version=version, storage_options=self.storage_options)
            except DeltaError:
                if version is None:
                    raise
                newest = self._open(live).version()  # another table has other versions: this says so
                if newest >= version:
                    raise
                raise ColdTierError(
                    f"the cold archive at {self.uri} ends at version {newest}, but the archive at {live.table_uri} "
                    f"goes with version {version}: restore both from one backup, the cold one not older than the live"
                ) from None
        held = live.metadata().configuration.get(_TABLE)
        if str(table.metadata().id) != held:
            raise ColdTierError(
                f"the table at {self.uri} is not the one that days of the archive at {live.table_uri} were moved to "
                f"({held}): set SIEIS_ARCHIVE_COLD_URI to where that is, or restore it from a backup"
            )
        return table

    def _translated(self) -> AbstractContextManager[None]:
        return archive_translated(
            self.uri,
            "cold archive",
            "days of the archive were moved to it: set SIEIS_ARCHIVE_COLD_URI to where it is, or restore it from a "
            "backup",
        )


def moved_until(properties: Mapping[str, str]) -> dt.date | None:
    """The last day of which rows may lie in the cold table, by the live table's properties; None: none ever moved."""
    text = properties.get(_UNTIL)
    return dt.date.fromisoformat(text) if text else None


def _reaches(properties: Mapping[str, str], first: dt.date | None) -> bool:
    """Whether rows of `first` or later may lie in the cold table."""
    until = moved_until(properties)
    return until is not None and (first is None or first <= until)


def _version_of(cold: DeltaTable) -> int:
    """How the live table names this version: an empty table is never opened."""
    return cold.version() if cold.file_uris() else 0
