"""Expectations: what breaks each, and what it is blamed on."""

import polars as pl
import pytest

from sieis_platform.analysis import quality
from sieis_platform.reading import LINEAGE_SCHEMA, READING_SCHEMA

SECOND = 1_000_000_000
SCHEMA = pl.Schema({**READING_SCHEMA, **LINEAGE_SCHEMA})


def _rows(count: int, mote_id: int = 1, first_offset: int = 0, **changes: pl.Expr) -> pl.DataFrame:
    """Complete readings of one mote, one every 30 s."""
    index = pl.int_range(count, dtype=pl.Int64)
    columns = {
        "mote_id": pl.lit(mote_id),
        "timestamp": index * 30 * SECOND,
        "temperature": pl.lit(21.5),
        "humidity": pl.lit(40.0),
        "light": pl.lit(120.0),
        "voltage": pl.lit(2.7),
        "source": pl.lit("stream:a"),
        "source_partition": pl.lit(0),
        "source_offset": index + first_offset,
        "ingested_at": pl.lit(0),
    } | changes
    return pl.select(index.alias("_")).select(
        expression.cast(SCHEMA[name]).alias(name) for name, expression in columns.items()
    )


def test_sound_rows_meet_every_expectation() -> None:
    rows = _rows(2_880)
    verdicts = [
        quality.schema(rows),
        quality.positions_unique(rows),
        quality.keys_repeated(rows),
        quality.ranges(rows),
        quality.nulls(rows),
        quality.completeness(rows, 0, 86_400 * SECOND),
    ]
    assert [verdict.name for verdict in verdicts if not verdict.passed] == []
    assert {verdict.name: verdict.severity for verdict in verdicts} == {
        "schema": "error",
        "positions_unique": "error",
        "keys_repeated": "warning",
        "ranges": "warning",
        "nulls": "warning",
        "completeness": "warning",
    }


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_rows(3).drop("voltage"), "voltage is missing"),
        (_rows(3).cast({"temperature": pl.Float64}), "temperature is Float64"),
        (_rows(3, timestamp=pl.lit(None)), "3 null keys"),
    ],
)
def test_a_wrong_column_or_a_null_key_breaks_the_schema(broken: pl.DataFrame, says: str) -> None:
    verdict = quality.schema(broken)
    assert not verdict.passed
    assert says in verdict.text


def test_a_position_stored_twice_is_an_error() -> None:
    verdict = quality.positions_unique(pl.concat([_rows(10), _rows(1)]))
    assert not verdict.passed
    assert verdict.numbers["repeated"] == 1


def test_rows_without_position_repeat_none() -> None:
    assert quality.positions_unique(_rows(10, source=pl.lit(None), source_offset=pl.lit(None))).passed


def test_the_same_offset_of_another_partition_is_another_position() -> None:
    assert quality.positions_unique(pl.concat([_rows(5), _rows(5, source_partition=pl.lit(1))])).passed


@pytest.mark.parametrize(("repeats", "passed"), [(0, True), (9, True), (11, False)])
def test_repeated_keys_are_tolerated_below_one_percent(repeats: int, passed: bool) -> None:
    rows = pl.concat([_rows(1_000 - repeats), _rows(repeats, first_offset=5_000)])
    assert quality.keys_repeated(rows).passed is passed


@pytest.mark.parametrize(("impossible", "passed"), [(10, True), (11, False)])
def test_impossible_values_are_tolerated_up_to_one_percent(impossible: int, passed: bool) -> None:
    rows = pl.concat([_rows(1_000 - impossible), _rows(impossible, temperature=pl.lit(122.153))])
    verdict = quality.ranges(rows)
    assert verdict.passed is passed
    assert verdict.numbers["out_of_range"] == impossible


@pytest.mark.parametrize(("missing", "passed"), [(49, True), (50, False)])
def test_nulls_are_tolerated_below_five_percent_of_any_field(missing: int, passed: bool) -> None:
    rows = pl.concat([_rows(1_000 - missing), _rows(missing, light=pl.lit(None))])
    verdict = quality.nulls(rows)
    assert verdict.passed is passed
    assert "light" in verdict.text


@pytest.mark.parametrize(("rows", "passed"), [(2_592, True), (2_591, False)])
def test_ninety_percent_of_the_expected_readings_are_complete(rows: int, passed: bool) -> None:
    assert quality.completeness(_rows(rows), 0, 86_400 * SECOND).passed is passed


def test_completeness_expects_every_mote_seen_and_counts_a_repeated_key_once() -> None:
    rows = pl.concat([_rows(100), _rows(100, mote_id=2), _rows(100, mote_id=2, first_offset=500)])
    numbers = quality.completeness(rows, 0, 3_000 * SECOND).numbers
    assert (numbers["readings"], numbers["expected"], numbers["motes"]) == (200, 200, 2)


def test_a_day_without_readings_is_not_complete() -> None:
    assert not quality.completeness(_rows(0), 0, 86_400 * SECOND).passed
