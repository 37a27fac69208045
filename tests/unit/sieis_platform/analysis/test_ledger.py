"""The audit: clean on what really happened, and a finding for each way in which ledger and table can disagree."""

import contextlib
import threading
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sieis_platform.analysis.ledger import Account, Audit, account_key, audit, audit_archive, rows_by_source
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import Archive, ArchiveError, Commit, FenceError
from sieis_platform.stores.ledger import LedgerEntry, RemovedEntry
from sieis_platform.timeline import DAY_NS

APP = "sensor_readings/one/0"
OTHER = "sensor_readings/one/1"
HISTORY = "history/abc123"
MIDNIGHT = 20_503 * DAY_NS

unhurried = hypothesis_settings(deadline=None)  # a busy machine is no failure


def rows(offsets: list[int], source: str = "stream:one", partition: int = 0) -> pl.DataFrame:
    return pl.DataFrame(
        [(1 + partition, MIDNIGHT + offset, 20.0, 40.0, None, 2.7) for offset in offsets],
        schema=READING_SCHEMA,
        orient="row",
    ).with_columns(
        source=pl.lit(source),
        source_partition=pl.lit(partition, pl.Int32),
        source_offset=pl.Series(offsets, dtype=pl.Int64),
    )


def entry(start: int, end: int, app: str = APP, **counts: int) -> LedgerEntry:
    return LedgerEntry(app=app, start=start, end=end, **{"stored": 0, **counts})


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive(str(tmp_path / "archive"))
    archive.create()
    return archive


# -- on a real table -------------------------------------------------------------------------------------------------
def test_an_empty_archive_is_clean(archive: Archive) -> None:
    assert audit_archive(archive) == Audit()


def test_no_archive_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="sieis load"):
        audit_archive(Archive(str(tmp_path / "archive")))


def test_every_fate_is_summed_up_by_source_and_partition(archive: Archive) -> None:
    archive.append(Commit(rows([0, 2]), [entry(0, 5, stored=2, duplicates=1, dead=1, lost=1)], {APP: None}))
    both = pl.concat([rows([5]), rows([0, 1, 2], partition=1)])
    archive.append(Commit(both, [entry(5, 6, stored=1), entry(0, 3, OTHER, stored=3)], {APP: 5, OTHER: None}))
    archive.append(Commit(rows([]), [entry(6, 9, dead=3)], {APP: 6}))
    lines = entry(0, 900, HISTORY, stored=2, duplicates=1, dead=4, skipped=2)
    archive.append(Commit(rows([0, 120], "history:abc123"), [lines], {HISTORY: None}))
    result = audit_archive(archive)
    assert result.findings == []
    assert result.accounts == [
        Account("history:abc123", 0, end=900, stored=2, duplicates=1, dead=4, skipped=2, rows=2),
        Account("stream:one", 0, end=9, stored=3, duplicates=1, dead=4, lost=1, rows=3),
        Account("stream:one", 1, end=3, stored=3, rows=3),
    ]


def test_a_recreated_topic_has_accounts_of_its_own(archive: Archive) -> None:
    archive.append(Commit(rows([0]), [entry(0, 1, stored=1)], {APP: None}))
    again = "sensor_readings/two/0"
    archive.append(Commit(rows([0], "stream:two"), [entry(0, 1, again, stored=1)], {again: None}))
    result = audit_archive(archive)
    assert [account.source for account in result.accounts] == ["stream:one", "stream:two"]
    assert result.findings == []


def test_rows_written_past_the_ledger_are_found(archive: Archive) -> None:
    archive.append(Commit(rows([0, 1]), [entry(0, 2, stored=2)], {APP: None}))
    archive.append(Commit(rows([1, 7]), [], {}))
    archive.append(Commit(rows([0], "stream:unknown"), [], {}))
    findings = "\n".join(audit_archive(archive).findings)
    assert "stream:one partition 0: 4 rows in the table, 2 in the ledger" in findings
    assert "1 rows repeat a position" in findings
    assert "a row at 7, beyond the ledger's end 2" in findings
    assert "stream:unknown partition 0: 1 rows that no ledger entry accounts for" in findings


def test_rows_deleted_behind_the_ledgers_back_are_found(archive: Archive) -> None:
    archive.append(Commit(rows([0, 1]), [entry(0, 2, stored=2)], {APP: None}))
    archive.table().delete()
    assert audit_archive(archive).findings == ["stream:one partition 0: no rows in the table, 2 in the ledger"]


def test_a_writer_at_work_does_not_disturb_the_audit(archive: Archive) -> None:
    stop = threading.Event()

    def write() -> None:
        mine, position = Archive(archive.uri), 0
        while not stop.is_set():
            done = entry(position, position + 2, stored=1, dead=1)
            mine.append(Commit(rows([position]), [done], {APP: position or None}))
            position += 2

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            assert audit_archive(archive).findings == []
    finally:
        stop.set()
        writer.join()
    assert audit_archive(archive).accounts[0].rows > 0


# -- two owners of one partition -------------------------------------------------------------------------------------
def test_two_writers_that_both_believe_they_own_a_partition_lose_and_double_nothing(archive: Archive) -> None:
    last = 60
    start = threading.Barrier(2)

    def own(step: int) -> None:
        mine = Archive(archive.uri)
        start.wait()
        while (position := mine.position(APP) or 0) < last:
            end = min(position + step, last)
            done = entry(position, end, stored=end - position)
            with contextlib.suppress(FenceError):  # the other was faster: look where it got to
                mine.append(Commit(rows(list(range(position, end))), [done], {APP: position or None}))

    writers = [threading.Thread(target=own, args=(step,)) for step in (2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    result = audit_archive(archive)
    assert result.findings == []
    assert result.accounts == [Account("stream:one", 0, end=last, stored=last, rows=last)]
    offsets = archive.scan_all().select("source_offset").collect().to_series()
    assert sorted(offsets) == list(range(last))


# -- each finding ----------------------------------------------------------------------------------------------------
def findings(entries: list[LedgerEntry], *tables: pl.DataFrame, positions: dict[str, int | None] | None = None) -> str:
    numbered = [msgspec.structs.replace(one, version=number) for number, one in enumerate(entries, 1)]
    held = rows_by_source(pl.concat([rows([]), *tables]).lazy())
    ends = positions if positions is not None else {one.app: one.end for one in entries}
    return "\n".join(audit(numbered, held, ends).findings)


def test_a_gap_and_an_overlap_between_two_commits() -> None:
    gap = findings([entry(0, 2, stored=2), entry(3, 4, stored=1)], rows([0, 1, 3]))
    assert gap == f"{APP}: version 2 starts at 3, not at 2"
    overlap = findings([entry(0, 2, stored=2), entry(1, 3, stored=2)], rows([0, 1, 1, 2]))
    assert f"{APP}: version 2 starts at 1, not at 2" in overlap


def test_a_ledger_that_does_not_begin_at_the_beginning() -> None:
    assert findings([entry(4, 5, stored=1)], rows([4])) == f"{APP}: version 1 starts at 4, not at 0"


def test_positions_without_a_fate_or_with_two() -> None:
    assert findings([entry(0, 3, stored=1)], rows([0])) == f"{APP}: version 1 accounts for 1 of 3 positions"
    assert findings([entry(0, 1, stored=1, dead=1)], rows([0])) == f"{APP}: version 1 accounts for 2 of 1 positions"


def test_a_commit_that_goes_backwards() -> None:
    assert "accounts for 0 of -2 positions" in findings([entry(0, 2, dead=2), entry(2, 0)])


def test_counts_below_zero_even_if_the_sum_is_right() -> None:
    assert findings([entry(0, 1, stored=2, lost=-1)], rows([0, 1])).startswith(f"{APP}: version 1 holds a negative")


def test_a_position_of_the_table_that_is_not_the_ledgers_end() -> None:
    moved = findings([entry(0, 1, stored=1)], rows([0]), positions={APP: 9})
    assert moved == f"{APP}: the table's position is 9, the ledger ends at 1"
    assert "position is None" in findings([entry(0, 1, stored=1)], rows([0]), positions={})


def test_history_counts_lines_not_bytes() -> None:
    held = rows([0, 120], "history:abc123")
    assert findings([entry(0, 900, HISTORY, stored=2, dead=1)], held) == ""
    assert "2 rows in the table, 3 in the ledger" in findings([entry(0, 900, HISTORY, stored=3)], held)
    assert "starts at 901, not at 900" in findings([entry(0, 900, HISTORY, stored=2), entry(901, 950, HISTORY)], held)


def removal(source: str = "stream:one", partition: int = 0, rows: int = 1) -> RemovedEntry:
    return RemovedEntry(source=source, source_partition=partition, rows=rows, reason="expired", version=7)


def test_what_was_removed_is_no_longer_expected() -> None:
    stored = [entry(0, 3, stored=3)]
    held = rows_by_source(rows([0, 2]).lazy())
    assert audit(stored, held, {APP: 3}, [removal()]).findings == []
    assert "2 rows in the table, 1 in the ledger" in audit(stored, held, {APP: 3}, [removal(rows=2)]).findings[0]
    assert "2 rows in the table, 3 in the ledger" in audit(stored, held, {APP: 3}).findings[0]
    assert audit(stored, held.clear(), {APP: 3}, [removal(rows=2), removal()]).findings == []


def test_removals_that_cannot_be_are_found() -> None:
    stored, held = [entry(0, 3, stored=3)], rows_by_source(rows([0, 1, 2]).lazy())
    strange = audit(stored, held, {APP: 3}, [removal("stream:two")]).findings
    assert strange == ["stream:two partition 0: version 7 removed 1 rows that were never stored"]
    negative = audit(stored, held, {APP: 3}, [removal(rows=-1), removal(rows=1)]).findings
    assert negative == ["stream:one partition 0: version 7 put back more rows than were taken out"]


@unhurried
@given(
    st.lists(st.lists(st.sampled_from(["stored", "duplicates", "dead", "lost"]), min_size=1, max_size=8), max_size=6),
    st.data(),
)
def test_whatever_fate_each_position_has_it_is_clean_and_one_row_more_or_less_is_not(
    fates: list[list[str]], data: st.DataObject
) -> None:
    position, entries, offsets = 0, [], []
    for fate in fates:
        offsets += [position + i for i, one in enumerate(fate) if one == "stored"]
        counts = {name: fate.count(name) for name in ("stored", "duplicates", "dead", "lost")}
        entries.append(entry(position, position + len(fate), **counts))
        position += len(fate)
    assert findings(entries, rows(offsets)) == ""
    extra = data.draw(st.integers(0, position))
    assert findings(entries, rows([*offsets, extra])) != ""
    if offsets:
        offsets.remove(data.draw(st.sampled_from(offsets)))
        assert findings(entries, rows(offsets)) != ""


def test_an_app_transaction_is_told_apart_from_the_right() -> None:
    assert account_key("a/b/c/7") == ("stream:c", 7)
    assert account_key("history/ff") == ("history:ff", 0)


BACKFILL = HISTORY.replace("history/", "backfill/")


def test_a_backfill_counts_commits_and_may_lie_beyond_the_load() -> None:
    held = rows([0, 120, 5_000], "history:abc123")
    entries = [entry(0, 900, HISTORY, stored=2), entry(900, 900, HISTORY), entry(0, 1, BACKFILL, stored=1)]
    assert findings(entries, held, positions={HISTORY: 900, BACKFILL: 1}) == ""
    assert "a row at 5000, beyond" in findings([entry(0, 900, HISTORY, stored=3)], held)
    assert "starts at 2, not at 1" in findings([*entries, entry(2, 3, BACKFILL)], held, positions={HISTORY: 900})


def test_rows_put_back_count_below_zero_and_never_more_than_were_taken() -> None:
    def removed(count: int) -> RemovedEntry:
        return RemovedEntry(source="history:abc123", source_partition=0, rows=count, reason="corrected", version=2)

    entries, held = [entry(0, 900, HISTORY, stored=2)], rows([0, 120], "history:abc123")
    assert audit(entries, rows_by_source(held.lazy()), {HISTORY: 900}, [removed(2), removed(-2)]).findings == []
    (finding, _) = audit(entries, rows_by_source(held.lazy()), {HISTORY: 900}, [removed(2), removed(-3)]).findings
    assert "put back more rows than were taken out" in finding
