"""The contract of a reading: what is impossible, what a null means, which schemas must agree."""

import datetime as dt

import polars as pl
import pytest

from sieis_platform.reading import (
    ARROW_SCHEMA,
    FIELDS,
    KEY,
    QUANTITIES,
    READING_SCHEMA,
    any_out_of_range,
    out_of_range,
    utc,
)


def readings(**values: float | None) -> pl.DataFrame:
    return pl.DataFrame([{"mote_id": 1, "timestamp": 0, **dict.fromkeys(FIELDS), **values}], schema=READING_SCHEMA)


def test_the_two_schemas_name_the_same_columns_and_types() -> None:
    assert pl.DataFrame(schema=READING_SCHEMA).to_arrow().schema.names == ARROW_SCHEMA.names
    assert pl.from_arrow(ARROW_SCHEMA.empty_table()).schema == READING_SCHEMA
    assert [field.name for field in ARROW_SCHEMA if not field.nullable] == list(KEY)


@pytest.mark.parametrize("field", FIELDS)
def test_bounds_belong_to_what_is_possible(field: str) -> None:
    low, high = QUANTITIES[field].low, QUANTITIES[field].high
    frame = pl.DataFrame({field: [low, high, (low + high) / 2, low - 0.01, high + 0.01, None]})
    assert frame.select(out_of_range(field)).to_series().to_list() == [False, False, False, True, True, None]


def test_bounds_hold_in_the_float32_that_is_stored() -> None:
    values = {field: [QUANTITIES[field].low, QUANTITIES[field].high] for field in FIELDS}
    frame = pl.DataFrame({"mote_id": [1, 1], "timestamp": [0, 1], **values}, schema=READING_SCHEMA)
    assert frame.select(any_out_of_range()).to_series().to_list() == [False, False]


def test_the_readings_of_a_dying_mote_are_out_of_range() -> None:
    assert readings(temperature=122.153, voltage=2.1).select(any_out_of_range()).item() is True
    assert readings(humidity=-4.0).select(any_out_of_range()).item() is True


def test_a_reading_without_values_is_not_out_of_range() -> None:
    assert readings().select(any_out_of_range()).item() is False


def test_utc_keeps_every_nanosecond() -> None:
    column = pl.DataFrame({"timestamp": [1, 1_772_000_000_123_456_789]}).select(utc()).to_series()
    assert column.dtype == pl.Datetime("ns", "UTC")
    assert column.dt.epoch("ns").to_list() == [1, 1_772_000_000_123_456_789]
    assert column[0] == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
