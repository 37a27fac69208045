"""Aggregates: against an independent query, against known facts of the real file, and at the edges."""

import math

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sieis_platform.analysis.aggregates import BUILDING, PERIOD_NS, aggregate, beside, with_date
from sieis_platform.reading import FIELDS, QUANTITIES, READING_SCHEMA
from sieis_platform.stores.hot import AGGREGATE_SCHEMA, SHORT_NAMES, Period

DAY = PERIOD_NS["daily"]


def _frame(rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=READING_SCHEMA, orient="row")


def _independent(readings: pl.DataFrame, period: Period) -> pl.DataFrame:
    """The same in SQL, written from the definition and not from the code."""
    inside = {name: f"{name} BETWEEN {q.low} AND {q.high} AND NOT isnan({name})" for name, q in QUANTITIES.items()}
    statistics = ", ".join(
        f"{sql}({name}::DOUBLE) FILTER ({inside[name]}) AS {SHORT_NAMES[name]}_{suffix}"
        for name in FIELDS
        for sql, suffix in (
            ("avg", "avg"),
            ("min", "min"),
            ("max", "max"),
            ("stddev_samp", "std"),
            ("median", "median"),
        )
    )
    impossible = " OR ".join(f"NOT coalesce({condition}, true)" for condition in inside.values())
    nulls = " + ".join(f"({name} IS NULL)::BIGINT" for name in FIELDS)
    rows = readings  # noqa: F841  (DuckDB finds the frame by its name)
    return (
        duckdb.sql(
            f"""
        WITH keyed AS (SELECT *, timestamp // {PERIOD_NS[period]} * {PERIOD_NS[period]} AS period_start FROM rows)
        SELECT coalesce(mote_id, {BUILDING})::INTEGER AS mote_id, period_start, {statistics},
               count(*) AS record_count, sum({nulls})::BIGINT AS null_count,
               count(*) FILTER ({impossible}) AS out_of_range_count
        FROM keyed GROUP BY GROUPING SETS ((period_start, mote_id), (period_start))
        ORDER BY period_start, mote_id
        """
        )
        .pl()
        .select(AGGREGATE_SCHEMA.names())
    )


@pytest.mark.parametrize("period", ["hourly", "daily"])
def test_real_readings_aggregate_as_an_independent_query_does(real_readings: pl.DataFrame, period: Period) -> None:
    assert_frame_equal(
        aggregate(real_readings, period), _independent(real_readings, period), rel_tol=1e-9, abs_tol=1e-12
    )


def test_known_facts_of_the_real_file(real_readings: pl.DataFrame) -> None:
    day = with_date(aggregate(real_readings, "daily")).filter(pl.col("date") == "2004-03-05")
    mote_1, mote_22 = (day.row(by_predicate=pl.col("mote_id") == mote, named=True) for mote in (1, 22))
    assert mote_1["record_count"] == 1_824
    # The facts are of the file's doubles, the readings are float32: 4e-7 apart (DESIGN 7), rounded to six digits.
    assert mote_1["temp_avg"] == pytest.approx(21.884114, abs=1e-6)
    assert mote_1["temp_std"] == pytest.approx(1.899264, abs=1e-6)
    assert mote_1["temp_median"] == pytest.approx(21.6103, abs=1e-6)
    assert mote_22["record_count"] == 2_551
    assert mote_22["temp_avg"] == pytest.approx(23.369619, abs=1e-6)
    assert mote_22["temp_max"] == pytest.approx(33.1792, abs=1e-5)


def test_impossible_values_are_counted_and_not_averaged() -> None:
    nan = float("nan")
    readings = _frame(
        [
            (1, 0, 20.0, 40.0, 100.0, 2.7),
            (1, 1, 122.153, -4.0, 100.0, 2.7),  # one reading, two impossible values
            (1, 2, nan, 42.0, None, 2.7),
            (1, 3, 24.0, None, None, 2.7),
        ]
    )
    row = aggregate(readings, "daily").row(by_predicate=pl.col("mote_id") == 1, named=True)
    assert (row["temp_avg"], row["temp_min"], row["temp_max"]) == (22.0, 20.0, 24.0)
    assert row["temp_std"] == pytest.approx(math.sqrt(8))
    assert (row["hum_avg"], row["light_avg"]) == (41.0, 100.0)
    assert (row["record_count"], row["null_count"], row["out_of_range_count"]) == (4, 3, 2)


def test_a_field_without_a_usable_value_has_no_statistics() -> None:
    row = aggregate(_frame([(7, 5, 122.153, None, None, None)]), "daily").row(index=1, named=True)
    assert row["mote_id"] == 7
    assert [row[f"{SHORT_NAMES[field]}_avg"] for field in FIELDS] == [None] * 4
    assert (row["record_count"], row["null_count"], row["out_of_range_count"]) == (1, 3, 1)


def test_a_single_value_has_no_deviation() -> None:
    row = aggregate(_frame([(7, 5, 20.0, 40.0, 1.0, 2.7)]), "hourly").row(index=1, named=True)
    assert (row["temp_avg"], row["temp_std"]) == (20.0, None)


def test_nothing_gives_nothing() -> None:
    assert_frame_equal(aggregate(READING_SCHEMA.to_frame(), "daily"), AGGREGATE_SCHEMA.to_frame())


def test_periods_split_at_midnight_utc_before_and_after_1970() -> None:
    readings = _frame([(1, moment, 20.0, 40.0, 1.0, 2.7) for moment in (-1, 0, DAY - 1, DAY)])
    daily = with_date(aggregate(readings, "daily")).filter(pl.col("mote_id") == 1)
    assert daily["date"].to_list() == ["1969-12-31", "1970-01-01", "1970-01-02"]
    assert daily["record_count"].to_list() == [1, 2, 1]


_VALUES = st.none() | st.floats(-300, 2e5, width=32) | st.just(float("nan"))
_READINGS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 3 * DAY), _VALUES, _VALUES, _VALUES, _VALUES), max_size=60
).map(_frame)


@settings(deadline=None)  # the machine may be busy
@given(readings=_READINGS)
def test_any_readings_aggregate_as_an_independent_query_does(readings: pl.DataFrame) -> None:
    assert_frame_equal(aggregate(readings, "hourly"), _independent(readings, "hourly"), rel_tol=1e-9, abs_tol=1e-9)


@settings(deadline=None)  # the machine may be busy
@given(readings=_READINGS, cut=st.integers(0, 3))
def test_days_aggregate_alone_as_they_do_together(readings: pl.DataFrame, cut: int) -> None:
    before = pl.col("timestamp") < cut * DAY
    parts = pl.concat([aggregate(readings.filter(before), "daily"), aggregate(readings.filter(~before), "daily")])
    assert_frame_equal(aggregate(readings, "daily"), parts)


@settings(deadline=None)  # the machine may be busy
@given(readings=_READINGS)
def test_every_reading_is_counted_once_for_its_mote_and_once_for_the_building(readings: pl.DataFrame) -> None:
    daily = aggregate(readings, "daily")
    for rows in (daily.filter(pl.col("mote_id") == BUILDING), daily.filter(pl.col("mote_id") != BUILDING)):
        assert rows["record_count"].sum() == readings.height


def test_what_is_left_of_a_period_does_not_replace_the_building_that_was_whole() -> None:
    hour = PERIOD_NS["hourly"]
    whole = aggregate(_frame([(mote, 0, 20.0, 1.0, 1.0, 2.7) for mote in (1, 2)]), "hourly")
    left = aggregate(_frame([(1, at, 30.0, 1.0, 1.0, 2.7) for at in (0, 1, hour)]), "hourly")
    kept = whole.filter(pl.col("mote_id") != 1)  # of mote 2 the readings are gone
    found = beside(kept, left)
    counts = found.select("period_start", "mote_id", "record_count", "temp_avg").rows()
    assert counts == [(0, 0, 2, 20.0), (0, 1, 2, 30.0), (0, 2, 1, 20.0), (hour, 0, 1, 30.0), (hour, 1, 1, 30.0)]
    assert_frame_equal(beside(kept.filter(mote_id=0), left), left)  # no mote is gone, so nothing is missing in it
