"""What became of positions: in a span of time, of a file. Read without the rest of the ledger.

Belongs here: which commits and which rows of the copy such a question needs. Not here: the whole ledger
(archive.books), what is new in it (since.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

from sieis_platform.stores.archive import Archive
from sieis_platform.stores.ledger import LedgerEntry, ledger_in, of_a_file, of_commits


class Fates(NamedTuple):
    """Ledger entries, and when the versions they name were committed (Unix ns, by the writer's clock)."""

    entries: list[LedgerEntry]
    committed: dict[int, int]


def stream_fates(archive: Archive, start_ns: int, end_ns: int) -> Fates:
    """What became of the stream's positions in the commits made in start_ns <= time < end_ns.

    From the log; for what it no longer holds from the copy, where an app transaction and UTC day is one entry. The cost
    is that of the span, and a pass over one column of the copy where the span begins before the log does.

    Raises: ArchiveUnavailableError, ArchiveError, LogUnavailableError, LogError, MartUnavailableError, MartError.
    """
    files = archive.files()
    span = archive.log().between(files.version, start_ns, end_ns)
    fates = Fates(ledger_in(span.commits), {version: one.committed_at for version, one in span.commits.items()})
    if span.begins and archive.ledger_copy is not None:
        entries, committed = archive.ledger_copy.of_span(files.table_id, span.begins, start_ns, end_ns)
        fates = Fates(entries + fates.entries, committed | fates.committed)
    return Fates([entry for entry in fates.entries if not of_a_file(entry.app)], fates.committed)


def file_fates(archive: Archive, apps: Sequence[str]) -> list[LedgerEntry]:
    """What became of files, one entry for each app transaction (`history/{fingerprint}`) that has any: its sums.

    A file is accounted for as far as the table's position says. Where the copy tells of as many positions, the log is
    not read, which reaches back as far as the vacuum leaves it.

    Raises: as `stream_fates`.
    """
    if not apps:
        return []
    table_id, positions = archive.files().table_id, archive.positions()
    copy = archive.ledger_copy
    copied = {} if copy is None else copy.of_apps(table_id, archive.version() + 1, apps)
    whole = {app: one.entry for app, one in copied.items() if one.positions == positions.get(app)}
    if open_apps := [app for app in apps if app in positions and app not in whole]:
        commits = archive.commits()
        logged = [entry for entry in of_commits(commits).entries if entry.app in open_apps]
        if copy is not None and (begins := commits[-1]["version"]):
            logged += [one.entry for one in copy.of_apps(table_id, begins, open_apps).values()]
        for entry in logged:
            whole[entry.app] = entry if entry.app not in whole else _sum(whole[entry.app], entry)
    return list(whole.values())


def _sum(one: LedgerEntry, other: LedgerEntry) -> LedgerEntry:
    return LedgerEntry(
        app=one.app,
        start=min(one.start, other.start),
        end=max(one.end, other.end),
        stored=one.stored + other.stored,
        duplicates=one.duplicates + other.duplicates,
        dead=one.dead + other.dead,
        lost=one.lost + other.lost,
        skipped=one.skipped + other.skipped,
        version=max(one.version or 0, other.version or 0),
    )
