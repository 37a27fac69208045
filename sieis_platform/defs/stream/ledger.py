"""What a sensor has not yet seen of the archive's ledger: dead letters and losses of the stream, exactly once each.

Belongs here: reading on from its last look, and saying where they were. Not here: who is told of them, and when.

The consumers' own counters begin at 0 with each process: what one counted between the last look and its end is in no
difference of two of them.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import polars as pl

from sieis_platform.stores.archive import Archive
from sieis_platform.stores.ledger import LedgerEntry, ledger_in, of_a_file
from sieis_platform.stores.since import Mark, commits_since

_LISTED: Final = 12


class Seen(NamedTuple):
    """`mark` is how far was looked, `entries` are the stream's since the mark before it, `gap` as of commits_since."""

    mark: Mark
    entries: list[LedgerEntry]
    gap: int | None


def stream_since(archive: Archive, since: Mark | None) -> Seen:
    """The stream's ledger entries after `since`; those of files are not its. Cost and errors: as `commits_since`."""
    found = commits_since(archive, since)
    return Seen(found.mark, [one for one in ledger_in(found.commits) if not of_a_file(one.app)], found.gap)


def places(entries: Sequence[LedgerEntry], fate: str) -> pl.DataFrame:
    """One row for each partition with positions of a fate (`dead`, `lost`): partition, records, first and last offset.

    `partition` is `topic/incarnation/number`; the records lie among those offsets.
    """
    rows = [(one.app, getattr(one, fate), one.start, one.end - 1) for one in entries if getattr(one, fate)]
    schema = {"partition": pl.String, "records": pl.Int64, "first_offset": pl.Int64, "last_offset": pl.Int64}
    return (
        pl.DataFrame(rows, schema=schema, orient="row")
        .group_by("partition")
        .agg(pl.col("records").sum(), pl.col("first_offset").min(), pl.col("last_offset").max())
        .sort("partition")
    )


def told_of_places(found: pl.DataFrame) -> str:
    """The rows of `places` as text, the first of them."""
    lines = [
        f"{records:,} in {partition} among offsets {first:,} to {last:,}"
        for partition, records, first, last in found.head(_LISTED).iter_rows()
    ]
    more = found.height - len(lines)
    return "; ".join([*lines, *([f"and in {more} more partitions"] if more > 0 else [])])


def gap_text(gap: int) -> str:
    """What is said where the log no longer tells of all since the last look."""
    return (
        f"the archive's log no longer tells of versions up to {gap}: what they hold of dead letters and losses was not "
        "looked at, `sieis verify` counts them"
    )
