"""Every expectation: what is sound meets it, what breaks it breaks its check and no other, and the rows are shown."""

import datetime as dt
from collections.abc import Callable

import polars as pl
import pytest

from sieis_platform.analysis.quality import tables
from sieis_platform.analysis.quality.evaluate import ExpectationError, evaluate
from sieis_platform.analysis.quality.suites import SUITES, suite
from sieis_platform.analysis.quality.verdict import SHOWN_ROWS, Verdict
from sieis_platform.reading import FIELDS, LINEAGE_SCHEMA, QUANTITIES, READING_SCHEMA
from sieis_platform.stores.archive import LedgerEntry
from sieis_platform.timeline import DAY_NS

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
SCHEMA = pl.Schema({**READING_SCHEMA, **LINEAGE_SCHEMA})
DAY = dt.date(1970, 1, 1)
A_DAY = 2_880


def rows(count: int = A_DAY, mote_id: int = 1, first_offset: int = 0, **changes: pl.Expr) -> pl.DataFrame:
    """Complete readings of one mote, one every 30 s from 1970 on."""
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


def days(found: pl.DataFrame) -> pl.DataFrame:
    return tables.days(found, DAY, DAY, now_ns=2 * DAY_NS)


def mote_days(found: pl.DataFrame, *known: int) -> pl.DataFrame:
    return tables.mote_days(found, DAY, DAY, now_ns=2 * DAY_NS, known=known)


def deliveries(*, dead: int, of: int, app: str = "sensor_readings/inc/0") -> pl.DataFrame:
    entry = LedgerEntry(app=app, start=0, end=of, stored=of - dead, dead=dead, version=3)
    return tables.deliveries([entry], {3: 5 * MINUTE}, ["history:file"], DAY, DAY)


def compared(hot: pl.DataFrame, archive: pl.DataFrame) -> pl.DataFrame:
    return tables.compared(tables.daily_sums(hot), tables.daily_sums(archive))


def counted(building: int, motes: int, archived: int) -> pl.DataFrame:
    aggregates = pl.DataFrame(
        {"date": ["2026-05-01"] * 3, "mote_id": [0, 1, 2], "record_count": [building, 1, motes - 1]}
    )
    return tables.counted(aggregates, {"2026-05-01": archived})


def test_the_building_is_not_judged_on_days_that_are_no_longer_whole_but_its_motes_are() -> None:
    aggregates = pl.DataFrame({"date": ["a", "a", "b", "b"], "mote_id": [0, 1] * 2, "record_count": [9, 3, 4, 4]})
    (sound,) = evaluate("aggregates_days", tables.counted(aggregates, {"a": 3, "b": 4}, ["a"]))
    assert (sound.passed, sound.rows) == (True, 2)
    (whole,) = evaluate("aggregates_days", tables.counted(aggregates, {"a": 3, "b": 4}))
    assert not whole.passed
    (broken,) = evaluate("aggregates_days", tables.counted(aggregates, {"a": 2, "b": 4}, ["a"]))
    assert not broken.passed


def by_check(name: str, table: pl.DataFrame) -> dict[str, Verdict]:
    return {verdict.check: verdict for verdict in evaluate(name, table)}


SOUND: dict[str, Callable[[], pl.DataFrame]] = {
    "archive_columns": lambda: tables.columns(rows()),
    "archive_positions": lambda: tables.positions(rows()),
    "archive_readings": lambda: tables.readings(rows()),
    "archive_days": lambda: days(rows()),
    "archive_mote_days": lambda: mote_days(rows()),
    "archive_deliveries": lambda: deliveries(dead=0, of=100),
    "hot_store_mote_days": lambda: compared(rows(), rows()),
    "hot_store_age": lambda: tables.age(5 * MINUTE, 6 * MINUTE),
    "aggregates_days": lambda: counted(7, 7, 7),
}
SEVERITIES = {
    ("archive_columns", "schema"): "error",
    ("archive_positions", "positions_unique"): "error",
    ("archive_readings", "ranges"): "warning",
    ("archive_readings", "nulls"): "warning",
    ("archive_days", "keys_repeated"): "warning",
    ("archive_days", "freshness"): "warning",
    ("archive_mote_days", "completeness"): "warning",
    ("archive_deliveries", "parse_errors"): "warning",
    ("hot_store_mote_days", "equals_archive"): "warning",
    ("hot_store_age", "freshness"): "warning",
    ("aggregates_days", "counts_equal_archive"): "error",
}


def test_every_suite_is_tried_here() -> None:
    assert set(SOUND) == set(SUITES)
    checks = {(name, expectation.meta["check"]) for name in SUITES for expectation in suite(name).expectations}
    assert checks == set(SEVERITIES)


@pytest.mark.parametrize("name", SUITES)
def test_sound_data_meet_every_expectation(name: str) -> None:
    table = SOUND[name]()
    assert table.height
    verdicts = evaluate(name, table)
    assert [verdict.text for verdict in verdicts if not verdict.passed] == []
    for verdict in verdicts:
        assert verdict.severity == SEVERITIES[name, verdict.check]
        assert (verdict.rows, verdict.unexpected, verdict.unexpected_rows) == (table.height, 0, [])
        assert verdict.results


@pytest.mark.parametrize("name", SUITES)
def test_nothing_to_judge_breaks_nothing(name: str) -> None:
    assert all(verdict.passed for verdict in evaluate(name, SOUND[name]().clear()))


def _first_only(name: str, value: object) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == 0).then(value).otherwise(pl.col(name))


BROKEN: list[tuple[str, Callable[[], pl.DataFrame], str, str, list[dict]]] = [
    (
        "archive_columns",
        lambda: tables.columns(rows(3).drop("voltage")),
        "schema",
        "columns of another type: 1 of 10 (10.00%)",
        [{"column": "voltage", "found": "missing", "expected": "Float32"}],
    ),
    (
        "archive_columns",
        lambda: tables.columns(rows(3).cast({"temperature": pl.Float64})),
        "schema",
        "columns of another type: 1 of 10 (10.00%)",
        [{"column": "temperature", "found": "Float64", "expected": "Float32"}],
    ),
    (
        "archive_columns",
        lambda: tables.columns(rows(3, timestamp=pl.lit(None))),
        "schema",
        "key columns with nulls: 1 of 10 (10.00%)",
        [{"column": "timestamp", "null_keys": 3}],
    ),
    (
        "archive_positions",
        lambda: tables.positions(pl.concat([rows(10), rows(4, mote_id=2, first_offset=8), rows(1, mote_id=3)])),
        "positions_unique",
        "days of a mote with rows that share a position: 3 of 3 (100.00%)",
        [
            {"date": "1970-01-01", "mote_id": 1, "source": "stream:a", "rows": 10, "repeated": 3, "source_offset": "0"},
            {"date": "1970-01-01", "mote_id": 2, "source_partition": 0, "rows": 4, "repeated": 2, "source_offset": "8"},
            {"date": "1970-01-01", "mote_id": 3, "rows": 1, "repeated": 1, "source_offset": "0"},
        ],
    ),
    (
        "archive_positions",
        lambda: tables.positions(pl.concat([rows(10), rows(3, mote_id=2, first_offset=100), rows(1, first_offset=7)])),
        "positions_unique",
        "days of a mote with rows that share a position: 1 of 2 (50.00%)",
        [{"mote_id": 1, "rows": 11, "repeated": 2, "source_offset": "7"}],
    ),
    *(
        (
            "archive_readings",
            lambda name=name, value=value: tables.readings(
                rows(50, **{name: pl.when(pl.int_range(50) == 7).then(value).otherwise(1.9)})
            ),
            "ranges",
            f"impossible {name}: 1 of 50 (2.00%)",
            [{"mote_id": 1, "timestamp": "1970-01-01T00:03:30.000000000Z", name: pytest.approx(value)}],
        )
        for name in FIELDS
        for value in (QUANTITIES[name].low - 0.1, QUANTITIES[name].high + 0.1)
    ),
    *(
        (
            "archive_readings",
            lambda name=name: tables.readings(rows(10, **{name: pl.when(pl.int_range(10) != 7).then(1.9)})),
            "nulls",
            f"no {name}: 1 of 10 (10.00%)",
            [{"mote_id": 1, "timestamp": "1970-01-01T00:03:30.000000000Z", name: None}],
        )
        for name in FIELDS
    ),
    (
        "archive_days",
        lambda: days(pl.concat([rows(), rows(40, first_offset=5_000)])),
        "keys_repeated",
        "days on which 1% of the rows repeat a mote and timestamp: 1 of 1 (100.00%)",
        [{"date": "1970-01-01", "rows": 2_920, "repeated": 40}],
    ),
    (
        "archive_days",
        lambda: days(rows(A_DAY - 62)),
        "freshness",
        "days whose readings end more than 30 minutes early: 1 of 1 (100.00%)",
        [{"date": "1970-01-01", "lag_minutes": 31.5}],
    ),
    (
        "archive_days",
        lambda: days(rows(0)),
        "freshness",
        "days whose readings end more than 30 minutes early: 1 of 1 (100.00%)",
        [{"date": "1970-01-01", "rows": 0, "lag_minutes": 1440.0}],
    ),
    (
        "archive_mote_days",
        lambda: mote_days(pl.concat([rows(), rows(100, mote_id=2), rows(50, mote_id=2, first_offset=500)])),
        "completeness",
        "days of a mote with less than 90% of its readings: 1 of 2 (50.00%)",
        [{"date": "1970-01-01", "mote_id": 2, "readings": 100, "expected": A_DAY}],
    ),
    (
        "archive_mote_days",
        lambda: mote_days(rows(0)),
        "completeness",
        "days of a mote with less than 90% of its readings: 1 of 1 (100.00%)",
        [{"date": "1970-01-01", "mote_id": None, "readings": 0}],
    ),
    (
        "archive_deliveries",
        lambda: deliveries(dead=1, of=1_000),
        "parse_errors",
        "files or days of the stream with 0.1% records without meaning: 1 of 1 (100.00%)",
        [{"source": "stream", "date": "1970-01-01", "records": 1_000, "dead": 1}],
    ),
    (
        "archive_deliveries",
        lambda: deliveries(dead=1, of=10, app="history/file"),
        "parse_errors",
        "files or days of the stream with 0.1% records without meaning: 1 of 1 (100.00%)",
        [{"source": "history:file", "date": None, "records": 10, "dead": 1}],
    ),
    (
        "hot_store_mote_days",
        lambda: compared(rows(99), rows(100)),
        "equals_archive",
        "days of a mote with another number of readings: 1 of 1 (100.00%)",
        [{"date": "1970-01-01", "mote_id": 1, "hot_readings": 99, "archive_readings": 100}],
    ),
    (
        "hot_store_mote_days",
        lambda: compared(rows(), rows().with_columns(_first_only("light", 120.01).cast(pl.Float32).alias("light"))),
        "equals_archive",
        "days of a mote with another sum of light: 1 of 1 (100.00%)",
        [{"date": "1970-01-01", "mote_id": 1, "hot_readings": A_DAY, "archive_readings": A_DAY}],
    ),
    (
        "hot_store_mote_days",
        lambda: compared(rows(5), rows(5, mote_id=2)),
        "equals_archive",
        "days of a mote with another number of readings: 2 of 2 (100.00%)",
        [{"mote_id": 1, "archive_readings": 0}, {"mote_id": 2, "hot_readings": 0}],
    ),
    (
        "hot_store_age",
        lambda: tables.age(5 * MINUTE, 16 * MINUTE),
        "freshness",
        "no reading in the last 10 minutes: 1 of 1 (100.00%)",
        [{"newest": "1970-01-01T00:05:00.000000000Z", "lag_minutes": 11.0}],
    ),
    (
        "hot_store_age",
        lambda: tables.age(None, 16 * MINUTE),
        "freshness",
        "no reading in the last 10 minutes: 1 of 1 (100.00%)",
        [{"newest": None, "lag_minutes": 16.0}],
    ),
    (
        "aggregates_days",
        lambda: counted(7, 6, 7),
        "counts_equal_archive",
        "days on which the count of all motes differs from the archive: 1 of 1 (100.00%)",
        [{"date": "2026-05-01", "archived": 7, "building": 7, "motes": 6}],
    ),
    (
        "aggregates_days",
        lambda: counted(8, 7, 7),
        "counts_equal_archive",
        "days on which the count of the building differs from the archive: 1 of 1 (100.00%)",
        [{"date": "2026-05-01", "archived": 7, "building": 8, "motes": 7}],
    ),
]


@pytest.mark.parametrize(("name", "table", "check", "says", "shown"), BROKEN)
def test_a_breach_breaks_its_check_and_shows_the_rows(
    name: str, table: Callable[[], pl.DataFrame], check: str, says: str, shown: list[dict]
) -> None:
    verdict = by_check(name, table())[check]
    assert not verdict.passed
    assert says in verdict.text
    assert len(verdict.unexpected_rows) == len(shown)
    for row, expected in zip(verdict.unexpected_rows, shown, strict=True):
        assert {column: row[column] for column in expected} == expected


def test_a_breach_of_one_check_leaves_the_others_of_its_suite() -> None:
    broken = tables.readings(rows(100, temperature=pl.lit(122.153)))
    assert {check for check, verdict in by_check("archive_readings", broken).items() if not verdict.passed} == {
        "ranges"
    }


@pytest.mark.parametrize(("impossible", "passed"), [(10, True), (11, False)])
def test_impossible_values_are_tolerated_up_to_one_percent(impossible: int, passed: bool) -> None:
    found = pl.concat([rows(1_000 - impossible), rows(impossible, first_offset=5_000, temperature=pl.lit(122.153))])
    verdict = by_check("archive_readings", tables.readings(found))["ranges"]
    assert (verdict.passed, verdict.unexpected) == (passed, impossible)
    assert verdict.share == pytest.approx(impossible / 1_000)


@pytest.mark.parametrize("name", FIELDS)
def test_values_on_the_limits_are_possible(name: str) -> None:
    for limit in (QUANTITIES[name].low, QUANTITIES[name].high):
        assert by_check("archive_readings", tables.readings(rows(5, **{name: pl.lit(limit)})))["ranges"].passed


@pytest.mark.parametrize(("missing", "passed"), [(49, True), (50, False)])
def test_nulls_are_tolerated_below_five_percent(missing: int, passed: bool) -> None:
    found = pl.concat([rows(1_000 - missing), rows(missing, first_offset=5_000, light=pl.lit(None))])
    assert by_check("archive_readings", tables.readings(found))["nulls"].passed is passed


@pytest.mark.parametrize(("repeats", "passed"), [(29, True), (30, False)])
def test_repeated_keys_are_tolerated_below_one_percent_of_a_day(repeats: int, passed: bool) -> None:
    found = pl.concat([rows(), rows(repeats, first_offset=5_000)])
    assert by_check("archive_days", days(found))["keys_repeated"].passed is passed


@pytest.mark.parametrize(("readings", "passed"), [(2_592, True), (2_591, False)])
def test_ninety_percent_of_the_expected_readings_are_complete(readings: int, passed: bool) -> None:
    assert by_check("archive_mote_days", mote_days(rows(readings)))["completeness"].passed is passed


def test_motes_that_are_known_and_silent_are_missed() -> None:
    verdict = by_check("archive_mote_days", mote_days(rows(), *range(1, 55)))["completeness"]
    assert (verdict.passed, verdict.unexpected, verdict.rows) == (False, 53, 54)
    assert not by_check("archive_mote_days", mote_days(rows(0), 7))["completeness"].passed


def test_one_silent_mote_of_ten_is_tolerated() -> None:
    nine = [rows(mote_id=mote) for mote in range(1, 10)]
    few = [rows(5, mote_id=10)]
    assert by_check("archive_mote_days", mote_days(pl.concat(nine + few)))["completeness"].passed
    assert not by_check("archive_mote_days", mote_days(pl.concat(nine[1:] + few)))["completeness"].passed


@pytest.mark.parametrize(("dead", "passed"), [(1, True), (2, False)])
def test_a_record_in_a_thousand_may_be_without_meaning(dead: int, passed: bool) -> None:
    assert by_check("archive_deliveries", deliveries(dead=dead, of=1_001 + dead - 1))["parse_errors"].passed is passed


def test_rows_without_position_share_none() -> None:
    by_hand = rows(10, source=pl.lit(None), source_offset=pl.lit(None))
    found = tables.positions(pl.concat([rows(5), by_hand]))
    assert found["rows"].to_list() == [5]
    assert by_check("archive_positions", found)["positions_unique"].passed


def test_the_same_offset_of_another_partition_or_source_is_another_position() -> None:
    other = [rows(5, source_partition=pl.lit(1)), rows(5, source=pl.lit("history:b"))]
    found = tables.positions(pl.concat([rows(5), *other]))
    assert found.height == 3
    assert by_check("archive_positions", found)["positions_unique"].passed


def test_only_the_first_unexpected_rows_are_shown() -> None:
    verdict = by_check("archive_readings", tables.readings(rows(500, temperature=pl.lit(122.153))))["ranges"]
    assert (len(verdict.unexpected_rows), verdict.unexpected) == (SHOWN_ROWS, 500)


def test_a_table_that_is_not_the_suites_is_an_error_that_says_so() -> None:
    with pytest.raises(ExpectationError, match=r"freshness of hot_store_age could not be evaluated.*lag_minutes"):
        evaluate("hot_store_age", pl.DataFrame({"other": [1.0]}))
