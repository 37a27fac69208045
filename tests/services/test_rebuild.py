"""The hot store rebuilt by Dagster's job on the servers: InfluxDB from S3, the run's own record in PostgreSQL."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform.defs.operations.rebuild import rebuild_hot_store
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Commit, LedgerEntry
from sieis_platform.stores.hot import AGGREGATE_SCHEMA, Period
from sieis_platform.stores.influx import InfluxClient
from sieis_platform.stores.influx.setup import prepare
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.timeline import DAY_NS, TimelineFile
from tests.faults.compare import hot_equals_archive
from tests.installation import Installation
from tests.services.derived import on_servers, with_dagster
from tests.unit.sieis_platform.history_file import hot_rows
from tools.services.instance import Instance
from tools.services.servers.postgres import query

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

A_DAY, MOTES = 144, 3
#: Days before today that have readings. InfluxDB keeps 30 of readings and daily aggregates, 90 of hourly ones.
AGO = (100, 60, 28, 10, 1)
RETENTION = {"daily": 30, "hourly": 90}
TODAY = today()


def day(ago: int) -> dt.date:
    return TODAY - dt.timedelta(days=ago)


def readings() -> pl.DataFrame:
    """A reading every ten minutes of each mote and day, every fifth without light."""
    index = pl.int_range(A_DAY, dtype=pl.Int64)
    frames = [
        pl.select(
            pl.lit(mote).alias("mote_id"),
            (Window(day(ago), day(ago)).start_ns + index * (DAY_NS // A_DAY)).alias("timestamp"),
            (18 + mote + index % 7 / 4).alias("temperature"),
            (40 + index % 3).alias("humidity"),
            pl.when(index % 5 != 0).then(100.0 + ago).alias("light"),
            pl.lit(2.625).alias("voltage"),
        )
        for ago in AGO
        for mote in range(1, MOTES + 1)
    ]
    return pl.concat(frames).select(pl.col(name).cast(kind) for name, kind in READING_SCHEMA.items())


def archive(settings: Settings) -> None:
    """The readings as the stream appends them; the newest comes twice, with other values."""
    rows = pl.concat([readings(), readings().tail(1).with_columns(pl.lit(30.0, pl.Float32).alias("temperature"))])
    rows = rows.with_columns(
        source=pl.lit("stream:one"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(pl.len(), dtype=pl.Int64),
    )
    entry = LedgerEntry(app="sensor_readings/one/0", start=0, end=rows.height, stored=rows.height)
    made = open_archive(settings)
    made.create()
    made.append(Commit(rows, [entry], {entry.app: None}))


@pytest.fixture
def installation(
    influxdb: Instance, minio: Instance, postgres: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    """Readings of five days within three months, and their aggregates."""
    processes = on_servers([influxdb, minio], postgres, tmp_path, monkeypatch)
    TimelineFile.of(processes.settings).fix(processes.settings, dt.date(2004, 2, 28), max(AGO))
    archive(processes.settings)
    with with_dagster(processes.settings) as made:
        for ago in AGO:
            made.run("refresh", Window(day(ago), day(ago)), *MARTS.values())
        yield made


def emptied(settings: Settings, influxdb: Instance) -> None:
    """Every point of both buckets gone, as after a volume that was lost and set up again."""
    operator = InfluxClient(
        influxdb.address, org=settings.influx_org, token=influxdb.credentials["token"], timeout_seconds=30
    )
    for bucket in (settings.influx_bucket, settings.influx_hourly_bucket):
        operator.delete(bucket, {"start": "1970-01-01T00:00:00Z", "stop": "2100-01-01T00:00:00Z"})
    operator.close()
    assert hot_rows(settings).is_empty()


Contents = tuple[pl.DataFrame, dict[Period, pl.DataFrame]]


def complete(installation: Installation) -> Contents:
    """What the hot store holds: all that archive and marts have of the days that it keeps, and nothing else."""
    settings = installation.settings
    assert hot_equals_archive(settings) == sum(ago <= RETENTION["daily"] for ago in AGO) * A_DAY * MOTES
    shown = {period: installation.hot_aggregates(period) for period in MARTS}
    for period, mart in MARTS.items():
        within = Window(day(RETENTION[period]), TODAY).start_ns
        expected = installation.mart(mart).filter(pl.col("period_start") >= within).select(AGGREGATE_SCHEMA.names())
        assert expected["period_start"].n_unique() == sum(ago < RETENTION[period] for ago in AGO) * (
            24 if period == "hourly" else 1
        )
        assert_frame_equal(shown[period], expected, check_exact=True)
    return hot_rows(settings), shown


def same(one: Contents, other: Contents) -> None:
    assert_frame_equal(one[0], other[0], check_exact=True)
    for period in MARTS:
        assert_frame_equal(one[1][period], other[1][period], check_exact=True)


def test_an_emptied_hot_store_is_filled_again_and_again_changes_nothing(
    installation: Installation, influxdb: Instance, postgres: Instance
) -> None:
    installation.run(rebuild_hot_store.name)
    first = complete(installation)
    emptied(installation.settings, influxdb)
    told = []
    for _ in range(2):
        done = installation.run(rebuild_hot_store.name)
        (event,) = done.get_asset_materialization_events()
        told.append({name: value.value for name, value in event.materialization.metadata.items()})
        same(complete(installation), first)
    rows = first[0].height
    assert {(one["readings_written"], one["dagster/row_count"], one["refused"]) for one in told} == {(rows, rows, 0)}
    # The runs are told on the server, where `sieis up` and the containers look.
    url = installation.settings.dagster_database_url
    assert url is not None
    name = url.get_secret_value().rpartition("/")[2]
    counted = query(postgres.place, "select count(*) from runs where status = 'SUCCESS'", database=name)
    assert int(counted) == len(AGO) + 3


def test_what_only_the_stream_has_written_stays(installation: Installation) -> None:
    installation.run(rebuild_hot_store.name)
    live = readings().tail(3).with_columns(pl.col("timestamp") + DAY_NS // A_DAY // 2)
    hot = open_hot(installation.settings)
    hot.write_readings(live)
    hot.close()
    before = hot_rows(installation.settings)
    installation.run(rebuild_hot_store.name)
    assert_frame_equal(hot_rows(installation.settings), before, check_exact=True)


def test_buckets_that_were_deleted_are_made_by_setup_and_filled_by_the_job(
    installation: Installation, influxdb: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.run(rebuild_hot_store.name)
    before = complete(installation)
    settings = installation.settings
    token = influxdb.credentials["token"]
    operator = InfluxClient(influxdb.address, org=settings.influx_org, token=token, timeout_seconds=30)
    names = (settings.influx_bucket, settings.influx_hourly_bucket)
    for bucket in [operator.api("GET", "/buckets", params={"name": name})["buckets"][0] for name in names]:
        operator.api("DELETE", f"/buckets/{bucket['id']}")
    operator.close()
    new = prepare(settings).token
    assert settings.influx_token is not None
    # The old token was for the old buckets, whatever their names.
    assert new != settings.influx_token.get_secret_value()
    monkeypatch.setenv("SIEIS_INFLUX_TOKEN", new)
    again = Installation(Settings(_env_file=None), installation.instance)  # pyright: ignore[reportCallIssue]
    again.run(rebuild_hot_store.name)
    same(complete(again), before)
