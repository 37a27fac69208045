"""The commits of the archive since a moment: what whoever looks at regular times has not seen yet.

Belongs here: the mark, and reading on from it. Not here: what is made of the commits (touched.py, fates.py).
"""

from typing import Final, NamedTuple

from sieis_platform.stores.archive import Archive
from sieis_platform.stores.log import LoggedCommit

#: Commits read in one call, one request each: 500 take about 5 s on an S3 server that answers in 10 ms.
_COMMITS: Final = 500


class Mark(NamedTuple):
    """A moment in the life of one table: an archive made anew under the same address has another id."""

    table: str
    version: int


class Since(NamedTuple):
    """`mark` is how far was looked; `commits` holds those after the mark before it, by version.

    `gap` is the newest version that the log no longer tells of, else None.
    """

    mark: Mark
    commits: dict[int, LoggedCommit]
    gap: int | None = None


def commits_since(archive: Archive, since: Mark | None) -> Since:
    """The commits after `since` (None, or a mark of another table: from the beginning).

    Those made while this runs come next time, and so do all beyond the first 500: then `mark` is not the newest
    version. Raises: ArchiveUnavailableError, LogUnavailableError, LogError, ArchiveError.
    """
    newest = archive.files()
    mark = Mark(newest.table_id, newest.version)
    known = since is not None and since.table == mark.table and since.version <= mark.version
    first = since.version + 1 if since is not None and known else 0
    if first > mark.version:
        return Since(mark, {})
    log = archive.log()
    held = [version for version in log.versions(first) if version <= mark.version]
    # Entries have no gap: what lies below the oldest was cleaned up.
    oldest = held[0] if held else mark.version + 1
    gap = oldest - 1 if oldest > first else None
    if len(held) > _COMMITS:
        held = held[:_COMMITS]
        mark = Mark(mark.table, held[-1])
    found: dict[int, LoggedCommit] = {}
    for version in held:
        commit = log.commit(version)
        if commit is None:
            gap = version
        else:
            found[version] = commit
    return Since(mark, found, gap)
