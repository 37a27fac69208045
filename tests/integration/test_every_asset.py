"""Every asset tells what it is, every event about it what there is now, and making it again changes nothing.

Exceptions stand here by name, with their reason.
"""

import datetime as dt
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import dagster as dg
import polars as pl
import pytest
from dagster._core.instance.ref import InstanceRef

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.alerting import alert_delivery
from sieis_platform.defs.operations.dead_letters import new_dead_letters
from sieis_platform.defs.operations.home import prepare_home
from sieis_platform.defs.operations.inbox import LoadConfig, load_inbox
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.stream.report import consumer_report
from sieis_platform.settings import Settings
from sieis_platform.state import NewAlert, State
from sieis_platform.stores.archive import rows_by_day
from sieis_platform.stores.hot import AGGREGATE_MARTS
from sieis_platform.stores.open import open_archive, open_marts
from sieis_platform.timeline import TimelineFile
from sieis_streaming.reported import read_reported
from tests.faults.harness import Sender, eventually, platform, wait_until_archived, wait_until_hot
from tests.faults.test_kill_consumer import POISON
from tests.installation import Installation
from tests.ticks import tick
from tests.unit.sieis_platform.history_file import DAYS, day, hot_rows, write

#: Assets that are no table, and what their rows stand in.
NO_TABLE: Final = {"data_docs": "a site of pages made of quality_results"}

#: Tables whose columns come from no other asset.
BEGINNINGS: Final = {
    "sensor_readings": "what the sensors send",
    "historical_readings": "a file outside",
    "inbox": "files outside",
    "alerts": "what the platform notices of itself",
    "run_history": "Dagster's own record of runs",
}

#: What an event about an asset need not tell, with the reason.
UNTOLD: Final = {
    "sensor_readings": {
        "version": "a topic has end offsets instead, and they are told",
        "first": "how far back the broker keeps records is its own affair",
    },
    "dead_letters": {
        "first": "the ledger counts letters without their times; `sieis dlq list` reads them",
        "last": "as first",
    },
    "hot_store": {"version": "overwritten in place, it has no versions"},
    "hot_retention": {"version": "as hot_store"},
    "alerts": {"version": "rows of the operational state, which has no versions"},
    "inbox": {
        "version": "files, each loaded once",
        "first": "what a file held stands in the archive, whose version and days the same run tells",
        "last": "as first",
    },
}

#: The entries that tell it, any of them.
TELLS: Final = {
    "rows": {"dagster/row_count"},
    "version": {"version", "mart_version", "archive_version"},
    "first": {"first", "first_day"},
    "last": {"last", "last_day"},
    "look": {"preview", "plot"},
}


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    return build_definitions(Settings(data_dir=tmp_path / "none"))


def test_every_asset_says_what_it_is_and_where_its_columns_come_from(definitions: dg.Definitions) -> None:
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert {*NO_TABLE, *BEGINNINGS, *UNTOLD} <= specs.keys()
    columns = {
        spec.key: {column.name for column in spec.metadata["dagster/column_schema"].columns}
        for name, spec in specs.items()
        if name not in NO_TABLE
    }
    assert all(columns.values())
    for name, spec in specs.items():
        assert spec.description, name
        assert spec.owners, name
        assert spec.kinds, name
        assert {"layer", "store"} <= set(spec.tags), name
        assert spec.group_name in {"stream", "archive", "rollups", "quality", "ml", "operations"}, name
        parents = {dep.asset_key for dep in spec.deps}
        if name in NO_TABLE:
            continue
        assert (name in BEGINNINGS) == (not parents), name
        if name in BEGINNINGS:
            continue
        lineage = spec.metadata["dagster/column_lineage"].deps_by_column
        assert lineage, name
        assert set(lineage) <= columns[spec.key], name
        for sources in lineage.values():
            for source in sources:
                assert source.asset_key in parents, (name, source)
                assert source.column_name in columns[source.asset_key], (name, source)


# -- after a real run of everything --------------------------------------------------------------------------------


class Ran(NamedTuple):
    """An installation of which every asset has been made or observed."""

    derived: Installation
    partitions: set[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """History backfilled, a file in the inbox, a stream with dead letters, then every job and sensor there is."""
    folder = tmp_path_factory.mktemp("metadata")
    inbox = folder / "inbox"
    inbox.mkdir()
    file = write(folder / "readings.txt", 96)
    cold = {"archive_cold_uri": str(folder / "cold"), "archive_cold_after_days": 2}  # four days of history move
    with platform(folder / "var", data_file=file, inbox_dir=inbox, alert_cooldown_seconds=0, **cold) as one:
        incarnation = one.start_broker()
        sender = Sender(one.settings)
        for number, value in enumerate(POISON):
            sender.send(value, number)
        for _ in range(40):
            record = sender.unique()
            sender.send(record, record["mote_id"])
        sender.flush()
        one.start("consume")
        wait_until_archived(one.settings, sender.ends(), incarnation)
        wait_until_hot(one.settings, 40)
        settings = Settings(**{**one.settings.model_dump(exclude_unset=True), "metrics_port": one.metrics_port})
        eventually(lambda: len(read_reported(settings.consumer_metrics).sinks) == 2, "both sinks in the metrics")
        home = str(prepare_home(settings))
        with dg.DagsterInstance.from_ref(InstanceRef.from_dir(home)) as instance:
            yield Ran(_all_of_it(settings, instance), {str(day(number)) for number in (6, 5, 4, 3, 2, 1, 0)})


#: The one job not run here: what it is told to send, it sends (tests/integration/test_consumer_report.py).
NOT_AGAIN: Final = {"replay_dead_letters"}


def _every_job(made: Installation) -> set[str]:
    """Run every job there is, and what no job makes; their names."""
    inbox, history = made.settings.inbox_location, Window(day(6), day(1))
    made.run(load_inbox.name, config=_load(inbox, "mote.txt"))
    for replace in (False, True):  # the second puts the data set's rows in place of those of the inbox
        assert made.backfill(history.first, history.last, replace=replace).success
    days = {"refresh_and_train": Window(day(6), today()), "refresh": Window(day(6), today()), "close_day": history}
    care = ("compact_open_day", "move_cold", "retention")
    hot = ("rebuild_hot_store", "expire_hot_store")
    others = ("observe_archive", *hot, "build_data_docs", "vacuum", "delete_old_runs")
    for job in (*days, *care, *others):
        made.run(job, days.get(job))
    made.run("__ASSET_JOB", None, "run_history")
    return {load_inbox.name, *days, *care, *others}


def _all_of_it(settings: Settings, instance: dg.DagsterInstance) -> Installation:
    TimelineFile.of(settings).fix(settings, dt.date(2004, 3, 1), DAYS)  # as the load of a data set does
    made = Installation(settings, instance)
    _every_job(made)
    made.run("vacuum")  # its report of all tables, now that all are there
    with State.open(settings) as state:
        state.keep_alert(NewAlert("test", "A trial", "nothing", "warning"), 0, waiting=False)
    for sensor in (consumer_report, new_dead_letters, alert_delivery):
        tick(sensor, settings, instance, None)
    return made


def _load(inbox: Path, name: str) -> dict:
    lines = (line for line in write(inbox / f"{name}.part", 96).read_text().splitlines() if line.split()[3] == "4")
    (inbox / name).write_text("\n".join(lines) + "\n")
    (inbox / f"{name}.part").unlink()
    return {"ops": {"load_inbox_file": {"config": LoadConfig(file=name).model_dump()}}}


def _events(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, dg.AssetMaterialization | dg.AssetObservation]:
    """The newest event of each kind and source about an asset."""
    found: dict[str, dg.AssetMaterialization | dg.AssetObservation] = {}
    for record in instance.fetch_materializations(key, limit=50).records:
        if record.asset_materialization:
            found.setdefault(f"made by {_job(instance, record.run_id)}", record.asset_materialization)
    for record in instance.fetch_observations(key, limit=50).records:
        if record.asset_observation:
            found.setdefault(f"observed by {_job(instance, record.run_id)}", record.asset_observation)
    return found


def _job(instance: dg.DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    return run.job_name if run else "a sensor"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_event_tells_rows_version_and_time_and_shows_some(ran: Ran) -> None:
    missing: list[str] = []
    for spec in ran.derived.definitions.resolve_all_asset_specs():
        name = spec.key.to_user_string()
        events = _events(ran.derived.instance, spec.key)
        assert events, f"nothing was told of {name}"
        for source, event in events.items():
            told = event.metadata.keys()
            untold = {what for what, entries in TELLS.items() if not entries & told}
            if "dagster/column_lineage" in spec.metadata and "dagster/column_lineage" not in told:
                untold.add("lineage")
            missing += [f"{name} {source}: {what}" for what in sorted(untold - UNTOLD.get(name, {}).keys())]
    assert missing == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_need_not_be_told_is_not_told_by_any_event(ran: Ran) -> None:
    """An exception that has become untrue must go."""
    for name, exceptions in UNTOLD.items():
        for event in _events(ran.derived.instance, dg.AssetKey(name)).values():
            for what in exceptions:
                assert not TELLS[what] & event.metadata.keys(), (name, what)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_oldest_days_are_cold_and_no_event_misses_them(ran: Ran) -> None:
    archive = open_archive(ran.derived.settings)
    days = [str(one) for one in archive.rows_by_day(archive.files())]
    cold = archive.cold_files(archive.files())
    assert cold is not None
    assert [str(one) for one in rows_by_day(cold)] == days[:4]
    for name in ("archive", "archive_cold_days", "archive_vacuum"):
        for event in _events(ran.derived.instance, dg.AssetKey(name)).values():
            assert event.metadata["first_day"].value == days[0]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_archive_names_its_delta_version_and_the_positions_it_covers(ran: Ran) -> None:
    settings, instance = ran.derived.settings, ran.derived.instance
    events = _events(instance, dg.AssetKey("archive"))
    observed, reported = events["observed by observe_archive"].metadata, events["made by a sensor"].metadata
    positions = observed["positions"].value
    assert isinstance(positions, dict)
    offsets = {app.rpartition("/")[2]: end for app, end in positions.items() if app.startswith(settings.kafka_topic)}
    assert reported["stored_offsets"].value == offsets
    assert sum(offsets.values()) == 40 + len(POISON)
    assert any(app.startswith("history/") for app in positions)
    for metadata in (observed, reported):
        assert isinstance(metadata["version"].value, int)
    assert set(instance.get_materialized_partitions(dg.AssetKey("daily_aggregates"))) == ran.partitions


# -- again ---------------------------------------------------------------------------------------------------------

#: Marts that keep what happened: again adds rows, and those that were there stay as they are.
LOGS: Final = {
    "run_history": "a row a run",
    "quality_results": "a row a run and check",
    "ledger": "the copy of the archive's log, of which compaction and vacuum are part",
}
#: Columns that another run fills otherwise, and why.
OTHERWISE: Final = {
    "anomaly_model": ("version", "trained_at", "run_id"),  # the same forest under the next number
    "anomalies": ("model_version",),
    # What is weighed is the tables as they are now, and of logs and versions there is more.
    "storage_report": ("measured_at", "version", "files", "bytes", "small_files", "rows", "compression_ratio"),
}


def _contents(frame: pl.DataFrame) -> str:
    """A hash of rows and columns, whatever their order in the files."""
    ordered = frame.select(sorted(frame.columns))
    return hashlib.sha256(ordered.sort(ordered.columns).write_json().encode()).hexdigest()


def _marts(settings: Settings) -> dict[str, pl.DataFrame]:
    marts = open_marts(settings)
    return {name: marts.scan(name).collect() for name in marts.tables()}


def _hashes(made: Installation) -> dict[str, str]:
    """Of the archive, the hot store, and every mart that is no log."""
    contents = {"archive": open_archive(made.settings).scan_all().collect(), "hot store": hot_rows(made.settings)}
    contents |= {f"hot store, {period}": made.hot_aggregates(period) for period in AGGREGATE_MARTS}
    contents |= {name: mart.drop(OTHERWISE.get(name, ())) for name, mart in _marts(made.settings).items()}
    return {name: _contents(frame) for name, frame in contents.items() if name not in LOGS}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_running_all_of_it_again_changes_nothing(ran: Ran) -> None:
    before, logs = _hashes(ran.derived), _marts(ran.derived.settings)
    derived = {spec.key.to_user_string() for spec in ran.derived.definitions.resolve_all_asset_specs()}
    assert {*LOGS, *OTHERWISE} <= set(logs) == {name for name in logs if name in derived}
    done = _every_job(ran.derived)
    jobs = {job.name for job in ran.derived.definitions.resolve_all_job_defs() if not job.name.startswith("__")}
    assert done == jobs - NOT_AGAIN
    assert ran.derived.tick() == []
    assert _hashes(ran.derived) == before
    after = _marts(ran.derived.settings)
    for name in LOGS:
        columns = logs[name].columns
        assert after[name].height >= logs[name].height, name
        assert logs[name].join(after[name], on=columns, how="anti", nulls_equal=True).is_empty(), name
