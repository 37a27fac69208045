"""The code location: it loads with nothing there, and each definition says what it must (listed in docs/dagster.md)."""

import datetime as dt
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.partitions import (
    Window,
    daily_partitions,
    history_partitions,
    is_fixed,
    reach_back,
    today,
    windows,
)
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups.late import Asked, Cursor
from sieis_platform.first_day import FirstDayError, FirstDayFile
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


def test_definitions_load_without_great_expectations() -> None:
    code = "import sys, sieis_platform.definitions; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_the_workspace_names_a_module_that_loads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", str(ROOT / "workspace.yaml")]
    environment = {**os.environ, "SIEIS_DATA_DIR": str(tmp_path / "none"), "DAGSTER_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_dagsters_own_command_line_finds_and_accepts_the_project(tmp_path: Path) -> None:
    environment = {**os.environ, "SIEIS_DATA_DIR": str(tmp_path / "none")}

    def dg_says(*words: str) -> str:
        command = [str(Path(sys.executable).with_name("dg")), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
        assert (done.returncode, "arning" in done.stderr) == (0, False), done.stderr
        return done.stdout

    assert "All definitions loaded successfully" in dg_says("check", "defs")
    listed = json.loads(dg_says("list", "defs", "--json"))
    assert "hourly_aggregates" in {asset["asset_key"] for asset in listed["assets"]}


def test_the_kind_of_the_hot_store_is_that_of_the_settings(tmp_path: Path) -> None:
    for url, kind in (("", "sqlite"), ("http://127.0.0.1:8086", "influxdb")):
        settings = Settings(data_dir=tmp_path, influx_url=url)
        specs = build_definitions(settings).resolve_all_asset_specs()
        assert next(spec.kinds for spec in specs if spec.key == dg.AssetKey("hot_store")) == {kind}


def test_lineage_reaches_from_the_topic_to_the_anomalies(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    parents = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey("anomalies"))}
    assert {
        "sensor_readings",
        "historical_readings",
        "archive",
        "hourly_aggregates",
        "daily_aggregates",
        "anomaly_model",
    } <= parents


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
        ("archive", "freshness"): False,
        ("archive", "parse_errors"): False,
        ("hot_store", "freshness"): False,
        ("hot_store", "equals_archive"): False,
        ("hourly_aggregates", "counts_equal_archive"): True,
        ("daily_aggregates", "counts_equal_archive"): True,
    }


def test_schedules_and_sensors_run_without_being_switched_on(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    statuses = {schedule.name: schedule.default_status for schedule in repository.schedule_defs}
    assert set(statuses.values()) == {dg.DefaultScheduleStatus.RUNNING}
    assert {sensor.default_status for sensor in repository.sensor_defs} == {dg.DefaultSensorStatus.RUNNING}


def test_every_job_ends_some_time_and_writers_of_a_store_wait_for_each_other(definitions: dg.Definitions) -> None:
    for job in definitions.resolve_all_job_defs():
        if not job.name.startswith("__"):
            assert int(job.tags["dagster/max_runtime"]) > 0, job.name
    pools = {
        name: {op.pool for op in definitions.resolve_job_def(name).all_node_defs if op.pool}
        for name in (
            "refresh",
            "refresh_and_train",
            "load_inbox",
            "rebuild_hot_store",
            "expire_hot_store",
            "build_data_docs",
        )
    }
    assert pools == {
        "refresh": {"marts"},
        "refresh_and_train": {"marts"},
        "load_inbox": {"archive"},
        "rebuild_hot_store": {"hot"},
        "expire_hot_store": {"hot"},
        "build_data_docs": {"data_docs"},
    }


def test_late_data_is_refreshed_by_the_same_job_as_the_schedules(definitions: dg.Definitions) -> None:
    (late,) = (one for one in definitions.get_repository_def().sensor_defs if one.name == "late_data")
    assert late.job_name == "refresh"


def test_days_become_as_few_windows_as_hold_exactly_them() -> None:
    days = [dt.date(2026, 3, day) for day in (9, 1, 2, 4, 5, 6, 3)]
    assert windows(days, most=4) == [
        Window(dt.date(2026, 3, 1), dt.date(2026, 3, 4)),
        Window(dt.date(2026, 3, 5), dt.date(2026, 3, 6)),
        Window(dt.date(2026, 3, 9), dt.date(2026, 3, 9)),
    ]
    assert windows([]) == []


def test_a_cursor_that_someone_has_set_by_hand_is_no_cursor() -> None:
    kept = Cursor("table", 7, {"2026-03-01": 5}, {"2026-03-01": Asked(6, 1_000)})
    assert Cursor.read(kept.text()) == kept
    assert Cursor.read(None) is Cursor.read("12") is Cursor.read("nonsense") is None


def test_schedules_wait_for_an_archive(definitions: dg.Definitions, settings: Settings) -> None:
    repository = definitions.get_repository_def()
    for schedule in repository.schedule_defs:
        if schedule.name in ("daily_cleanup", "nightly_hot_retention"):
            continue  # runs and live readings grow old without an archive too
        context = dg.build_schedule_context(
            scheduled_execution_time=dt.datetime(2026, 5, 4, 10, 5, tzinfo=dt.UTC),
            resources={"platform": PlatformResource.of(settings)},
        )
        data = schedule.evaluate_tick(context)
        assert data.run_requests == []
        expected = "no check has been made yet" if schedule.name == "data_docs_schedule" else "no archive yet"
        assert expected in (data.skip_message or "")


def test_what_rewrites_the_archive_waits_for_each_other(definitions: dg.Definitions) -> None:
    care = {"archive_open_day", "archive_closed_days", "archive_cold_days", "archive_retention", "archive_vacuum"}
    rewriting = {"historical_readings", *care}
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


def test_the_first_partition_is_fixed_with_the_first_look_and_only_ever_earlier(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first() -> dt.date:
        return daily_partitions(settings).start.date()

    now = today()
    assert not is_fixed(settings)
    reach_back(settings, [now])
    assert is_fixed(settings)
    monkeypatch.setattr("sieis_platform.defs.partitions.today", lambda: now + dt.timedelta(days=100))
    assert first() == now - dt.timedelta(days=30)
    reach_back(settings, [now + dt.timedelta(days=90), dt.date(1970, 1, 1)])  # no clock of a mote is that right
    assert first() == now - dt.timedelta(days=30)
    reach_back(settings, [now - dt.timedelta(days=31), dt.date(1970, 1, 1)])
    assert first() == now - dt.timedelta(days=31)
    assert [path.name for path in settings.data_dir.iterdir()] == ["partitions.json"]
    TimelineFile.of(settings).fix(settings, dt.date(2004, 2, 28), 35)  # which begins later than that reading did
    assert first() == now - dt.timedelta(days=35)
    FirstDayFile.of(settings).lower(now - dt.timedelta(days=50))
    assert first() == now - dt.timedelta(days=50)


@pytest.mark.parametrize("text", ["", "{}", '{"first_day": "yesterday"}', "\x00"])
def test_a_first_day_that_is_none_says_what_to_do(settings: Settings, text: str) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    (settings.data_dir / "partitions.json").write_text(text)
    with pytest.raises(FirstDayError, match="or delete it"):
        daily_partitions(settings)


def test_history_has_a_partition_for_each_day_before_the_anchor(settings: Settings) -> None:
    assert history_partitions(settings).get_partition_keys()[-1] == (today() - dt.timedelta(days=1)).isoformat()
    timeline = TimelineFile.of(settings).fix(settings, dt.date(2004, 2, 28), 35)
    assert history_partitions(settings).get_partition_keys() == [str(day) for day in timeline.history_days]


def test_without_a_timeline_partitions_reach_back_a_month(settings: Settings) -> None:
    assert len(daily_partitions(settings).get_partition_keys()) == 31


def test_no_secret_is_shown_with_the_resource(tmp_path: Path) -> None:
    secrets = {name: field for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert len(secrets) > 8
    given: dict[str, Any] = {
        name: f"postgresql+psycopg://sieis:hunter2@127.0.0.1:5432/{name}" if name.endswith("_url") else "hunter2"
        for name in secrets
    } | {"redis_url": "redis://:hunter2@127.0.0.1:6379/0", "alert_urls": "json://127.0.0.1/hunter2"}
    settings = Settings(data_dir=tmp_path, fleet_size=7, **given)
    resource = PlatformResource.of(settings)
    assert "hunter2" not in f"{resource!r} {resource.overrides} {resource.model_dump()}"
    assert set(resource.overrides) & set(secrets) == set()
    assert resource.settings().fleet_size == 7
    assert resource.settings().data_dir == tmp_path


def test_definitions_of_an_installation_on_servers_load_without_asking_one(tmp_path: Path) -> None:
    """Its servers are one socket that only notes who comes: also clients that are not Python's would be seen."""
    load = "from sieis_platform.definitions import defs; print(len(list(defs().resolve_all_asset_specs())))"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        told = {
            "SIEIS_DATA_DIR": str(tmp_path),
            "SIEIS_KAFKA_BOOTSTRAP": address,
            "SIEIS_INFLUX_URL": f"http://{address}",
            "SIEIS_INFLUX_TOKEN": "none",
            "SIEIS_ARCHIVE_URI": "s3://archive/readings",
            "SIEIS_MARTS_URI": "s3://marts/tables",
            "SIEIS_S3_ENDPOINT_URL": f"http://{address}",
            "SIEIS_S3_ALLOW_HTTP": "true",
            "SIEIS_S3_ACCESS_KEY_ID": "none",
            "SIEIS_S3_SECRET_ACCESS_KEY": "none",
            "SIEIS_STATE_URL": f"postgresql+psycopg://none:none@{address}/none",
            "SIEIS_DAGSTER_DATABASE_URL": f"postgresql://none:none@{address}/none",
            "SIEIS_MLFLOW_URI": f"http://{address}",
            "SIEIS_REDIS_URL": f"redis://{address}/0",
        }
        done = subprocess.run(
            [sys.executable, "-c", load],
            env={**os.environ, **told},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 10
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody waits to be let in
            server.accept()


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
