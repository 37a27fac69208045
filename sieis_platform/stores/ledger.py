"""The ledger: what became of every position, and which rows were taken out again; its copy for when the log is gone.

Belongs here: the entries, how commits carry them, the mart they are copied to. Not here: the audit (analysis.ledger).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import polars as pl

from sieis_platform.stores.log import LoggedCommit
from sieis_platform.stores.marts import Marts
from sieis_platform.timeline import DAY_NS

LEDGER_KEY: Final = "sieis.ledger"
REMOVED_KEY: Final = "sieis.removed"
#: Name of the mart. Unlike the others it cannot be rebuilt once the archive's log was cleaned up: it needs a backup.
LEDGER_MART: Final = "ledger"


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the positions `start` .. `end`-1 of one app transaction in one commit.

    For the stream a position is an offset and start + stored + duplicates + dead + lost == end. For history it is a
    byte offset, and the counts are of lines.
    """

    app: str
    start: int
    end: int
    stored: int
    duplicates: int = 0
    dead: int = 0
    lost: int = 0
    skipped: int = 0
    version: int | None = None


def of_a_file(app: str) -> bool:
    """Whether it is a load (`history/{fingerprint}`) or backfill of a file; the stream's names have two slashes."""
    return app.count("/") == 1 and app.startswith(("history/", "backfill/"))


def counts_positions(app: str) -> bool:
    """Whether the ledger accounts for it: the stream's (`{topic}/{incarnation}/{partition}`) and those of files.

    Others are marks (of days moved, of corrections, of files loaded to their end): a topic's name has no slash.
    """
    return app.count("/") == 2 or of_a_file(app)


class RemovedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one source and partition that one commit took out of the table, and why; below zero: put back again."""

    source: str
    source_partition: int
    rows: int
    reason: str
    version: int | None = None


class Ledger(NamedTuple):
    """Both sides of the ledger, ascending by version."""

    entries: list[LedgerEntry]
    removed: list[RemovedEntry]


def of_commits(commits: Iterable[Mapping[str, Any]]) -> Ledger:
    """The ledger that these commits carry (as the library's `history` gives them, with their true versions)."""
    ledger = Ledger([], [])
    for commit in sorted(commits, key=lambda one: one["version"]):
        ledger.entries.extend(_decoded(commit, LEDGER_KEY, LedgerEntry))
        ledger.removed.extend(_decoded(commit, REMOVED_KEY, RemovedEntry))
    return ledger


def ledger_in(commits: Mapping[int, LoggedCommit]) -> list[LedgerEntry]:
    """The ledger entries of commits read from the log one by one, by version; ascending."""
    return of_commits({**commit.told, "version": version} for version, commit in commits.items()).entries


_Entry = TypeVar("_Entry", LedgerEntry, RemovedEntry)


def _decoded(commit: Mapping[str, Any], key: str, kind: type[_Entry]) -> list[_Entry]:
    if not (text := commit.get(key)):
        return []
    decoded = msgspec.json.decode(text, type=list[kind])
    return [msgspec.structs.replace(entry, version=commit["version"]) for entry in decoded]


_COUNTS: Final = ("start", "end", "stored", "duplicates", "dead", "lost", "skipped")
LEDGER_SCHEMA: Final = pl.Schema(
    {
        "table_id": pl.String(),
        "version": pl.Int64(),
        "committed_at": pl.Int64(),
        "operation": pl.String(),
        "kind": pl.String(),
        "app": pl.String(),
        **dict.fromkeys(_COUNTS, pl.Int64()),
        "source": pl.String(),
        "source_partition": pl.Int32(),
        "rows": pl.Int64(),
        "reason": pl.String(),
    }
)
"""Columns of the mart: a row of kind `commit` for every version, one of kind `entry` for every ledger entry (`app` and
its counts), one of kind `removed` for every removal (`source`, `source_partition`, `rows`, `reason`). `committed_at` is
Unix ns, `table_id` the archive's own id: a table made again begins a ledger of its own."""


class Copied(NamedTuple):
    """One app transaction in the copy: its entries summed to one, and how many positions these account for."""

    entry: LedgerEntry
    positions: int


def _entries(found: pl.DataFrame) -> list[LedgerEntry]:
    return msgspec.convert(found.select("app", *_COUNTS, "version").to_dicts(), list[LedgerEntry])


class LedgerCopy:
    """The mart that the ledger is copied to before the archive's log is cleaned up."""

    def __init__(self, marts: Marts) -> None:
        self._marts = marts

    def covered(self, table_id: str) -> int:
        """Newest version up to which every commit of the table was copied; -1 for none.

        Raises: MartUnavailableError, MartError.
        """
        if not self._marts.exists(LEDGER_MART):
            return -1
        versions = self._scan(table_id).filter(kind="commit").select(pl.col("version").unique().sort())
        with self._marts.reading(LEDGER_MART):
            found = versions.collect().to_series()
        # Versions count from 0 without a gap: the first that is not where it should be ends what is covered.
        return int((found == pl.int_range(found.len(), eager=True)).cum_prod().sum()) - 1

    def read(self, table_id: str, below: int) -> Ledger:
        """What was copied of the versions below `below`. Raises: MartUnavailableError, MartError."""
        if not self._marts.exists(LEDGER_MART):
            return Ledger([], [])
        # Two copies made at the same moment wrote the same rows: one of each counts.
        rows = self._scan(table_id).filter(pl.col("version") < below, pl.col("kind") != "commit").unique()
        with self._marts.reading(LEDGER_MART):
            found = rows.sort("version", "app", "source", "source_partition").collect()
        removed = found.filter(kind="removed").select("source", "source_partition", "rows", "reason", "version")
        return Ledger(
            _entries(found.filter(kind="entry")),
            msgspec.convert(removed.to_dicts(), list[RemovedEntry]),
        )

    def of_span(
        self, table_id: str, below: int, start_ns: int, end_ns: int
    ) -> tuple[list[LedgerEntry], dict[int, int]]:
        """What was copied of the versions below `below` that were committed in start_ns <= time < end_ns (Unix ns).

        One entry an app transaction and UTC day, its counts summed, and when the version it names was committed.
        Raises: MartUnavailableError, MartError.
        """
        if not self._marts.exists(LEDGER_MART):
            return [], {}
        inside = pl.col("committed_at").is_between(start_ns, end_ns, closed="left") & (pl.col("version") < below)
        found = self._summed(self._scan(table_id).filter(inside), "app", pl.col("committed_at") // DAY_NS)
        return _entries(found), dict(found.select("version", "newest").iter_rows())

    def of_apps(self, table_id: str, below: int, apps: Sequence[str]) -> dict[str, Copied]:
        """What was copied of some app transactions in the versions below `below`, by app.

        Raises: MartUnavailableError, MartError.
        """
        if not self._marts.exists(LEDGER_MART):
            return {}
        named = pl.col("app").is_in(list(apps)) & (pl.col("version") < below)
        found = self._summed(self._scan(table_id).filter(named), "app")
        return {entry.app: Copied(entry, told) for entry, told in zip(_entries(found), found["positions"], strict=True)}

    def _summed(self, rows: pl.LazyFrame, *by: str | pl.Expr) -> pl.DataFrame:
        # Two copies made at the same moment wrote the same rows: one of each counts.
        summed = (
            rows.filter(kind="entry")
            .select("app", *_COUNTS, "version", "committed_at")
            .unique()
            .group_by(*by)
            .agg(
                pl.col("start").min(),
                pl.col("end").max(),
                pl.col(_COUNTS[2:]).sum(),
                pl.col("version").max(),
                pl.col("committed_at").max().alias("newest"),
                (pl.col("end") - pl.col("start")).sum().alias("positions"),
            )
        )
        with self._marts.reading(LEDGER_MART):
            return summed.collect()

    def add(self, table_id: str, commits: Sequence[Mapping[str, Any]]) -> int:
        """Copy the commits that are not covered yet; how many there were.

        Raises: MartUnavailableError, MartError.
        """
        covered = self.covered(table_id)
        new = [commit for commit in commits if commit["version"] > covered]
        if not new:
            return 0
        ledger = of_commits(new)
        moments = {commit["version"]: commit["timestamp"] * 1_000_000 for commit in new}  # ms to ns
        operations = {commit["version"]: commit["operation"] for commit in new}
        records = [
            *({"kind": "commit", "version": version} for version in sorted(moments)),
            *({"kind": "entry", **msgspec.structs.asdict(entry)} for entry in ledger.entries),
            *({"kind": "removed", **msgspec.structs.asdict(entry)} for entry in ledger.removed),
        ]
        for record in records:
            record |= {
                "table_id": table_id,
                "committed_at": moments[record["version"]],
                "operation": operations[record["version"]],
            }
        self._marts.append(LEDGER_MART, pl.DataFrame(records, schema=LEDGER_SCHEMA))
        return len(new)

    def _scan(self, table_id: str) -> pl.LazyFrame:
        return self._marts.scan(LEDGER_MART).filter(table_id=table_id)
