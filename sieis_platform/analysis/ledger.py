"""The ledger audited: does every position have exactly one fate, and does the table hold exactly what the ledger says?

Belongs here: the comparison. Not here: reading the ledger or the table (stores.archive).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from sieis_platform.stores.archive import Archive
from sieis_platform.stores.ledger import LedgerEntry, RemovedEntry, of_a_file


@dataclass
class Account:
    """What became of the positions of one source and partition; stored - removed is what the table should hold."""

    source: str
    partition: int
    end: int = 0
    stored: int = 0
    duplicates: int = 0
    dead: int = 0
    lost: int = 0
    skipped: int = 0
    removed: int = 0
    rows: int = 0
    backfilled: bool = False  # then rows may lie beyond `end`, which is where a load of the file stands

    @property
    def kept(self) -> int:
        """Rows that the ledger says the table holds."""
        return self.stored - self.removed


@dataclass
class Audit:
    """Result of `sieis verify`: clean where `findings` is empty."""

    accounts: list[Account] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def rows_by_source(archive: pl.LazyFrame) -> pl.DataFrame:
    """Rows and distinct offsets per (source, source_partition) of the whole table."""
    return (
        archive.group_by("source", "source_partition")
        .agg(
            pl.len().alias("rows"),
            pl.col("source_offset").n_unique().alias("distinct"),
            pl.col("source_offset").max().alias("last"),
        )
        .collect(engine="streaming")
    )


def audit_archive(archive: Archive) -> Audit:
    """Audit the archive at its newest version; a writer may be at work meanwhile. Raises: as Archive.table."""
    table = archive.table()
    books = archive.books(table)
    positions = {app: archive.position(app, table) for app in {entry.app for entry in books.entries}}
    with archive.reading():
        rows = rows_by_source(archive.scan_table(table))
    return audit(books.entries, rows, positions, books.removed)


def account_key(app: str) -> tuple[str, int]:
    """The (source, source_partition) of the rows that an app transaction commits."""
    if of_a_file(app):
        return f"history:{app.partition('/')[2]}", 0
    _topic, incarnation, partition = app.rsplit("/", 2)
    return f"stream:{incarnation}", int(partition)


def audit(
    entries: Iterable[LedgerEntry],
    rows: pl.DataFrame,
    positions: Mapping[str, int | None],
    removed: Iterable[RemovedEntry] = (),
) -> Audit:
    """Walk the ledger and compare it with the table (`rows` as given by `rows_by_source`) and its positions.

    What was taken out again (`removed`: closing of days, retention, corrections) is subtracted from what was stored.
    """
    result = Audit()
    accounts: dict[tuple[str, int], Account] = {}
    ends: dict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.start != ends[entry.app]:
            result.findings.append(
                f"{entry.app}: version {entry.version} starts at {entry.start}, not at {ends[entry.app]}"
            )
        fates = entry.stored + entry.duplicates + entry.dead + entry.lost
        stream = not of_a_file(entry.app)
        if entry.end < entry.start or (stream and fates != entry.end - entry.start):
            result.findings.append(
                f"{entry.app}: version {entry.version} accounts for {fates} of {entry.end - entry.start} positions"
            )
        if min(entry.stored, entry.duplicates, entry.dead, entry.lost) < 0:
            result.findings.append(f"{entry.app}: version {entry.version} holds a negative count")
        ends[entry.app] = entry.end
        key = account_key(entry.app)
        account = accounts.setdefault(key, Account(*key))
        if not stream and entry.app.startswith("backfill/"):
            account.backfilled = True  # its positions count commits, not bytes
        else:
            account.end = entry.end
        account.stored += entry.stored
        account.duplicates += entry.duplicates
        account.dead += entry.dead
        account.lost += entry.lost
        account.skipped += entry.skipped
    for app, end in ends.items():
        if positions.get(app) != end:
            result.findings.append(f"{app}: the table's position is {positions.get(app)}, the ledger ends at {end}")
    _subtract(accounts, removed, result)
    _compare_rows(accounts, rows, result)
    result.accounts = sorted(accounts.values(), key=lambda account: (account.source, account.partition))
    return result


def _subtract(accounts: dict[tuple[str, int], Account], removed: Iterable[RemovedEntry], result: Audit) -> None:
    for entry in removed:
        account = accounts.get((entry.source, entry.source_partition))
        if account is None:
            result.findings.append(
                f"{entry.source} partition {entry.source_partition}: version {entry.version} removed {entry.rows} rows "
                "that were never stored"
            )
            continue
        account.removed += entry.rows  # negative: rows put back, as they were, by the undoing of a correction
        if account.removed < 0:
            result.findings.append(
                f"{entry.source} partition {entry.source_partition}: version {entry.version} put back more rows than "
                "were taken out"
            )


def _compare_rows(accounts: dict[tuple[str, int], Account], rows: pl.DataFrame, result: Audit) -> None:
    seen: set[tuple[str, int]] = set()
    for source, partition, count, distinct, last in rows.select(
        "source", "source_partition", "rows", "distinct", "last"
    ).iter_rows():
        key = (source, partition or 0)
        seen.add(key)
        account = accounts.get(key)
        if account is None:
            result.findings.append(f"{source} partition {partition}: {count} rows that no ledger entry accounts for")
            continue
        account.rows = count
        if count != account.kept:
            result.findings.append(
                f"{source} partition {partition}: {count} rows in the table, {account.kept} in the ledger"
            )
        if distinct != count:
            result.findings.append(f"{source} partition {partition}: {count - distinct} rows repeat a position")
        if last >= account.end and not account.backfilled:
            result.findings.append(
                f"{source} partition {partition}: a row at {last}, beyond the ledger's end {account.end}"
            )
    for key in accounts.keys() - seen:
        if accounts[key].kept:
            result.findings.append(
                f"{key[0]} partition {key[1]}: no rows in the table, {accounts[key].kept} in the ledger"
            )
