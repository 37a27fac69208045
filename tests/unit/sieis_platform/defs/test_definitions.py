"""The code location: it loads with nothing there, and holds exactly these assets, checks, jobs and schedules."""

import datetime as dt
import os
import socket
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.partitions import Window, daily_partitions, history_partitions, today
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups.late import Cursor, windows
from sieis_platform.settings import Settings
from sieis_platform.timeline import TimelineFile

ROOT = Path(__file__).parents[4]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation that nothing has been done with."""
    return Settings(data_dir=tmp_path / "none")


@pytest.fixture
def definitions(settings: Settings) -> dg.Definitions:
    """Its definitions."""
    return build_definitions(settings)


def test_definitions_load_without_network_and_data(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("loading the definitions opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    dg.Definitions.validate_loadable(build_definitions(settings))
    assert not settings.data_dir.exists()


def test_the_workspace_names_a_module_that_loads(tmp_path: Path) -> None:
    entry = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-m", entry["module_name"]]
    environment = {**os.environ, "SIEIS_DATA_DIR": str(tmp_path / "none"), "DAGSTER_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_assets(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {node.key.to_user_string(): (node.group_name, node.is_partitioned) for node in graph.asset_nodes}
    assert found == {
        "sensor_readings": ("stream", False),
        "dead_letters": ("stream", False),
        "hot_store": ("stream", False),
        "historical_readings": ("archive", True),
        "archive": ("archive", False),
        "archive_open_day": ("archive", False),
        "archive_closed_days": ("archive", True),
        "archive_retention": ("archive", False),
        "ledger": ("archive", False),
        "archive_vacuum": ("archive", False),
        "storage_report": ("archive", False),
        "hourly_aggregates": ("rollups", True),
        "daily_aggregates": ("rollups", True),
        "anomaly_model": ("ml", False),
        "anomalies": ("ml", True),
    }
    for node in graph.asset_nodes:
        assert node.description, node.key
        assert node.owners, node.key
        assert node.kinds, node.key


def test_lineage_reaches_from_the_topic_to_the_anomalies(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    parents = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey("anomalies"))}
    assert parents == {
        "sensor_readings",
        "historical_readings",
        "archive",
        "hourly_aggregates",
        "daily_aggregates",
        "anomaly_model",
    }


def test_checks_and_which_of_them_block(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {(key.asset_key.to_user_string(), key.name): graph.get(key).blocking for key in graph.asset_check_keys}
    assert found == {
        ("archive", "schema"): True,
        ("archive", "positions_unique"): True,
        ("archive", "keys_repeated"): False,
        ("archive", "ranges"): False,
        ("archive", "nulls"): False,
        ("archive", "completeness"): False,
        ("hourly_aggregates", "counts_equal_archive"): True,
        ("daily_aggregates", "counts_equal_archive"): True,
    }


def test_jobs_and_what_they_run(definitions: dg.Definitions) -> None:
    jobs = {
        job.name: {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
        for job in definitions.resolve_all_job_defs()
        if not job.name.startswith("__")
    }
    aggregates = {"hourly_aggregates", "daily_aggregates"}
    assert jobs == {
        "observe_archive": {"archive"},
        "compact_open_day": {"archive_open_day"},
        "close_day": {"archive_closed_days"},
        "retention": {"archive_retention"},
        "vacuum": {"ledger", "archive_vacuum", "storage_report"},
        "refresh": {*aggregates, "anomalies"},
        "refresh_and_train": {*aggregates, "anomaly_model", "anomalies"},
    }


def test_schedules_run_without_being_switched_on(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    assert {
        schedule.name: (schedule.cron_schedule, schedule.job_name, schedule.default_status)
        for schedule in repository.schedule_defs
    } == {
        "hourly_refresh": ("5 * * * *", "refresh", dg.DefaultScheduleStatus.RUNNING),
        "nightly": ("30 1 * * *", "refresh_and_train", dg.DefaultScheduleStatus.RUNNING),
        "hourly_compaction": ("20 * * * *", "compact_open_day", dg.DefaultScheduleStatus.RUNNING),
        "daily_closing": ("40 0 * * *", "close_day", dg.DefaultScheduleStatus.RUNNING),
        "nightly_retention": ("20 2 * * *", "retention", dg.DefaultScheduleStatus.RUNNING),
        "nightly_vacuum": ("45 2 * * *", "vacuum", dg.DefaultScheduleStatus.RUNNING),
        "archive_observation_schedule": ("*/15 * * * *", "observe_archive", dg.DefaultScheduleStatus.RUNNING),
    }


def test_sensors_run_without_being_switched_on(definitions: dg.Definitions) -> None:
    sensors = definitions.get_repository_def().sensor_defs
    assert {(sensor.name, sensor.job_name, sensor.default_status) for sensor in sensors} >= {
        ("late_data", "refresh", dg.DefaultSensorStatus.RUNNING)
    }


def test_days_become_as_few_windows_as_hold_exactly_them() -> None:
    days = [dt.date(2026, 3, day) for day in (9, 1, 2, 4, 5, 6, 3)]
    assert windows(days, most=4) == [
        Window(dt.date(2026, 3, 1), dt.date(2026, 3, 4)),
        Window(dt.date(2026, 3, 5), dt.date(2026, 3, 6)),
        Window(dt.date(2026, 3, 9), dt.date(2026, 3, 9)),
    ]
    assert windows([]) == []


def test_a_cursor_that_someone_has_set_by_hand_is_no_cursor() -> None:
    kept = Cursor("table", 7, {"2026-03-01": 5})
    assert Cursor.read(kept.text()) == kept
    assert Cursor.read(None) is Cursor.read("12") is Cursor.read("nonsense") is None


def test_schedules_wait_for_an_archive(definitions: dg.Definitions, settings: Settings) -> None:
    repository = definitions.get_repository_def()
    for schedule in repository.schedule_defs:
        context = dg.build_schedule_context(
            scheduled_execution_time=dt.datetime(2026, 5, 4, 10, 5, tzinfo=dt.UTC),
            resources={"platform": PlatformResource.of(settings)},
        )
        data = schedule.evaluate_tick(context)
        assert data.run_requests == []
        assert "no archive yet" in (data.skip_message or "")


def test_what_rewrites_the_archive_waits_for_each_other(definitions: dg.Definitions) -> None:
    rewriting = {"archive_open_day", "archive_closed_days", "archive_retention", "archive_vacuum"}
    pools = {
        key.to_user_string(): asset.op.pool
        for asset in definitions.resolve_asset_graph().assets_defs
        for key in asset.keys
        if asset.is_executable
    }
    assert {name for name, pool in pools.items() if pool == "archive"} == rewriting


def test_partitions_reach_from_the_first_day_of_history_to_today(settings: Settings) -> None:
    TimelineFile.of(settings).fix(settings, dt.date(2004, 2, 28), 35)
    keys = daily_partitions(settings).get_partition_keys()
    assert keys[0] == (today() - dt.timedelta(days=35)).isoformat()
    assert keys[-1] == today().isoformat()


def test_history_has_a_partition_for_each_day_before_the_anchor(settings: Settings) -> None:
    assert history_partitions(settings).get_partition_keys()[-1] == (today() - dt.timedelta(days=1)).isoformat()
    timeline = TimelineFile.of(settings).fix(settings, dt.date(2004, 2, 28), 35)
    assert history_partitions(settings).get_partition_keys() == [str(day) for day in timeline.history_days]


def test_without_a_timeline_partitions_reach_back_a_month(settings: Settings) -> None:
    assert len(daily_partitions(settings).get_partition_keys()) == 31


def test_no_secret_is_shown_with_the_resource(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, api_key="hunter2", fleet_size=7)  # pyright: ignore[reportArgumentType]
    resource = PlatformResource.of(settings)
    assert "hunter2" not in repr(resource)
    assert "api_key" not in resource.overrides
    assert resource.settings().fleet_size == 7
    assert resource.settings().data_dir == tmp_path


def test_the_instance_file_is_one_file() -> None:
    packaged = ROOT / "sieis_platform" / "defs" / "operations" / "dagster.yaml"
    assert (ROOT / "dagster_home" / "dagster.yaml").resolve() == packaged
    assert yaml.safe_load(packaged.read_text())["telemetry"] == {"enabled": False}


def test_a_window_falls_into_batches_without_gap_or_overlap() -> None:
    window = Window(dt.date(2026, 2, 27), dt.date(2026, 3, 9))
    batches = list(window.batches(4))
    assert [batch.days for batch in batches] == [4, 4, 3]
    assert [key for batch in batches for key in batch.keys] == window.keys
    assert (batches[0].start_ns, batches[-1].end_ns) == (window.start_ns, window.end_ns)
    assert Window.of_tags(window.tags()) == window
    assert Window.of_tags({}) is None
