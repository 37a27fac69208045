"""What every hot store must do (stores/hot.py), on every store in STORES. Not here: what only one of them does."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from sieis_platform.reading import MAX_MOTE_ID, READING_SCHEMA
from sieis_platform.stores.hot import (
    AGGREGATE_SCHEMA,
    DAILY_SUMS_SCHEMA,
    LATEST_SCHEMA,
    Expired,
    HotStore,
    HotStoreError,
    Period,
    WriteOutcome,
)
from sieis_platform.stores.sqlite import SqliteHotStore
from sieis_platform.timeline import DAY_NS
from tests.influxdb import Buckets

#: 2026-02-20 00:00 UTC, the clock of the tests.
NOW_NS = 20_504 * DAY_NS
PERIODS: list[Period] = ["daily", "hourly"]
RETENTION_DAYS, HOURLY_RETENTION_DAYS = 30, 90


def readings(rows: list[tuple]) -> pl.DataFrame:
    """Rows (mote_id, timestamp, temperature, humidity, light, voltage); missing trailing values are null."""
    width = len(READING_SCHEMA)
    padded = [row + (None,) * (width - len(row)) for row in rows]
    return pl.DataFrame(padded, schema=READING_SCHEMA, orient="row")


Clock = Callable[[], int]
Make = Callable[[Clock], HotStore]


#: Every HotStore there is: the contract tests run on each. A new store is added here and in `make_store`.
STORES = ["sqlite", pytest.param("influx", marks=pytest.mark.services)]


@pytest.fixture(scope="module", params=STORES)
def make_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes empty hot stores with a clock of their own."""
    kept = {"retention_days": RETENTION_DAYS, "hourly_retention_days": HOURLY_RETENTION_DAYS}
    if request.param == "sqlite":
        return lambda clock: SqliteHotStore(tmp_path_factory.mktemp("hot") / "hot.sqlite", **kept, now_ns=clock)
    # The buckets keep all: the server's clock is not the tests' (influx/test_server.py has its retention).
    # Compressed, as between machines; test_server.py sees that it is.
    buckets: Buckets = request.getfixturevalue("buckets")
    return lambda clock: buckets.store(**kept, compress=True, now_ns=clock)


@pytest.fixture
def hot(make_store: Make) -> Iterator[HotStore]:
    """An empty hot store."""
    store = make_store(lambda: NOW_NS)
    yield store
    store.close()


T = NOW_NS - DAY_NS


def test_an_empty_store_answers_with_empty_frames(hot: HotStore) -> None:
    hot.ping()
    assert_frame_equal(hot.latest(), pl.DataFrame(schema=LATEST_SCHEMA))
    assert_frame_equal(hot.latest([1]), pl.DataFrame(schema=LATEST_SCHEMA))
    assert_frame_equal(hot.readings(0, NOW_NS), pl.DataFrame(schema=READING_SCHEMA))
    assert_frame_equal(hot.readings(0, NOW_NS, [1], limit=5), pl.DataFrame(schema=READING_SCHEMA))
    assert_frame_equal(hot.aggregates("daily", 0, NOW_NS), pl.DataFrame(schema=AGGREGATE_SCHEMA))
    assert_frame_equal(hot.daily_sums(0, NOW_NS), pl.DataFrame(schema=DAILY_SUMS_SCHEMA))
    assert hot.count_readings() == hot.count_readings(0, NOW_NS) == 0
    assert hot.delete_readings(0, NOW_NS) == 0
    assert hot.expire() == Expired(0, 0, 0)


def test_an_empty_frame_is_written_as_nothing(hot: HotStore) -> None:
    assert hot.write_readings(readings([])) == WriteOutcome(0, 0)
    hot.write_aggregates("hourly", pl.DataFrame(schema=AGGREGATE_SCHEMA))
    assert hot.count_readings() == 0


def test_values_come_back_to_the_last_bit_and_null_stays_null(hot: HotStore) -> None:
    rows = readings(
        [
            (1, T, 122.153, -8983.13, 0.1, 2.03397),
            (1, T + 1, None, None, None, None),
            (MAX_MOTE_ID, T + 1, 1e-45, -0.0, 3.4028235e38, 0.0),
        ]
    )
    hot.write_readings(rows)
    assert_frame_equal(hot.readings(T, T + 2), rows, check_exact=True)


def test_other_columns_and_other_widths_of_number_are_taken(hot: HotStore) -> None:
    rows = readings([(1, T, 21.5)])
    wide = rows.cast({"mote_id": pl.Int64, "temperature": pl.Float64}).with_columns(source=pl.lit("x"))
    hot.write_readings(wide.select(reversed(wide.columns)))
    assert_frame_equal(hot.readings(T, T + 1), rows)


def test_the_last_row_of_a_key_wins_within_a_frame_and_across_writes(
    hot: HotStore,
) -> None:
    hot.write_readings(readings([(2, T, 1.0), (1, T, 1.0), (1, T, 2.0), (2, T, 3.0), (1, T, None)]))
    assert hot.readings(T, T + 1)["temperature"].to_list() == [None, 3.0]
    hot.write_readings(readings([(1, T, 7.0)]))
    assert hot.readings(T, T + 1)["temperature"].to_list() == [7.0, 3.0]
    assert hot.count_readings() == 2


def test_the_last_row_of_a_key_wins_in_a_large_frame(hot: HotStore) -> None:
    hot.write_readings(readings([(i % 7 + 1, T + i % 5, float(i)) for i in range(35_000)]))
    found = hot.readings(T, T + 5)
    assert found.height == 35
    assert min(found["temperature"]) == 35_000 - 35


def test_writing_twice_changes_nothing(hot: HotStore) -> None:
    rows = readings([(mote, T + i, float(i)) for mote in (3, 1, 2) for i in range(50)])
    hot.write_readings(rows)
    once = hot.readings(0, NOW_NS)
    assert hot.write_readings(rows) == WriteOutcome(150, 0)
    assert_frame_equal(hot.readings(0, NOW_NS), once)


def test_rows_beyond_the_retention_are_refused_and_counted(hot: HotStore) -> None:
    edge = NOW_NS - RETENTION_DAYS * DAY_NS
    outcome = hot.write_readings(readings([(1, edge - 1, 1.0), (1, edge, 2.0), (2, 0, 3.0)]))
    assert outcome == WriteOutcome(1, 2)
    assert hot.readings(0, NOW_NS)["temperature"].to_list() == [2.0]
    assert hot.write_readings(readings([(1, edge - 1, 1.0)])) == WriteOutcome(0, 1)


def test_latest_is_the_newest_reading_of_each_mote_not_the_last_written(
    hot: HotStore,
) -> None:
    hot.write_readings(readings([(7, T + 5, 75.0), (3, T + 1, 31.0), (7, T + 9, 79.0)]))
    hot.write_readings(readings([(7, T + 6, 76.0), (1_000_000, T, 1.0)]))
    latest = hot.latest()
    assert latest.select("mote_id", "timestamp", "temperature").rows() == [
        (3, T + 1, 31.0),
        (7, T + 9, 79.0),
        (1_000_000, T, 1.0),
    ]
    assert latest.schema == LATEST_SCHEMA
    for text in latest["updated_timestamp"]:
        assert dt.datetime.fromisoformat(text).utcoffset() == dt.timedelta(0)


def test_latest_of_some_motes_ignores_unknown_and_repeated_ids(hot: HotStore) -> None:
    hot.write_readings(readings([(mote, T, 0.0) for mote in (1, 2, 3)]))
    assert hot.latest([3, 1, 3, 99])["mote_id"].to_list() == [1, 3]
    assert hot.latest([])["mote_id"].to_list() == []


def test_readings_take_the_half_open_interval_in_time_order(hot: HotStore) -> None:
    hot.write_readings(readings([(mote, T + i) for mote in (2, 1) for i in range(4)]))
    found = hot.readings(T + 1, T + 3)
    assert found.select("timestamp", "mote_id").rows() == [
        (T + 1, 1),
        (T + 1, 2),
        (T + 2, 1),
        (T + 2, 2),
    ]
    assert hot.readings(T + 1, T + 3, [2])["timestamp"].to_list() == [T + 1, T + 2]
    assert hot.readings(T + 3, T + 1).is_empty()
    assert hot.readings(T, T + 3, []).is_empty()


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 8, 100])
def test_a_limit_keeps_the_first_rows_across_long_silences(hot: HotStore, limit: int) -> None:
    hour = 3_600 * 10**9
    first, later = T - 20 * DAY_NS, T - 3 * DAY_NS
    times = [first, first + hour, first + 3 * hour, later, later + hour, T - hour, T, T + 1]
    rows = readings([(i % 2 + 1, ns, float(i)) for i, ns in enumerate(times)])
    hot.write_readings(rows)
    assert_frame_equal(hot.readings(0, NOW_NS, limit=limit), rows.head(limit))
    odd = rows.filter(pl.col("mote_id") == 1)
    assert_frame_equal(hot.readings(0, NOW_NS, [1], limit=limit), odd.head(limit))


def test_counts_take_open_bounds(hot: HotStore) -> None:
    hot.write_readings(readings([(mote, T + i) for mote in (1, 2) for i in range(3)]))
    assert hot.count_readings() == 6
    assert hot.count_readings(start_ns=T + 1) == 4
    assert hot.count_readings(end_ns=T + 1) == 2
    assert hot.count_readings(T + 1, T + 2) == 2


def test_daily_sums_count_and_add_up_each_mote_and_day_of_the_half_open_interval(hot: HotStore) -> None:
    midnight = T  # NOW_NS is one, too
    hot.write_readings(
        readings(
            [
                (1, midnight - 2, 10.0, 1.0),
                (1, midnight - 1, 20.5, None),
                (1, midnight, 1.0, None),
                (2, midnight + 5, -3.25, 40.0, 0.5, 2.5),
                (2, midnight + 7, 4.0),
            ]
        )
    )
    hot.write_readings(readings([(1, midnight - 1, 21.5, None)]))
    before = midnight - DAY_NS
    whole = [
        (1, before, 2, 31.5, 1.0, 0.0, 0.0),
        (1, midnight, 1, 1.0, 0.0, 0.0, 0.0),
        (2, midnight, 2, 0.75, 40.0, 0.5, 2.5),
    ]
    found = hot.daily_sums(before, midnight + DAY_NS)
    assert found.schema == DAILY_SUMS_SCHEMA
    assert found.rows() == whole
    # A range that begins and ends within a day counts that part of it, on that day.
    assert hot.daily_sums(midnight - 1, midnight + 7).rows() == [
        (1, before, 1, 21.5, 0.0, 0.0, 0.0),
        whole[1],
        (2, midnight, 1, -3.25, 40.0, 0.5, 2.5),
    ]
    assert hot.daily_sums(midnight + 7, midnight + 7).is_empty()


def test_deleting_removes_the_interval_of_the_motes_asked_for(hot: HotStore) -> None:
    hot.write_readings(readings([(mote, T + i) for mote in (1, 2, 3) for i in range(4)]))
    assert hot.delete_readings(T + 1, T + 3, [1, 3, 99]) == 4
    assert hot.readings(0, NOW_NS).select("mote_id", "timestamp").sort("mote_id").rows() == [
        (1, T),
        (1, T + 3),
        (2, T),
        (2, T + 1),
        (2, T + 2),
        (2, T + 3),
        (3, T),
        (3, T + 3),
    ]
    assert hot.delete_readings(T, T + 4) == 8
    assert hot.latest().is_empty()


def aggregates(rows: list[tuple[int, int, float | None]]) -> pl.DataFrame:
    """Rows (mote_id, period_start, temp_avg), all else null or 0."""
    frame = pl.DataFrame(rows, schema=["mote_id", "period_start", "temp_avg"], orient="row")
    rest = {name: dtype for name, dtype in AGGREGATE_SCHEMA.items() if name not in frame.columns}
    empty = [pl.lit(None if dtype == pl.Float64 else 0, dtype).alias(name) for name, dtype in rest.items()]
    return frame.with_columns(empty).select(AGGREGATE_SCHEMA.names()).cast(AGGREGATE_SCHEMA)


@pytest.mark.parametrize("period", ["hourly", "daily"])
def test_aggregates_overwrite_their_period_and_come_in_order(hot: HotStore, period: Period) -> None:
    hot.write_aggregates(period, aggregates([(2, T, 1.0), (0, T, 1 / 3), (1, T + 1, None), (2, T, 5.0)]))
    hot.write_aggregates(period, aggregates([(0, T, 2 / 3)]))
    expected = aggregates([(0, T, 2 / 3), (2, T, 5.0), (1, T + 1, None)])
    assert_frame_equal(hot.aggregates(period, T, T + 2), expected, check_exact=True)
    assert hot.aggregates(period, T, T + 1)["mote_id"].to_list() == [0, 2]
    assert hot.aggregates(period, T, T + 2, [1, 99])["mote_id"].to_list() == [1]
    other: Period = "daily" if period == "hourly" else "hourly"
    assert hot.aggregates(other, T, T + 2).is_empty()


@pytest.mark.parametrize("period", ["hourly", "daily"])
def test_replaced_aggregates_are_all_there_is_in_their_window(hot: HotStore, period: Period) -> None:
    step = {"hourly": 3_600 * 10**9, "daily": DAY_NS}[period]
    starts = [T - T % step + i * step for i in range(5)]
    hot.write_aggregates(period, aggregates([(mote, ns, 1.0) for ns in starts for mote in (0, 1, 2)]))
    # Of mote 1 the third period is gone, of mote 2 all of the window: its second to fourth period.
    new = aggregates([(0, starts[1], 2.0), (0, starts[2], 2.0), (1, starts[1], 3.0), (1, starts[3], None)])
    kept = aggregates([(mote, ns, 1.0) for ns in (starts[0], starts[4]) for mote in (0, 1, 2)])
    expected = pl.concat([new, kept]).sort("period_start", "mote_id")
    for _ in range(2):
        hot.replace_aggregates(period, new, starts[1], starts[4])
        assert_frame_equal(hot.aggregates(period, starts[0], starts[4] + 1), expected, check_exact=True)
    hot.replace_aggregates(period, aggregates([]), starts[0], starts[4])
    assert hot.aggregates(period, 0, NOW_NS + 9 * DAY_NS).rows() == kept.tail(3).rows()


def test_aggregates_outside_the_window_they_replace_are_refused(hot: HotStore) -> None:
    hot.write_aggregates("hourly", aggregates([(1, T, 1.0)]))
    with pytest.raises(HotStoreError, match="outside the window"):
        hot.replace_aggregates("hourly", aggregates([(1, T, 2.0), (1, T + DAY_NS, 2.0)]), T, T + DAY_NS)
    assert hot.aggregates("hourly", T, T + 2 * DAY_NS)["temp_avg"].to_list() == [1.0]


@pytest.mark.parametrize(("period", "days"), [("daily", RETENTION_DAYS), ("hourly", HOURLY_RETENTION_DAYS)])
def test_aggregates_beyond_their_retention_are_dropped(hot: HotStore, period: Period, days: int) -> None:
    edge = NOW_NS - days * DAY_NS
    hot.write_aggregates(period, aggregates([(1, edge - 1, 1.0), (1, edge, 2.0)]))
    hot.replace_aggregates(period, aggregates([(2, edge - 1, 1.0), (2, edge, 2.0)]), edge - 1, edge + 1)
    assert hot.aggregates(period, 0, NOW_NS).select("mote_id", "period_start").rows() == [(2, edge)]


def test_what_grows_older_than_the_retention_is_in_no_answer_and_can_be_removed(make_store: Make) -> None:
    clock = [NOW_NS]
    hot = make_store(lambda: clock[0])
    # Mote 1 has died, mote 2 lives; of both periods there are aggregates of the same days.
    days = [NOW_NS - DAY_NS, NOW_NS + 28 * DAY_NS, NOW_NS + 30 * DAY_NS]
    hot.write_readings(readings([(1, days[0], 1.0), (2, days[0], 2.0)]))
    for period in PERIODS:
        hot.write_aggregates(period, aggregates([(1, ns, 1.0) for ns in days]))
    clock[0] = NOW_NS + 29 * DAY_NS
    hot.write_readings(readings([(2, days[1], 3.0)]))
    assert hot.latest()["timestamp"].to_list() == [days[0], days[1]]
    assert hot.expire() == Expired(0, 0, 0), "on its last day everything is there"
    assert hot.count_readings() == 3

    def answers() -> None:
        assert hot.latest().select("mote_id", "timestamp", "temperature").rows() == [(2, days[1], 3.0)]
        assert hot.latest([1]).is_empty()
        assert hot.readings(0, clock[0])["timestamp"].to_list() == [days[1]]
        assert hot.readings(0, clock[0], [1, 2], limit=5)["timestamp"].to_list() == [days[1]]
        assert hot.readings(0, days[0] + 1).is_empty()
        assert hot.count_readings() == hot.count_readings(start_ns=0) == hot.count_readings(end_ns=clock[0]) == 1
        assert hot.daily_sums(0, clock[0])["day_start"].to_list() == [days[1]]
        assert hot.aggregates("daily", 0, clock[0])["period_start"].to_list() == days[1:]
        assert hot.aggregates("hourly", 0, clock[0] + DAY_NS)["period_start"].to_list() == days

    clock[0] += DAY_NS + 1
    answers()
    hot.expire()
    answers()
    assert hot.expire() == Expired(0, 0, 0)
    clock[0] = days[0] + HOURLY_RETENTION_DAYS * DAY_NS
    assert hot.aggregates("hourly", 0, clock[0])["period_start"].to_list() == days
    clock[0] += 1
    assert hot.aggregates("hourly", 0, clock[0])["period_start"].to_list() == days[1:]
    assert hot.aggregates("daily", 0, clock[0]).is_empty()
    hot.expire()
    assert hot.aggregates("hourly", 0, clock[0])["period_start"].to_list() == days[1:]
    assert hot.latest().is_empty()
    hot.close()


def test_threads_write_and_read_one_instance_at_once(hot: HotStore) -> None:
    rounds, writers = 20, 3
    errors: list[BaseException] = []
    done = threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - asserted on below, in the test's own thread
                errors.append(error)

        return run

    def write(mote: int) -> None:
        for i in range(rounds):
            hot.write_readings(readings([(mote, T + i * 100 + j, float(i)) for j in range(100)]))

    def read() -> None:
        while not done.is_set():
            latest = hot.latest()
            # A write this small is one transaction: a reader sees all of it or nothing.
            assert all((ns - T) % 100 == 99 for ns in latest["timestamp"])

    threads = [threading.Thread(target=guarded(lambda mote=mote: write(mote))) for mote in range(1, writers + 1)]
    reader = threading.Thread(target=guarded(read))
    reader.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    assert errors == []
    assert hot.count_readings() == writers * rounds * 100


# -- against a dict ----------------------------------------------------------------------------------------------------
OLDEST = NOW_NS - RETENTION_DAYS * DAY_NS
motes = st.sampled_from([1, 2, 3, 54, MAX_MOTE_ID])
# Around the retention edge, around one instant, and hours apart.
times = st.one_of(
    st.integers(OLDEST - 3, OLDEST + 3),
    st.integers(T, T + 5),
    st.builds(lambda hours: OLDEST + hours * 3_600 * 10**9, st.integers(0, 720)),
)
values = st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False)
frames = st.lists(st.tuples(motes, times, values, values, values, values), max_size=12)
spans = st.tuples(times, times).map(sorted)
some_motes = st.none() | st.lists(motes, max_size=3)
steps = st.one_of(
    st.tuples(st.just("write"), frames),
    st.tuples(st.just("delete"), spans, some_motes),
    st.tuples(st.just("age"), st.integers(0, 40 * 24)),
    st.tuples(st.just("expire")),
    st.tuples(st.just("read"), spans, some_motes, st.none() | st.integers(0, 8)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(steps, max_size=10))
def test_it_behaves_like_a_dict(make_store: Make, script: list[tuple]) -> None:
    clock = [NOW_NS]
    store = make_store(lambda: clock[0])
    model: dict[tuple[int, int], tuple] = {}

    def oldest() -> int:
        return clock[0] - RETENTION_DAYS * DAY_NS

    def selected(start: int, end: int, asked: list[int] | None) -> list[tuple[int, int]]:
        start = max(start, oldest())
        keys = [key for key in model if start <= key[1] < end and (asked is None or key[0] in asked)]
        return sorted(keys, key=lambda key: (key[1], key[0]))

    for step, *arguments in script:
        if step == "write":
            rows = arguments[0]
            kept = [row for row in rows if row[1] >= oldest()]
            assert store.write_readings(readings(rows)) == WriteOutcome(
                len(kept),
                len(rows) - len(kept),
            )
            model.update({row[:2]: row for row in kept})
        elif step == "delete":
            (start, end), asked = arguments
            doomed = selected(start, end, asked)
            # Whether what is too old was still there to be deleted is the store's own affair.
            older = sum(start <= key[1] < min(end, oldest()) and (asked is None or key[0] in asked) for key in model)
            assert 0 <= store.delete_readings(start, end, asked) - len(doomed) <= older
            for key in doomed:
                del model[key]
        elif step == "age":
            clock[0] += arguments[0] * 3_600 * 10**9
        elif step == "expire":
            store.expire()
        else:
            (start, end), asked, limit = arguments
            expected = [model[key] for key in selected(start, end, asked)][:limit]
            assert_frame_equal(
                store.readings(start, end, asked, limit),
                readings(expected),
                check_exact=True,
            )
    model = {key: row for key, row in model.items() if key[1] >= oldest()}
    newest = {mote: max(ns for m, ns in model if m == mote) for mote, _ in model}
    latest = [model[key] for key in sorted(newest.items())]
    assert_frame_equal(
        store.latest().select(READING_SCHEMA.names()),
        readings(latest),
        check_exact=True,
    )
    assert store.count_readings() == len(model)
    store.close()
