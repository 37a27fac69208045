"""The nightly job that removes what the hot store no longer keeps, on a real instance: gone from the file, and told."""

import datetime as dt
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from sieis_platform.defs.operations.hot_retention import HOT_RETENTION, expire_hot_store, nightly_hot_retention
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.hot import AGGREGATE_MARTS, AGGREGATE_SCHEMA
from sieis_platform.stores.open import open_hot
from sieis_platform.stores.sqlite import SqliteHotStore
from sieis_platform.timeline import DAY_NS
from tests.installation import Installation

NOW = time.time_ns()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Installation(Settings(data_dir=tmp_path / "var"), instance)


def readings(*rows: tuple[int, int]) -> pl.DataFrame:
    """Readings of (mote, days ago)."""
    full = [(mote, NOW - days * DAY_NS, 21.0, 40.0, 1.0, 2.7) for mote, days in rows]
    return pl.DataFrame(full, schema=READING_SCHEMA, orient="row")


def aggregates(*ago: int) -> pl.DataFrame:
    """Aggregates of one mote, so many days ago."""
    starts = pl.DataFrame({"period_start": [NOW - days * DAY_NS for days in ago]})
    rest = [pl.lit(1).alias(name) for name in AGGREGATE_SCHEMA if name != "period_start"]
    return starts.with_columns(rest).select(AGGREGATE_SCHEMA.names())


def rows_in_file(settings: Settings) -> dict[str, int]:
    with sqlite3.connect(settings.hot_path) as connection:
        tables = ("readings", *AGGREGATE_MARTS.values())
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def scheduled(settings: Settings) -> list[dg.RunRequest]:
    moment = dt.datetime(2026, 5, 4, 3, 10, tzinfo=dt.UTC)
    with dg.build_schedule_context(
        scheduled_execution_time=moment, resources={"platform": PlatformResource.of(settings)}
    ) as context:
        return list(nightly_hot_retention.evaluate_tick(context).run_requests or [])


def test_what_the_hot_store_no_longer_keeps_is_removed_every_night(made: Installation) -> None:
    # As it was filled months ago; motes 1 and 3 have been silent since.
    then = SqliteHotStore(made.settings.hot_path, now_ns=lambda: NOW - 60 * DAY_NS)
    then.write_readings(readings((1, 61), (2, 60), (3, 31), (2, 29)))
    for period in AGGREGATE_MARTS:
        then.write_aggregates(period, aggregates(89, 60, 29))
    then.write_aggregates("hourly", aggregates(100))
    then.close()
    assert rows_in_file(made.settings) == {"readings": 4, "hourly_aggregates": 4, "daily_aggregates": 3}

    hot = open_hot(made.settings)
    before = (hot.latest(), hot.aggregates("hourly", 0, NOW))
    assert len(scheduled(made.settings)) == 1
    told = []
    for _ in range(2):
        done = made.run(expire_hot_store.name)
        (event,) = done.asset_materializations_for_node(HOT_RETENTION.to_user_string())
        told.append({name: value.value for name, value in event.metadata.items()})
        assert rows_in_file(made.settings) == {"readings": 1, "hourly_aggregates": 3, "daily_aggregates": 1}
    removed = ("readings_removed", "hourly_aggregates_removed", "daily_aggregates_removed", "dagster/row_count")
    assert [[one[name] for name in removed] for one in told] == [[3, 1, 2, 1], [0, 0, 0, 1]]
    oldest = dt.datetime.fromtimestamp((NOW - 29 * DAY_NS) // 10**9, dt.UTC)
    assert str(told[0]["first"]).startswith(oldest.strftime("%Y-%m-%d"))
    # It was not shown before either: nothing but the file has changed.
    assert before[0]["mote_id"].to_list() == [2]
    assert (hot.latest().equals(before[0]), hot.aggregates("hourly", 0, NOW).equals(before[1])) == (True, True)
    hot.close()


def test_a_hot_store_that_was_never_written_stays_unwritten(made: Installation) -> None:
    made.run(expire_hot_store.name)
    assert not made.settings.hot_path.exists()


def test_influxdb_does_it_by_itself(tmp_path: Path) -> None:
    assert scheduled(Settings(data_dir=tmp_path, influx_url="http://127.0.0.1:8086")) == []
