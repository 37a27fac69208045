"""What is wrong in the archive goes no further: neither by the schedules, nor by one asset alone, nor out of sight."""

import datetime as dt
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from deltalake import write_deltalake

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.defs.archive.jobs import close_day, move_cold
from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.failures import step_failure
from sieis_platform.defs.operations.alerting import failed_check, failed_run
from sieis_platform.defs.operations.jobs import hourly_refresh
from sieis_platform.defs.operations.materialize import materialize
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.stores.archive import Commit
from sieis_platform.stores.ledger import LedgerEntry
from sieis_platform.stores.open import open_archive, open_marts
from tests.installation import Installation
from tests.ticks import tick

pytestmark = pytest.mark.timeout(300)

APP = "sensor_readings/one/0"
MINUTES = 60
MOTES = 3


def day(ago: int) -> dt.date:
    return today() - dt.timedelta(days=ago)


def rows(ago: int, first_offset: int) -> pl.DataFrame:
    """An hour of one day, a reading a minute and mote, each with its position."""
    midnight = Window(day(ago), day(ago)).start_ns
    keys = [(mote, midnight + minute * 60 * 10**9) for mote in range(1, MOTES + 1) for minute in range(MINUTES)]
    frame = pl.DataFrame([(*key, 20.0, 40.0, 100.0, 2.7) for key in keys], READING_SCHEMA, orient="row")
    return frame.with_columns(
        source=pl.lit("stream:one"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(first_offset, first_offset + len(keys), dtype=pl.Int64),
    )


def append(settings: Settings, ago: int) -> None:
    """One flush of the stream."""
    archive = open_archive(settings)
    archive.create()
    position = archive.position(APP)
    flushed = rows(ago, position or 0)
    end = (position or 0) + flushed.height
    entry = LedgerEntry(app=APP, start=position or 0, end=end, stored=flushed.height)
    archive.append(Commit(flushed, [entry], {APP: position}))


def store_twice(settings: Settings, ago: int) -> None:
    """What must never happen: a reading of mote 2 that is there already, with the position it has."""
    stored = open_archive(settings).scan().filter(mote_id=2).sort("timestamp").collect()
    again = stored.filter(pl.col("timestamp") >= Window(day(ago), day(ago)).start_ns).head(1)
    open_archive(settings).append(Commit(again.drop("ingested_at"), [], {}))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The last three days, an hour each; no model."""
    settings = Settings(data_dir=tmp_path)
    for ago in (2, 1, 0):
        append(settings, ago)
    return settings


@pytest.fixture
def broken(settings: Settings) -> Settings:
    """The same, of yesterday and today one position twice."""
    for ago in (1, 0):
        store_twice(settings, ago)
    return settings


def alerts(settings: Settings, instance: dg.DagsterInstance, cursors: list[str | None]) -> list[str]:
    """Let the two sensors look, as the daemon does; the subjects of what they raised."""
    for number, sensor in enumerate((failed_run, failed_check)):
        cursors[number] = tick(sensor, settings, instance, cursors[number]).cursor
    with State.open(settings) as state:
        return sorted(stored.alert.subject for stored in state.recent_alerts(20))


def checked(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {
        f"{one.asset_key.to_user_string()}.{one.check_name}": one.passed for one in result.get_asset_check_evaluations()
    }


def made(result: dg.ExecuteInProcessResult) -> set[str]:
    return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}


def why(result: dg.ExecuteInProcessResult) -> str:
    (event,) = (one for one in result.all_events if one.is_step_failure)
    return step_failure(event)


def hourly(settings: Settings, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """What the schedule asks for at 10:05, run as it asks."""
    definitions = build_definitions(settings)
    with dg.build_schedule_context(
        repository_def=definitions.get_repository_def(),
        scheduled_execution_time=dt.datetime.combine(today(), dt.time(10, 5), dt.UTC),
        resources={"platform": PlatformResource.of(settings)},
    ) as context:
        (request,) = hourly_refresh.evaluate_tick(context).run_requests or []
    job = definitions.resolve_job_def("refresh")
    selected = list(request.asset_selection) if request.asset_selection else None
    return job.execute_in_process(
        instance=instance, partition_key=request.partition_key, asset_selection=selected, raise_on_error=False
    )


# -- while no model is trained -------------------------------------------------------------------------------------


def test_without_a_model_the_schedule_aggregates_and_checks_and_scores_nothing(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = hourly(settings, instance)
        assert result.success
        assert made(result) == {"hourly_aggregates", "daily_aggregates"}
        assert instance.get_materialized_partitions(dg.AssetKey("anomalies")) == set()
    found = checked(result)
    assert {"archive.schema", "archive.positions_unique", "hot_store.equals_archive"} <= found.keys()
    assert found["archive.positions_unique"]
    assert not open_marts(settings).exists("anomalies")


def test_without_a_model_the_schedule_derives_nothing_of_a_position_stored_twice(broken: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        cursors: list[str | None] = [None, None]
        assert alerts(broken, instance, cursors) == []
        result = hourly(broken, instance)
        assert not result.success
        assert made(result) == set()
        assert not checked(result)["archive.positions_unique"]
        raised = alerts(broken, instance, cursors)
    assert "check/archive: positions_unique" in raised
    assert any(subject.startswith("run/refresh") for subject in raised)
    assert not open_marts(broken).exists("daily_aggregates")


def test_without_a_model_late_data_are_checked_too(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        installation = Installation(settings, instance)
        assert installation.tick()
        executed = instance.event_log_storage.get_latest_asset_check_execution_by_key(
            [dg.AssetCheckKey(dg.AssetKey("archive"), "positions_unique")]
        )
    assert len(executed) == 1


def test_without_a_model_the_command_is_stopped_by_the_check(broken: Settings) -> None:
    summary = materialize(broken, None, None, train=False)
    assert summary.partitions_materialized == 0
    assert any("archive: positions_unique" in text for text in summary.failures)


# -- one asset alone -----------------------------------------------------------------------------------------------


def alone(settings: Settings, asset: str, window: Window) -> dg.ExecuteInProcessResult:
    """As the UI does where one asset is chosen: none of the archive's checks are in the run."""
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            instance=instance, tags=window.tags(), asset_selection=[dg.AssetKey(asset)], raise_on_error=False
        )


@pytest.mark.parametrize("asset", ["hourly_aggregates", "daily_aggregates"])
def test_an_asset_alone_is_not_made_of_a_position_stored_twice(broken: Settings, asset: str) -> None:
    result = alone(broken, asset, Window(day(2), day(0)))
    assert not result.success
    assert made(result) == set()
    assert not open_marts(broken).exists(asset)
    said = why(result)
    for part in ("positions_unique", day(1).isoformat(), "mote_id 2", "stream:one", "A check is broken"):
        assert part in said, said
    events = [one for one in result.all_events if one.is_step_failure]
    assert "UnsoundArchiveError" in str(events[0].step_failure_data.error)
    assert not any(one.is_step_up_for_retry for one in result.all_events)


def test_a_sound_day_beside_broken_ones_is_made(broken: Settings) -> None:
    assert alone(broken, "daily_aggregates", Window(day(2), day(2))).success


def test_an_asset_alone_is_not_made_of_an_archive_of_another_shape(settings: Settings) -> None:
    table = open_archive(settings).table()
    stored = pl.scan_delta(table).collect().drop("voltage")
    write_deltalake(table, stored, mode="overwrite", schema_mode="overwrite")
    result = alone(settings, "daily_aggregates", Window(day(1), day(1)))
    assert not result.success
    assert "schema: columns of another type" in why(result)
    assert "voltage" in why(result)


# -- the evidence --------------------------------------------------------------------------------------------------


def test_a_day_with_a_position_stored_twice_is_not_closed(broken: Settings) -> None:
    append(broken, 1)  # keys repeated, as they may be: closing would keep one row of each
    before = open_archive(broken).version()
    job = build_definitions(broken).resolve_job_def(close_day.name)
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, tags=Window(day(2), day(1)).tags(), raise_on_error=False)
    assert not result.success
    assert "positions_unique" in why(result)
    assert open_archive(broken).version() == before
    assert any("repeat a position" in finding for finding in audit_archive(open_archive(broken)).findings)


def test_a_day_with_a_position_stored_twice_stays_where_it_is(broken: Settings, tmp_path: Path) -> None:
    store_twice(broken, 2)
    chilly = broken.changed(archive_cold_uri=str(tmp_path / "cold"), archive_cold_after_days=1)
    job = build_definitions(chilly).resolve_job_def(move_cold.name)
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert "positions_unique" in why(result)
    archive = open_archive(chilly)
    found = archive.scan_live(archive.files(), day(2), day(2)).collect()
    assert found.height == MOTES * MINUTES + 1
