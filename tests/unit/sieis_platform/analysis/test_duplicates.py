"""Duplicates: told apart as a naive model does, whatever comes, however it is cut into flushes."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sieis_platform.analysis.duplicates import DuplicateWindow
from sieis_platform.reading import FIELDS, READING_SCHEMA

unhurried = hypothesis_settings(deadline=None)  # a busy machine is no failure

SCHEMA = pl.Schema({**READING_SCHEMA, "source_partition": pl.Int32(), "source_offset": pl.Int64()})
WHOLE = 1_000_000

Row = tuple[int, int, tuple[float | None, ...], int]  # mote, timestamp, values, partition


def frame(rows: list[Row], start: int = 0) -> pl.DataFrame:
    return pl.DataFrame(
        [(mote, ns, *values, partition, start + i) for i, (mote, ns, values, partition) in enumerate(rows)],
        schema=SCHEMA,
        orient="row",
    )


def model(flushes: list[list[Row]], window: int) -> list[list[int]]:
    """The offsets stored by each flush: what is not equal to the latest reading of its key that is still remembered."""
    seen: list[Row] = []
    offset = 0
    stored: list[list[int]] = []
    for rows in flushes:
        stored.append([])
        for row in rows:
            latest = next((one for one in reversed(seen) if one[:2] == row[:2]), None)
            if latest is None or latest[2] != row[2]:
                stored[-1].append(offset)
            seen.append(row)
            offset += 1
        kept: list[Row] = []
        for i, one in enumerate(seen):
            later = sum(other[3] == one[3] for other in seen[i + 1 :])
            if later < window:
                kept.append(one)
        seen = kept
    return stored


values = st.tuples(*[st.sampled_from([None, 0.0, 1.0])] * 2).map(lambda two: (*two, None, 2.5))
# As on the stream, the mote decides the partition.
rows = st.tuples(st.integers(1, 3), st.integers(0, 2), values).map(lambda row: (*row, row[0] % 2))
flushes = st.lists(st.lists(rows, max_size=12), min_size=1, max_size=4)


@unhurried
@given(flushes, st.sampled_from([0, 1, 2, 3, 5, WHOLE]))
def test_what_is_stored_is_what_the_model_stores(given_flushes: list[list[Row]], window: int) -> None:
    tested = DuplicateWindow(window)
    stored: list[list[int]] = []
    start = 0
    for given_rows in given_flushes:
        kept, after = tested.split(frame(given_rows, start))
        assert kept.schema == SCHEMA
        stored.append(kept["source_offset"].to_list())
        tested.remember(after)
        start += len(given_rows)
    assert stored == model(given_flushes, window)


@unhurried
@given(flushes)
def test_with_a_large_window_the_cuts_between_flushes_do_not_matter(given_flushes: list[list[Row]]) -> None:
    def stored(parts: list[list[Row]]) -> list[int]:
        tested, start, found = DuplicateWindow(WHOLE), 0, []
        for part in parts:
            kept, after = tested.split(frame(part, start))
            tested.remember(after)
            found += kept["source_offset"].to_list()
            start += len(part)
        return found

    assert stored(given_flushes) == stored([[row for part in given_flushes for row in part]])


@unhurried
@given(st.lists(rows, max_size=30))
def test_the_last_one_stored_of_a_key_is_the_last_one_sent(given_rows: list[Row]) -> None:
    kept, _ = DuplicateWindow(WHOLE).split(frame(given_rows))
    sent = {row[:2]: row[2] for row in given_rows}
    last = {(row["mote_id"], row["timestamp"]): tuple(row[field] for field in FIELDS) for row in kept.to_dicts()}
    assert last == sent


A: Row = (1, 5, (20.0, None, 1.0, 2.5), 0)
B: Row = (1, 5, (21.0, None, 1.0, 2.5), 0)


def offsets(tested: DuplicateWindow, *given_rows: Row, start: int = 0) -> list[int]:
    kept, after = tested.split(frame(list(given_rows), start))
    tested.remember(after)
    return kept["source_offset"].to_list()


def test_a_second_a_after_b_is_no_duplicate() -> None:
    assert offsets(DuplicateWindow(WHOLE), A, A, B, B, A, A) == [0, 2, 4]


def test_nulls_equal_nulls_but_no_number() -> None:
    nothing: Row = (1, 5, (None, None, None, None), 0)
    zero: Row = (1, 5, (None, None, 0.0, None), 0)
    assert offsets(DuplicateWindow(WHOLE), nothing, nothing, zero, zero, nothing) == [0, 2, 4]


def test_what_was_not_remembered_was_not_stored_and_is_no_duplicate_next_time() -> None:
    tested = DuplicateWindow(WHOLE)
    tested.split(frame([A]))  # the commit of it failed: the same rows come again
    assert offsets(tested, A, start=0) == [0]
    assert offsets(tested, A, start=1) == []


def test_a_partition_that_is_given_away_is_forgotten_and_no_other() -> None:
    other: Row = (2, 5, A[2], 1)
    tested = DuplicateWindow(WHOLE)
    tested.forget([0])  # nothing known yet
    assert offsets(tested, A, other) == [0, 1]
    tested.forget([0])
    assert offsets(tested, A, other, start=2) == [2]
    tested.forget([0, 1])
    assert offsets(tested, A, other, start=4) == [4, 5]


@pytest.mark.parametrize("window", [1, 10])
def test_the_window_is_counted_per_partition(window: int) -> None:
    tested = DuplicateWindow(window)
    quiet: Row = (2, 0, A[2], 1)
    loud: list[Row] = [(1, ns, A[2], 0) for ns in range(50)]
    offsets(tested, quiet, *loud)
    assert offsets(tested, quiet, start=51) == []
    assert offsets(tested, loud[-window], start=52) == []
    assert offsets(tested, loud[-window - 2], start=53) == [53]
