"""The Dagster instance as it is set up: limits, retries, what is kept; and its code server, spoken to over gRPC."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pytest
import yaml
from dagster._cli.job import _create_run  # how `dagster job launch` makes a run of a job that a code server tells of
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_representation.code_location import CodeLocation
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.home import environment, instance_config, prepare_home, prepare_workspace
from sieis_platform.settings import Settings
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
LOCATION = "sieis"


# -- the file ------------------------------------------------------------------------------------------------------


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """The instance of an installation, from the file that is shipped."""
    home = prepare_home(Settings(data_dir=tmp_path / "var"))
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home))) as made:
        yield made


def test_a_run_whose_process_died_is_found_ended_and_started_again_once(instance: dg.DagsterInstance) -> None:
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_poll_interval_seconds == 60
    assert instance.run_monitoring_start_timeout_seconds == instance.run_monitoring_cancel_timeout_seconds == 180
    assert instance.run_monitoring_max_runtime_seconds == 6 * 3_600
    assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 1)
    assert instance.run_retries_retry_on_asset_or_op_failure is False


def test_every_job_ends_before_the_longest_run_does(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    for job in build_definitions(Settings(data_dir=tmp_path)).resolve_all_job_defs():
        if not job.name.startswith("__"):
            assert 0 < int(job.tags["dagster/max_runtime"]) <= instance.run_monitoring_max_runtime_seconds, job.name


def test_runs_pools_and_backfills_are_limited(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    config = instance.get_concurrency_config()
    queue = config.run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 2
    assert queue.tag_concurrency_limits == [{"key": "dagster/backfill", "limit": 1}]
    pools = config.pool_config
    assert pools.pool_granularity is not None
    assert (pools.pool_granularity.value, pools.default_pool_limit) == ("run", 1)


def test_every_pool_is_one_of_a_store_or_of_the_site(tmp_path: Path) -> None:
    """A limit of one holds for each name by itself: a misspelt one would limit nothing."""
    definitions = build_definitions(Settings(data_dir=tmp_path))
    pools = {op.pool for job in definitions.resolve_all_job_defs() for op in job.all_node_defs if op.pool}
    assert pools == {"archive", "marts", "hot", "data_docs"}


def test_ticks_of_sensors_and_schedules_do_not_stay_for_ever(instance: dg.DagsterInstance) -> None:
    kept = yaml.safe_load(instance_config(postgres=False))["retention"]
    assert set(kept) == {"schedule", "sensor", "auto_materialize"}
    for kind in kept.values():
        assert all(0 < days <= 90 for days in kind["purge_after_days"].values())
        assert kind["purge_after_days"]["skipped"] <= 7 < kind["purge_after_days"]["failure"]


def test_what_runs_by_itself_has_its_daemon(instance: dg.DagsterInstance) -> None:
    assert set(instance.get_required_daemon_types()) == {
        *("SENSOR", "SCHEDULER", "BACKFILL", "ASSET", "QUEUED_RUN_COORDINATOR", "MONITORING", "EVENT_LOG_CONSUMER"),
        "FRESHNESS_DAEMON",
    }
    assert not instance.telemetry_enabled
    assert not instance.nux_enabled


def test_on_postgresql_nothing_else_is_different() -> None:
    embedded, server = (yaml.safe_load(instance_config(postgres=postgres)) for postgres in (False, True))
    assert server.pop("storage") == {"postgres": {"postgres_url": {"env": "SIEIS_DAGSTER_DATABASE_URL"}}}
    assert server == embedded


# -- the code server -----------------------------------------------------------------------------------------------


class Served(NamedTuple):
    """An installation whose definitions a code server serves, and an instance that only notes what it would launch."""

    settings: Settings
    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext

    def request(self) -> WorkspaceRequestContext:
        return self.workspace.create_request_context()

    def location(self) -> CodeLocation:
        return self.request().get_code_location(LOCATION)


def compose_service() -> dict:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["dagster-code"]


def compose_command(port: int) -> list[str]:
    """The command of the code server's container, on this machine only and on a free port."""
    words = {"sieis": [sys.executable, "-m", "sieis_cli"], "0.0.0.0": ["127.0.0.1"], "4000": [str(port)]}
    return [part for word in compose_service()["command"] for part in words.get(word, [word])]


def is_healthy(port: int) -> bool:
    """What the container's health check says."""
    command = [sys.executable, *compose_service()["healthcheck"]["test"][2:]]
    command[-1] = str(port)
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    settings = Settings(data_dir=folder / "var", dagster_code=f"127.0.0.1:{port}")
    log = folder / "code.log"
    told = {**environment(settings), "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            compose_command(port), env={**os.environ, **told}, cwd=folder, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 120
        while not is_healthy(port):
            assert process.poll() is None, log.read_text()[-4_000:]
            assert time.monotonic() < deadline, log.read_text()[-4_000:]
        launcher = {"run_launcher": {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"}}
        home = InstanceRef.from_dir(str(prepare_home(settings)), overrides=launcher)
        target = WorkspaceFileTarget([str(prepare_workspace(settings))])
        with dg.DagsterInstance.from_ref(home) as instance, WorkspaceProcessContext(instance, target) as workspace:
            made = Served(settings, instance, workspace)
            # Dagster knows the limit of a pool from the look after the first that met its name.
            met = queued(made, "refresh", "load_inbox", "rebuild_hot_store")
            started(made, met)
            ended(made, *met)
            yield made
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_workspace_loads_everything_from_the_code_server(served: Served) -> None:
    (repository,) = served.location().get_repositories().values()
    here = build_definitions(served.settings)
    keys = {asset.asset_key for asset in repository.get_asset_node_snaps()}
    assert keys == {spec.key for spec in here.resolve_all_asset_specs()}
    jobs = {job.name for job in here.resolve_all_job_defs() if not job.name.startswith("__")}
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == jobs
    running = {one.name for one in (*repository.get_schedules(), *repository.get_sensors())}
    stopped = [
        one.name
        for one in (*repository.get_schedules(), *repository.get_sensors())
        if one.get_current_instigator_state(None).status.value != "DECLARED_IN_CODE"
    ]
    assert {"freshness", "late_data", "hourly_refresh", "daily_closing"} <= running
    assert stopped == []


def queued(served: Served, *jobs: str, tags: dict[str, str] | None = None) -> list[str]:
    """Submit a run of each job as the webserver, a schedule or a sensor does; ids in that order."""
    workspace = served.request()
    location = workspace.get_code_location(LOCATION)
    (repository,) = location.get_repositories().values()
    made = []
    for name in jobs:
        config = {"ops": {"load_inbox_file": {"config": {"file": "a"}}}} if name == "load_inbox" else {}
        run = _create_run(
            instance=served.instance,
            code_location=location,
            remote_repo=repository,
            remote_job=repository.get_full_job(name),
            run_config=config,
            tags=tags,
            op_selection=None,
            run_id=None,
        )
        made.append(served.instance.submit_run(run.run_id, workspace).run_id)
    return made


def started(served: Served, runs: list[str]) -> list[bool]:
    """Which of these the queue has let go after one more look."""
    with QueuedRunCoordinatorDaemon(interval_seconds=1) as daemon:
        errors = [error for error in daemon.run_iteration(served.workspace) if error]
    assert errors == []
    statuses = [served.instance.get_run_by_id(run) for run in runs]
    return [run is not None and run.status is not dg.DagsterRunStatus.QUEUED for run in statuses]


def ended(served: Served, *runs: str) -> None:
    for run_id in runs:
        run = served.instance.get_run_by_id(run_id)
        assert run is not None
        if run.status is dg.DagsterRunStatus.QUEUED:
            served.instance.report_run_canceled(run)
        elif not run.is_finished:
            served.instance.report_run_failed(run)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("jobs", "tags", "expected"),
    [
        (["refresh", "refresh_and_train", "load_inbox"], {}, [True, False, True]),  # two name the marts
        (["compact_open_day", "load_inbox", "vacuum"], {}, [True, False, False]),  # all name the archive
        (["rebuild_hot_store", "rebuild_hot_store"], {}, [True, False]),
        (["refresh", "load_inbox", "rebuild_hot_store"], {}, [True, True, False]),  # two at a time, whatever they name
        (["refresh", "close_day"], {"dagster/backfill": "a"}, [True, False]),  # one run of a backfill
    ],
    ids=["marts", "archive", "hot", "two", "backfill"],
)
def test_the_queue_lets_go_what_the_limits_allow(
    served: Served, jobs: list[str], tags: dict[str, str], expected: list[bool]
) -> None:
    days = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-01"}
    runs = queued(served, *jobs, tags={**tags, **(days if "close_day" in jobs else {})})
    try:
        assert started(served, runs) == expected
        first, *waiting = runs
        ended(served, first)
        assert started(served, waiting)[expected[1:].index(False)]  # the next one's turn
    finally:
        ended(served, *runs)
