"""The tables that are judged: counted right where days are partial, empty, or not all there."""

import datetime as dt

import polars as pl
import pytest

from sieis_platform.analysis.quality import tables
from sieis_platform.analysis.quality.verdict import Verdict, combined
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.archive import LedgerEntry
from sieis_platform.stores.hot import DAILY_SUMS_SCHEMA
from sieis_platform.timeline import DAY_NS

SECOND = 1_000_000_000
FIRST, LAST = dt.date(1970, 1, 1), dt.date(1970, 1, 3)


def _rows(*keys: tuple[int, int], light: float | None = 1.0) -> pl.DataFrame:
    """Readings with these (mote_id, timestamp)."""
    data = [(mote, ns, 20.0, None, light, 2.5) for mote, ns in keys]
    return pl.DataFrame(data, schema=READING_SCHEMA, orient="row")


def test_days_that_have_not_begun_are_not_judged_and_today_counts_until_now() -> None:
    now = DAY_NS + 600 * SECOND
    found = tables.days(_rows((1, DAY_NS - 60 * SECOND), (1, DAY_NS + 480 * SECOND)), FIRST, LAST, now)
    assert found.select("date", "rows", "lag_minutes").rows() == [("1970-01-01", 1, 1.0), ("1970-01-02", 1, 2.0)]
    complete = tables.mote_days(_rows((1, DAY_NS), (1, DAY_NS + SECOND)), FIRST, LAST, now)
    assert complete.select("date", "readings", "expected").rows() == [("1970-01-01", 0, 2_880), ("1970-01-02", 2, 20)]


def test_a_reading_ahead_of_the_clock_is_not_late() -> None:
    now = 600 * SECOND
    assert tables.days(_rows((1, now + 90 * SECOND)), FIRST, FIRST, now)["lag_minutes"].to_list() == [0.0]
    assert tables.age(now + 1, now)["lag_minutes"].to_list() == [0.0]


def test_a_repeated_key_is_one_reading_of_its_mote_and_day() -> None:
    rows = _rows((1, 5), (1, 5), (2, 5), (1, DAY_NS + 5))
    assert tables.days(rows, FIRST, LAST, 3 * DAY_NS)["repeated"].to_list() == [1, 0, 0]
    readings = tables.mote_days(rows, FIRST, LAST, 3 * DAY_NS)["readings"].to_list()
    assert readings == [1, 1, 1, 0, 0, 0]


def test_deliveries_count_the_stream_by_day_of_commit_and_files_by_their_readings() -> None:
    def entry(app: str, version: int, **counts: int) -> LedgerEntry:
        return LedgerEntry(app=app, version=version, start=0, end=sum(counts.values()), **({"stored": 0} | counts))

    entries = [
        entry("topic/a/0", 1, stored=10, dead=1),
        entry("topic/a/1", 1, stored=5, duplicates=4, lost=3),
        entry("topic/a/0", 2, dead=2),
        entry("topic/a/0", 9, stored=100),
        entry("topic/a/0", 4, stored=100),
        entry("history/here", 3, stored=7, dead=2, skipped=1),
        entry("history/here", 4, stored=5),
        entry("history/elsewhere", 5, stored=5, dead=5),
        entry("backfill/here", 1, stored=1_000),
        entry("backfill/elsewhere", 1, stored=1_000),
    ]
    committed = {1: 5, 2: 2 * DAY_NS, 3: 9 * DAY_NS, 4: 9 * DAY_NS, 5: 5}  # version 9 is no longer in the log
    found = tables.deliveries(entries, committed, ["history:here", "stream:a"], FIRST, LAST)
    assert found.select("source", "date", "records", "dead").rows() == [
        ("history:here", None, 15, 2),
        ("stream", "1970-01-01", 20, 1),
        ("stream", "1970-01-03", 2, 2),
    ]
    assert found["dead_share"].to_list() == pytest.approx([2 / 15, 1 / 20, 1.0])


def test_daily_sums_are_as_the_hot_store_gives_them() -> None:
    found = tables.daily_sums(_rows((2, 5), (1, 7), (1, DAY_NS - 1), (1, DAY_NS)))
    assert found.schema == DAILY_SUMS_SCHEMA
    assert found.rows() == [
        (1, 0, 2, 40.0, 0.0, 2.0, 5.0),
        (2, 0, 1, 20.0, 0.0, 1.0, 2.5),
        (1, DAY_NS, 1, 20.0, 0.0, 1.0, 2.5),
    ]


def test_differing_names_what_is_to_be_looked_at_again() -> None:
    ours = tables.daily_sums(_rows((1, 5), (2, 5), (3, DAY_NS)))
    other = pl.concat([tables.daily_sums(_rows((1, 5))), tables.daily_sums(_rows((2, 5), light=1.001))])
    assert tables.differing(other, ours).rows() == [(2, 0), (3, DAY_NS)]
    rounded = ours.with_columns(pl.col("light_sum") * (1 + 1e-15))
    assert tables.differing(rounded, ours).is_empty()


def test_days_that_only_one_side_counts_are_there_with_zero() -> None:
    aggregates = pl.DataFrame({"date": ["a", "a"], "mote_id": [0, 1], "record_count": [3, 3]})
    assert tables.counted(aggregates, {"b": 2}).rows() == [("a", 0, 3, 3), ("b", 2, 0, 0)]


def test_windows_combine_to_the_worst_of_them() -> None:
    def verdict(*, passed: bool, share: float) -> Verdict:
        return Verdict("ranges", "s", passed, "warning", f"{share}", 10, 1, share, [{"share": share}])

    found = combined([verdict(passed=True, share=0.9), verdict(passed=False, share=0.1)])
    assert (found.passed, found.text, found.rows, found.unexpected) == (False, "0.1", 20, 2)
    assert [row["share"] for row in found.unexpected_rows] == [0.9, 0.1]
