"""What only InfluxDB does, on a real one: its retention, refused points, outages, hostile names."""

import logging
import threading
import time
from collections.abc import Iterator

import polars as pl
import pytest
import structlog
from polars.testing import assert_frame_equal

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.hot import (
    AGGREGATE_SCHEMA,
    AggregatesRefusedError,
    HotStoreError,
    HotStoreUnavailableError,
    WriteOutcome,
)
from sieis_platform.stores.influx import InfluxClient, InfluxHotStore
from sieis_platform.stores.influx.lines import AGGREGATES
from sieis_platform.timeline import DAY_NS
from tests.front import Front
from tests.influxdb import Buckets

pytestmark = pytest.mark.services

NOW = time.time_ns()


def many(rows: int, motes: int = 54, start: int = NOW - DAY_NS) -> pl.DataFrame:
    """So many readings, one a mote and second."""
    index = pl.int_range(rows, dtype=pl.Int64, eager=True).alias("i")
    frame = pl.DataFrame(index).select(
        (pl.col("i") % motes + 1).alias("mote_id"),
        (start + pl.col("i") // motes * 1_000_000_000).alias("timestamp"),
        *((pl.col("i") * step % 1000 / 7).alias(name) for step, name in enumerate(list(READING_SCHEMA)[2:], 1)),
    )
    return frame.cast(READING_SCHEMA)


def one(mote: int, ns: int, temperature: float | None = 1.0) -> pl.DataFrame:
    return pl.DataFrame([(mote, ns, temperature, None, None, None)], schema=READING_SCHEMA, orient="row")


@pytest.fixture
def store(buckets: Buckets) -> Iterator[InfluxHotStore]:
    made = buckets.store()
    yield made
    made.close()


# -- refused points ----------------------------------------------------------------------------------------------------
def test_the_servers_own_retention_is_counted_and_the_rest_of_the_batch_written(buckets: Buckets) -> None:
    store = buckets.store(bucket_days=1)
    rows = pl.concat([one(1, NOW - 3 * DAY_NS), one(1, NOW), one(2, NOW - 2 * DAY_NS), one(2, NOW - DAY_NS // 2)])
    assert store.write_readings(rows) == WriteOutcome(written=2, beyond_retention=2)
    assert store.count_readings() == 2
    assert store.write_readings(one(3, 0)) == WriteOutcome(written=0, beyond_retention=1)


def test_aggregates_older_than_their_bucket_are_dropped_in_silence(buckets: Buckets) -> None:
    store = buckets.store(bucket_days=1)
    old = pl.DataFrame({"mote_id": [0], "period_start": [0]})
    empty = [pl.lit(None).alias(name) for name in store.aggregates("daily", 0, 1).columns if name not in old.columns]
    store.write_aggregates("daily", old.with_columns(empty))
    assert store.aggregates("daily", 0, NOW).is_empty()


def test_refused_aggregates_are_an_error_and_the_others_are_written(store: InfluxHotStore) -> None:
    stray = f'sensor_reading_hourly_agg,mote_id=9 temp_avg="warm" {NOW}'
    assert store._client.write(store._buckets["hourly"], stray.encode()).status_code == 204
    wanted = pl.DataFrame({"mote_id": [1, 2], "period_start": [NOW, NOW], "temp_avg": [1.0, None]})
    rest = [pl.lit(1).alias(name) for name in AGGREGATE_SCHEMA if name not in wanted.columns]
    rows = wanted.with_columns(rest).select(AGGREGATE_SCHEMA.names())
    for write in (
        lambda: store.write_aggregates("hourly", rows),
        lambda: store.replace_aggregates("hourly", rows, NOW, NOW + 1),
    ):
        with pytest.raises(AggregatesRefusedError, match=r"refused 1 of 2 hourly aggregates .*field type conflict"):
            write()
    assert store.aggregates("hourly", 0, NOW + 1)["mote_id"].to_list() == [2]
    # What the error says to do: the points of the other writer deleted, nothing is refused any more.
    store._delete(store._buckets["hourly"], AGGREGATES["hourly"], NOW - DAY_NS, NOW + DAY_NS, None)
    store.write_aggregates("hourly", rows)
    assert store.aggregates("hourly", 0, NOW + 1)["mote_id"].to_list() == [1, 2]


def test_points_refused_for_another_reason_are_counted_and_logged_in_the_servers_words(store: InfluxHotStore) -> None:
    stray = f'sensor_reading,mote_id=9 temperature="warm" {NOW}'
    assert store._client.write(store._bucket, stray.encode()).status_code == 204
    with structlog.testing.capture_logs() as logs:
        outcome = store.write_readings(pl.concat([one(1, NOW), one(2, NOW, None)]))
    assert outcome == WriteOutcome(written=1, beyond_retention=0, refused=1)
    assert [(entry["log_level"], entry["points"]) for entry in logs] == [("error", 1)]
    assert "field type conflict" in logs[0]["reason"]
    assert store.readings(0, NOW + 1)["mote_id"].to_list() == [2]


#: InfluxDB's time ends one nanosecond before ours, and it answers a batch with such a line 400 and takes nothing of it.
UNREADABLE_NS = 2**63 - 1


@pytest.mark.parametrize("bad", [1, 7, 150])
def test_lines_that_the_server_cannot_read_cost_only_themselves(store: InfluxHotStore, bad: int) -> None:
    good = many(1_000)
    unreadable = many(bad).with_columns(
        timestamp=pl.lit(UNREADABLE_NS, pl.Int64), mote_id=pl.int_range(bad, dtype=pl.Int32)
    )
    rows = pl.concat([good, unreadable]).sample(fraction=1, shuffle=True, seed=bad)
    with structlog.testing.capture_logs() as logs:
        assert store.write_readings(rows) == WriteOutcome(written=1_000, beyond_retention=0, refused=bad)
    assert_frame_equal(store.readings(0, NOW + 1), good.sort("timestamp", "mote_id"), check_exact=True)
    assert len(logs) == bad
    assert all("time outside range" in entry["reason"] for entry in logs)


def test_a_batch_of_which_the_server_reads_no_line_is_not_passed_over(store: InfluxHotStore) -> None:
    rows = many(100).with_columns(timestamp=pl.lit(UNREADABLE_NS, pl.Int64), mote_id=pl.int_range(100, dtype=pl.Int32))
    assert store.write_readings(rows[:99]).refused == 99
    with pytest.raises(HotStoreError, match=r"refuses each of 100 rows.*time outside range"):
        store.write_readings(rows)


def test_a_field_that_somebody_made_text_does_not_count_a_whole_batch_as_refused(store: InfluxHotStore) -> None:
    stray = f'sensor_reading,mote_id=9 temperature="warm" {NOW}'
    assert store._client.write(store._bucket, stray.encode()).status_code == 204
    with pytest.raises(HotStoreError, match=r"refuses each of 500 rows.*field type conflict"):
        store.write_readings(many(500, start=NOW))


def test_a_large_write_in_several_requests_at_once_is_as_one(buckets: Buckets) -> None:
    store = buckets.store(bucket_days=2, request_rows=1_000)
    # Each key three times, thousands of rows apart, some beyond the retention: the last one must win, by mote and time.
    rows = pl.concat(many(6_000).with_columns(pl.lit(value, pl.Float32).alias("temperature")) for value in (1, 2, 3))
    old = many(600, start=NOW - 9 * DAY_NS)
    assert store.write_readings(pl.concat([rows, old])) == WriteOutcome(written=18_000, beyond_retention=600)
    expected = rows.tail(6_000).sort("timestamp", "mote_id")
    assert_frame_equal(store.readings(0, NOW + 1), expected, check_exact=True)


@pytest.mark.parametrize(("compress", "encoding"), [(True, "gzip"), (False, "")])
def test_what_goes_over_the_wire_compressed_or_not_arrives_whole(
    buckets: Buckets, compress: bool, encoding: str
) -> None:
    rows = many(20_000)
    with Front(buckets.server.address) as front:
        store = buckets.store(compress=compress, url=front.address)
        assert store.write_readings(rows) == WriteOutcome(20_000, 0)
        assert store.write_readings(pl.concat([one(60, NOW), one(60, UNREADABLE_NS)])) == WriteOutcome(1, 0, 1)
        store.close()
    assert {write.encoding for write in front.writes} == {encoding}
    sent = sum(write.size for write in front.writes if write.status == 204) / rows.height
    assert (sent < 100) == compress, f"{sent:.0f} bytes a row"
    direct = InfluxHotStore(buckets.operator, bucket=store._bucket, hourly_bucket="h", retention_days=None)
    assert_frame_equal(
        direct.readings(0, NOW + 1),
        pl.concat([rows, one(60, NOW)]).sort("timestamp", "mote_id"),
        check_exact=True,
    )


def test_a_large_write_that_fails_in_one_lane_has_ended_in_all(buckets: Buckets) -> None:
    store = buckets.store(request_rows=1_000)
    store.close()
    with pytest.raises(HotStoreError, match="closed"):
        store.write_readings(many(20_000))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("influx")]


# -- values ------------------------------------------------------------------------------------------------------------
def test_the_real_readings_come_back_to_the_last_bit(buckets: Buckets, real_readings: pl.DataFrame) -> None:
    store = buckets.store()
    expected = real_readings.filter(pl.col("mote_id").is_in([1, 33])).sort("timestamp", "mote_id")
    assert store.write_readings(expected) == WriteOutcome(expected.height, 0)
    found = store.readings(0, NOW)
    assert_frame_equal(found, expected, check_exact=True)
    assert_frame_equal(
        store.latest().select(READING_SCHEMA.names()),
        expected.group_by("mote_id").last().select(READING_SCHEMA.names()).sort("mote_id"),
        check_exact=True,
    )


def test_infinite_values_stay_infinite_and_nan_is_none(store: InfluxHotStore) -> None:
    rows = pl.concat([one(1, NOW, float("inf")), one(2, NOW, float("-inf")), one(3, NOW, float("nan"))])
    store.write_readings(rows)
    assert store.readings(NOW, NOW + 1)["temperature"].to_list() == [float("inf"), float("-inf"), None]


def test_an_overwritten_row_leaves_no_value_behind(store: InfluxHotStore) -> None:
    store.write_readings(one(1, NOW, 122.153))
    store.write_readings(one(1, NOW, None))
    assert store.readings(NOW, NOW + 1)["temperature"].to_list() == [None]
    assert store.latest()["temperature"].to_list() == [None]


def test_a_read_during_writes_shows_each_mote_with_a_whole_reading(store: InfluxHotStore) -> None:
    store.write_readings(many(54, start=NOW))
    done = threading.Event()
    wrong: list[pl.DataFrame] = []

    def read() -> None:
        while not done.is_set():
            latest, readings = store.latest(), store.readings(NOW, NOW + DAY_NS)
            for frame in (latest, readings):
                half = frame.filter(pl.any_horizontal(pl.col(list(READING_SCHEMA)).is_null()))
                if half.height or frame["mote_id"].n_unique() < 54:
                    wrong.append(frame)

    reader = threading.Thread(target=read)
    reader.start()
    for second in range(1, 150):
        store.write_readings(many(54, start=NOW + second * 1_000_000_000))
    done.set()
    reader.join()
    assert wrong == []


# -- hostile names -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["b\\", "${1/0}", "c\nd", "é ☃ /?&#%", "{start}"])
def test_a_name_is_never_part_of_a_query(buckets: Buckets, name: str) -> None:
    org = buckets.operator.api("GET", "/orgs", params={"org": "sieis"})["orgs"][0]["id"]
    buckets.operator.api("POST", "/buckets", body={"orgID": org, "name": name, "retentionRules": []})
    store = InfluxHotStore(buckets.operator, bucket=name, hourly_bucket=name, retention_days=None)
    store.write_readings(one(1, NOW))
    assert store.count_readings() == store.latest().height == store.readings(0, NOW + 1).height == 1
    store.ping()
    assert store.delete_readings(0, NOW + 1, [1]) == 1


def test_a_name_with_quotes_is_a_bucket_that_is_not_there(buckets: Buckets) -> None:
    store = InfluxHotStore(buckets.operator, bucket='a") |> yield() //', hourly_bucket="h")
    with pytest.raises(HotStoreError, match="could not find bucket"):
        store.latest()


def test_motes_are_numbers_or_nothing(store: InfluxHotStore) -> None:
    store.write_readings(many(10))
    hostile = ['1" or r.mote_id != "1']
    for ask in (
        lambda: store.latest(hostile),  # type: ignore[arg-type]
        lambda: store.readings(0, NOW, hostile),  # type: ignore[arg-type]
        lambda: store.delete_readings(0, NOW, hostile),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="invalid literal"):
            ask()
    assert store.count_readings() == 10


def test_thousands_of_motes_can_be_asked_for(store: InfluxHotStore) -> None:
    store.write_readings(many(3_000, motes=3_000))
    assert store.latest(range(1, 3_001)).height == 3_000
    assert store.readings(0, NOW, range(2, 3_001)).height == 2_999


# -- secrets -----------------------------------------------------------------------------------------------------------
def test_the_token_is_nowhere_to_be_seen(buckets: Buckets, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "very-secret-token"
    store = InfluxHotStore(buckets.client(secret), bucket="sensor_data", hourly_bucket="h")
    seen = [repr(store), repr(store._client)]
    with structlog.testing.capture_logs() as logs:
        for ask in (store.latest, store.ping, lambda: store.write_readings(one(1, NOW))):
            with pytest.raises(HotStoreError, match="sieis setup") as caught:
                ask()
            seen += [str(caught.value), repr(caught.value)]
    assert secret not in "".join([*seen, *map(str, logs), caplog.text])


def test_a_missing_bucket_is_told(buckets: Buckets) -> None:
    store = InfluxHotStore(buckets.operator, bucket="nowhere", hourly_bucket="nowhere")
    for ask in (store.latest, store.ping, lambda: store.write_readings(one(1, NOW))):
        with pytest.raises(HotStoreError, match=r"nowhere.*sieis setup"):
            ask()


def test_a_closed_store_says_so(buckets: Buckets) -> None:
    store = buckets.store()
    store.close()
    with pytest.raises(HotStoreError, match="closed"):
        store.latest()


# -- outages -----------------------------------------------------------------------------------------------------------
def test_killed_and_restarted_it_has_what_it_acknowledged_and_repeats_change_nothing(buckets: Buckets) -> None:
    store = buckets.store(request_rows=500)
    rows = many(20_000)
    store.write_readings(rows[:5_000])
    buckets.server.kill()
    for ask in (
        lambda: store.write_readings(rows),
        store.latest,
        lambda: store.readings(0, NOW),
        store.count_readings,
        lambda: store.delete_readings(0, NOW),
        store.ping,
    ):
        with pytest.raises(HotStoreUnavailableError, match="does not answer"):
            ask()
    buckets.server.start()
    assert store.count_readings() == 5_000
    for _ in range(2):
        assert store.write_readings(rows) == WriteOutcome(20_000, 0)
    assert_frame_equal(store.readings(0, NOW), rows.sort("timestamp", "mote_id"), check_exact=True)


def test_killed_in_the_middle_of_writes_it_loses_nothing_that_is_repeated(buckets: Buckets) -> None:
    store = buckets.store(request_rows=200)
    rows = many(40_000)
    started, failed, restarted = threading.Event(), threading.Event(), threading.Event()
    written = []

    def write() -> None:
        for piece in rows.iter_slices(2_000):
            while True:
                try:
                    written.append(store.write_readings(piece).written)
                    break
                except HotStoreUnavailableError:
                    failed.set()
                    restarted.wait()
            started.set()

    writer = threading.Thread(target=write)
    writer.start()
    started.wait()
    buckets.server.kill()
    failed.wait()
    buckets.server.start()
    restarted.set()
    writer.join()
    assert sum(written) == 40_000
    assert_frame_equal(store.readings(0, NOW), rows.sort("timestamp", "mote_id"), check_exact=True)


def test_a_server_that_hangs_is_given_up_in_time(buckets: Buckets) -> None:
    store = buckets.store(timeout_seconds=0.3)
    buckets.server.pause()
    try:
        with pytest.raises(HotStoreUnavailableError, match="Timeout"):
            store.write_readings(one(1, NOW))
    finally:
        buckets.server.resume()
    store = buckets.store()
    assert store.write_readings(one(1, NOW)) == WriteOutcome(1, 0)


def test_an_address_where_nothing_listens_is_unavailable() -> None:
    client = InfluxClient("http://127.0.0.1:9", org="sieis", token="t", timeout_seconds=1)
    with pytest.raises(HotStoreUnavailableError, match=r"127\.0\.0\.1:9"):
        InfluxHotStore(client, bucket="b", hourly_bucket="h").latest()
