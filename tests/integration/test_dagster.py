"""Dagster end to end: the real jobs on real instances, the real file, and what must happen when something is wrong."""

import base64
import datetime as dt
from pathlib import Path
from xml.etree import ElementTree

import dagster as dg
import polars as pl
import pytest
from deltalake import write_deltalake
from polars.testing import assert_frame_equal

from sieis_platform.analysis.quality.verdict import RESULTS_SCHEMA, Verdict
from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.jobs import refresh, refresh_and_train
from sieis_platform.defs.operations.materialize import MaterializeSummary, NothingToMaterializeError, materialize
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.quality.assets import build_data_docs
from sieis_platform.defs.quality.results import Judgement
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import ArchiveError, Commit
from sieis_platform.stores.hot import AGGREGATE_SCHEMA
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.timeline import TimelineFile

# MLflow and Dagster make their databases first; the whole real file is derived twice.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FIRST_DAY, DAYS = dt.date(2004, 2, 28), 35
PARTITIONED = ("hourly_aggregates", "daily_aggregates", "anomalies")
#: What is broken, too, where no consumer fills the hot store.
NOT_RUNNING = {"freshness", "equals_archive"}


def _archive(settings: Settings, readings: pl.DataFrame, source: str = "history:test") -> None:
    """Append readings with a position each, as the historical load does."""
    rows = readings.with_columns(
        pl.lit(source).alias("source"),
        pl.lit(0, pl.Int32).alias("source_partition"),
        pl.int_range(readings.height, dtype=pl.Int64).alias("source_offset"),
    )
    archive = open_archive(settings)
    archive.create()
    archive.append(Commit(rows, [], {}))


def _mart(settings: Settings, table: str) -> pl.DataFrame:
    frame = open_marts(settings).scan(table).collect()
    return frame.sort([name for name in ("date", "timestamp", "period_start", "mote_id") if name in frame.columns])


# -- the real file -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, real_readings: pl.DataFrame) -> Settings:
    """An installation whose archive holds the real file on today's timeline."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("real"))
    timeline = TimelineFile.of(settings).fix(settings, FIRST_DAY, DAYS)
    _archive(settings, real_readings.with_columns(timeline.to_platform()))
    return settings


@pytest.fixture(scope="module")
def summary(real: Settings) -> MaterializeSummary:
    """All of it materialized, as `sieis materialize` and the demo do."""
    return materialize(real, None, None)


def _platform_day(settings: Settings, day: dt.date) -> str:
    timeline = TimelineFile.of(settings).read()
    assert timeline is not None
    return timeline.platform_day(day).isoformat()


def test_the_real_file_materializes(real: Settings, summary: MaterializeSummary) -> None:
    assert summary.failures == []
    assert (summary.last - summary.first).days + 1 == DAYS
    assert summary.partitions_materialized == DAYS * len(PARTITIONED)
    assert (summary.checks_passed, summary.checks_warned, summary.checks_failed) == (7, 5, 0)
    assert [tuple(text.split(": ")[:2]) for text in summary.warnings] == [
        ("archive", "ranges"),
        ("archive", "freshness"),
        ("archive", "completeness"),
        ("hot_store", "freshness"),
        ("hot_store", "equals_archive"),
    ]


def test_aggregates_of_the_real_file_hold_its_known_facts(real: Settings, summary: MaterializeSummary) -> None:
    daily = _mart(real, "daily_aggregates")
    day = daily.filter(pl.col("date") == _platform_day(real, dt.date(2004, 3, 5)))
    mote_1 = day.row(by_predicate=pl.col("mote_id") == 1, named=True)
    assert mote_1["record_count"] == 1_824
    assert mote_1["temp_avg"] == pytest.approx(21.884114, abs=1e-6)
    assert mote_1["temp_std"] == pytest.approx(1.899264, abs=1e-6)
    counts = daily.group_by("mote_id").agg(pl.col("record_count").sum()).sort("mote_id").rows()
    motes = [(1, 43_047), (4, 43_793), (6, 35_666), (22, 60_164), (23, 62_409), (33, 35_749)]
    assert counts == [(0, 280_828), *motes]
    assert _mart(real, "hourly_aggregates").filter(pl.col("mote_id") == 0)["record_count"].sum() == 280_828


def test_the_hot_store_has_the_same_aggregates(real: Settings, summary: MaterializeSummary) -> None:
    window = Window(summary.first, summary.last)
    hot = open_hot(real)
    try:
        stored = hot.aggregates("daily", window.start_ns, window.end_ns)
    finally:
        hot.close()
    mart = _mart(real, "daily_aggregates").select(AGGREGATE_SCHEMA.names())
    # The hot store has them as far back as its readings (the day at the edge may have gone since).
    kept = mart.filter(pl.col("period_start") >= stored["period_start"].min())
    assert_frame_equal(stored, kept, check_row_order=False)
    assert real.hot_retention_days - 1 <= stored["period_start"].n_unique() <= real.hot_retention_days + 1


def test_the_plateau_is_among_the_anomalies(real: Settings, summary: MaterializeSummary) -> None:
    anomalies = _mart(real, "anomalies")
    assert ((anomalies["temperature"] - 122.153).abs() < 1e-3).sum() > 0.99 * 43_927
    assert (anomalies["score"] >= anomalies["threshold"]).all()
    model = _mart(real, "anomaly_model").row(0, named=True)
    assert set(anomalies["model_version"]) == {model["version"]}
    assert model["threshold"] == anomalies["threshold"][0]


def test_runs_observation_and_checks_are_kept_for_the_ui(real: Settings, summary: MaterializeSummary) -> None:
    with dg.DagsterInstance.from_config(str(real.data_dir / "dagster")) as instance:
        runs = {run.job_name: run.status for run in instance.get_runs()}
        assert runs == {
            "observe_archive": dg.DagsterRunStatus.SUCCESS,
            "refresh_and_train": dg.DagsterRunStatus.SUCCESS,
            "build_data_docs": dg.DagsterRunStatus.SUCCESS,
        }
        observed = instance.fetch_observations(dg.AssetKey("archive"), limit=1).records[0].asset_observation
        assert observed is not None
        assert observed.metadata["dagster/row_count"].value == 280_828
        assert observed.metadata["days"].value == DAYS
        for asset in PARTITIONED:
            assert len(instance.get_materialized_partitions(dg.AssetKey(asset))) == DAYS


def test_every_asset_tells_rows_version_and_time_and_shows_some(real: Settings, summary: MaterializeSummary) -> None:
    made = [dg.AssetKey(name) for name in ("archive", *PARTITIONED, "anomaly_model")]
    with dg.DagsterInstance.from_config(str(real.data_dir / "dagster")) as instance:
        for key in made:
            event = instance.get_latest_materialization_event(key)
            if event is not None:
                assert event.asset_materialization is not None
                metadata = event.asset_materialization.metadata
                expected = {
                    "mart_version",
                    "archive_version",
                    "archive_table",
                    "first",
                    "last",
                    "dagster/column_lineage",
                }
            else:  # others write it, Dagster observes it
                observation = instance.fetch_observations(key, limit=1).records[0].asset_observation
                assert observation is not None, key
                metadata = observation.metadata
                expected = {"version", "positions", "first_day", "last_day"}
            assert expected | {"dagster/row_count", "preview"} <= metadata.keys(), key
        for mart in PARTITIONED:
            rows = _mart(real, mart)
            event = instance.get_latest_materialization_event(dg.AssetKey(mart))
            assert event is not None
            assert event.asset_materialization is not None
            metadata = event.asset_materialization.metadata
            assert metadata["dagster/row_count"].value == rows.height
            of_day = rows.filter(pl.col("date") == event.asset_materialization.partition).height
            assert metadata["dagster/partition_row_count"].value == of_day
            if mart == "anomalies":
                continue
            plot = str(event.asset_materialization.metadata["plot"].value)
            svg = base64.b64decode(plot.split("base64,")[1].rstrip(")")).decode()
            assert "mean temperature" in plot
            assert len(ElementTree.fromstring(svg).findall("{*}path")) == 2


def test_again_changes_nothing(real: Settings, summary: MaterializeSummary) -> None:
    before = {table: _mart(real, table) for table in PARTITIONED}
    again = materialize(real, summary.first, summary.last)
    assert again.failures == []
    for table in PARTITIONED:
        # The model is another version of itself: same readings and seed, same scores.
        assert_frame_equal(
            _mart(real, table).drop("model_version", strict=False), before[table].drop("model_version", strict=False)
        )


def test_one_day_alone_is_as_it_is_in_the_range(real: Settings, summary: MaterializeSummary) -> None:
    before = {table: _mart(real, table) for table in PARTITIONED}
    day = _platform_day(real, dt.date(2004, 3, 20))
    job = build_definitions(real).resolve_job_def(refresh.name)
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance, partition_key=day).success
    for table in PARTITIONED:
        assert_frame_equal(_mart(real, table), before[table])


# -- a small building, and faults ----------------------------------------------------------------------------------


def _day_of_readings(day: dt.date, motes: int = 3) -> pl.DataFrame:
    """A plausible day: a reading every 30 s of each mote."""
    index = pl.int_range(2_880, dtype=pl.Int64)
    swing = (index * (2 * 3.14159 / 2_880)).sin()
    start = Window(day, day).start_ns
    one = pl.select(
        (start + index * 30_000_000_000).alias("timestamp"),
        (21 + 2 * swing).alias("temperature"),
        (40 - 3 * swing).alias("humidity"),
        (200 + 150 * swing).alias("light"),
        (2.7 + 0.005 * (index % 3)).alias("voltage"),
    )
    frames = [one.with_columns(pl.lit(mote).alias("mote_id")) for mote in range(1, motes + 1)]
    return pl.concat(frames).select(pl.col(name).cast(kind) for name, kind in READING_SCHEMA.items())


@pytest.fixture(scope="module")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for all small installations: it takes seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.sqlite'}"


@pytest.fixture
def small(tmp_path: Path, mlflow_database: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An installation with two complete days of three motes."""
    monkeypatch.setenv("SIEIS_MLFLOW_DATABASE_URL", mlflow_database)  # a secret: resources take it from there
    settings = Settings(data_dir=tmp_path)
    _archive(settings, pl.concat([_day_of_readings(day) for day in _days()]))
    return settings


def _days() -> list[dt.date]:
    return [today() - dt.timedelta(days=2), today() - dt.timedelta(days=1)]


def _run(
    settings: Settings, instance: dg.DagsterInstance, platform: PlatformResource | None = None
) -> dg.ExecuteInProcessResult:
    first, last = _days()
    job = build_definitions(settings, platform).resolve_job_def(refresh_and_train.name)
    return job.execute_in_process(instance=instance, raise_on_error=False, tags=Window(first, last).tags())


def _materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}


class LossyMarts(Marts):
    """Marts that lose the rows of mote 1 on the way."""

    def replace_days(self, table: str, frame: pl.DataFrame, start: dt.date, end: dt.date) -> int:
        return super().replace_days(table, frame.filter(pl.col("mote_id") != 1), start, end)


class LossyPlatform(PlatformResource):
    """A platform whose marts are lossy; all else is real."""

    def marts(self) -> Marts:
        return LossyMarts(self.settings().marts_location)


def test_aggregates_that_do_not_add_up_stop_the_scoring(small: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = _run(small, instance, LossyPlatform.of(small))
    assert not result.success
    assert _materialized(result) == {"hourly_aggregates", "daily_aggregates", "anomaly_model"}
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed and check.blocking]
    assert {check.asset_key.to_user_string() for check in failed} == {"hourly_aggregates", "daily_aggregates"}
    assert {check.severity for check in failed} == {dg.AssetCheckSeverity.ERROR}
    assert not open_marts(small).exists("anomalies")


def _check(result: dg.ExecuteInProcessResult, asset: str, name: str) -> dg.AssetCheckEvaluation:
    (found,) = [
        check
        for check in result.get_asset_check_evaluations()
        if (check.asset_key.to_user_string(), check.check_name) == (asset, name)
    ]
    return found


def _broken(result: dg.ExecuteInProcessResult) -> set[str]:
    return {check.check_name for check in result.get_asset_check_evaluations() if not check.passed}


def test_a_position_stored_twice_stops_everything_and_the_docs_tell(small: Settings) -> None:
    _archive(small, _day_of_readings(_days()[0]).head(1))
    definitions = build_definitions(small)
    with dg.DagsterInstance.ephemeral() as instance:
        result = _run(small, instance)
        assert not result.success
        assert _materialized(result) == set()
        assert not open_marts(small).exists("daily_aggregates")
        site = definitions.resolve_job_def(build_data_docs.name).execute_in_process(instance=instance)
    check = _check(result, "archive", "positions_unique")
    assert (check.passed, check.severity, check.metadata["unexpected"].value) == (False, dg.AssetCheckSeverity.ERROR, 1)
    assert f"| {_days()[0]} | 1 | history:test | 0 | 2881 | 2 | 0 |" in str(check.metadata["unexpected_rows"].value)
    assert check.metadata["archive_version"].value == open_archive(small).version()
    (made,) = site.get_asset_materialization_events()
    index = small.data_docs_path / "current" / "index.html"
    assert made.materialization.metadata["path"].value == str(index)
    assert "broken: positions_unique" in index.read_text()
    assert (index.parent / "expectations" / "archive_readings.html").is_file()
    address = "http://127.0.0.1:8000/data-docs/index.html"
    assert made.materialization.metadata["url"].value == check.metadata["data_docs"].value == address


def test_an_archive_of_another_shape_stops_everything(small: Settings) -> None:
    table = open_archive(small).table()
    rows = pl.scan_delta(table).collect().cast({"temperature": pl.Float64})
    write_deltalake(table, rows, mode="overwrite", schema_mode="overwrite")
    with dg.DagsterInstance.ephemeral() as instance:
        result = _run(small, instance)
    assert not result.success
    assert _materialized(result) == set()
    check = _check(result, "archive", "schema")
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert "temperature" in str(check.metadata["unexpected_rows"].value)
    assert "not judged" in str(_check(result, "archive", "ranges").description)


def test_every_result_is_kept_once_a_run(small: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        runs = [_run(small, instance).run_id for _ in range(2)]
    kept = _mart(small, "quality_results")
    assert kept.schema == RESULTS_SCHEMA
    assert dict(kept.group_by("run_id").len().iter_rows()) == dict.fromkeys(runs, 12)
    window = Window(*_days())
    again = Judgement(dg.AssetKey("hot_store"), window, 3, runs[0])
    again.add([Verdict("freshness", "hot_store_age", True, "warning", "told again")])
    for _ in range(2):
        again.keep(open_marts(small))
    after = _mart(small, "quality_results")
    assert after.height == kept.height
    told = after.filter(run_id=runs[0], asset="hot_store", check_name="freshness")
    assert told.select("passed", "text").rows() == [(True, "told again")]


@pytest.mark.parametrize("folders", [True, False])
def test_motes_that_were_there_the_week_before_are_missed(
    tmp_path: Path, mlflow_database: str, monkeypatch: pytest.MonkeyPatch, *, folders: bool
) -> None:
    monkeypatch.setenv("SIEIS_MLFLOW_DATABASE_URL", mlflow_database)
    settings = Settings(data_dir=tmp_path, archive_mote_folders=folders)
    _archive(settings, _day_of_readings(today() - dt.timedelta(days=8), motes=54).filter(mote_id=54), "history:gone")
    _archive(settings, _day_of_readings(today() - dt.timedelta(days=3), motes=10), "history:before")
    _archive(settings, _day_of_readings(_days()[1], motes=1))
    checks = build_definitions(settings).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        result = checks.execute_in_process(
            instance=instance, tags=Window(_days()[1], _days()[1]).tags(), op_selection=["archive_expectations"]
        )
    completeness = _check(result, "archive", "completeness")
    assert (completeness.passed, completeness.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert completeness.description == "days of a mote with less than 90% of its readings: 10 of 11 (90.91%)"


def _check_hot(settings: Settings) -> dg.ExecuteInProcessResult:
    checks = build_definitions(settings).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        return checks.execute_in_process(
            instance=instance, tags=Window(*_days()).tags(), op_selection=["hot_store_expectations"]
        )


def test_hot_store_and_archive_are_compared_reading_by_reading(small: Settings) -> None:
    readings = pl.concat([_day_of_readings(day) for day in _days()])
    start = Window(*_days()).start_ns
    hot = open_hot(small)
    try:
        hot.write_readings(readings)
        same = _check(_check_hot(small), "hot_store", "equals_archive")
        hot.delete_readings(start, start + 30_000_000_001, [2])
        missing = _check(_check_hot(small), "hot_store", "equals_archive")
        hot.write_readings(readings.with_columns(pl.col("voltage") + (pl.col("mote_id") == 3).cast(pl.Float32) * 0.01))
        other = _check(_check_hot(small), "hot_store", "equals_archive")
    finally:
        hot.close()
    assert (same.passed, same.metadata["rows"].value) == (True, 6)
    assert (missing.passed, missing.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(missing.description).startswith("days of a mote with another number of readings: 1 of 6 (16.67%)")
    assert other.description == "days of a mote with another sum of voltage: 2 of 6 (33.33%)"


def test_what_may_still_be_on_its_way_is_not_compared(small: Settings) -> None:
    readings = pl.concat([_day_of_readings(day) for day in _days()])
    hot = open_hot(small)
    try:
        newest = int(readings["timestamp"].max())  # pyright: ignore[reportArgumentType]
        hot.write_readings(readings.filter(pl.col("timestamp") < newest - 3_600 * 10**9))
        result = _check_hot(small)
    finally:
        hot.close()
    assert _check(result, "hot_store", "equals_archive").passed
    late = _check(result, "hot_store", "freshness")
    assert not late.passed
    assert "61" in str(late.metadata["unexpected_rows"].value)


def test_a_hot_store_that_stands_still_lacks_what_the_archive_has(small: Settings) -> None:
    hot = open_hot(small)
    try:
        hot.write_readings(_day_of_readings(_days()[0]))
        check = _check(_check_hot(small), "hot_store", "equals_archive")
    finally:
        hot.close()
    assert not check.passed
    assert str(check.description).startswith("days of a mote with another number of readings: 3 of 6 (50.00%)")
    assert str(check.metadata["unexpected_rows"].value).count(_days()[1].isoformat()) == 3


@pytest.mark.parametrize(("retention", "missing"), [(30, "6 of 6"), (2, "3 of 3"), (1, None)])
def test_an_empty_hot_store_lacks_every_day_that_it_should_keep(
    small: Settings, retention: int, missing: str | None
) -> None:
    check = _check(_check_hot(small.changed(hot_retention_days=retention)), "hot_store", "equals_archive")
    if missing is None:
        assert check.passed
        assert "nothing to compare: the hot store keeps 1 days" in str(check.description)
    else:
        assert not check.passed
        assert f"another number of readings: {missing}" in str(check.description)


def test_a_hot_store_that_is_away_is_a_failed_check_not_a_failed_run(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIEIS_INFLUX_TOKEN", "none")
    result = _check_hot(Settings(data_dir=small.data_dir, influx_url="http://127.0.0.1:1"))
    assert result.success
    check = _check(result, "hot_store", "equals_archive")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "not judged" in str(check.description)


def test_an_impossible_building_is_a_warning_and_goes_on(small: Settings) -> None:
    plateau = _day_of_readings(_days()[1]).with_columns(pl.lit(122.153, pl.Float32).alias("temperature"))
    _archive(small, plateau, source="history:dying")
    with dg.DagsterInstance.ephemeral() as instance:
        result = _run(small, instance)
    assert result.success
    assert _broken(result) == {"keys_repeated", "ranges", *NOT_RUNNING}
    day = _mart(small, "daily_aggregates").filter(pl.col("date") == _days()[1].isoformat(), pl.col("mote_id") == 1)
    # The later of two readings with one key wins.
    assert day.select("record_count", "out_of_range_count", "temp_avg").rows() == [(2_880, 2_880, None)]


def test_readings_that_arrive_meanwhile_do_not_fail_the_counts(small: Settings) -> None:
    definitions = build_definitions(small)
    with dg.DagsterInstance.ephemeral() as instance:
        assert _run(small, instance).success
        _archive(small, _day_of_readings(_days()[1], motes=4).filter(pl.col("mote_id") == 4), source="stream:late")
        first, last = _days()
        checks = definitions.resolve_implicit_global_asset_job_def()
        result = checks.execute_in_process(
            instance=instance,
            tags=Window(first, last).tags(),
            op_selection=["daily_aggregates_counts_equal_archive"],
        )
    evaluations = result.get_asset_check_evaluations()
    assert [check.passed for check in evaluations] == [True]
    assert evaluations[0].metadata["readings"].value == 2 * 3 * 2_880


def test_late_readings_are_counted_by_the_next_run(small: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert _run(small, instance).success
        _archive(small, _day_of_readings(_days()[1], motes=4).filter(pl.col("mote_id") == 4), source="stream:late")
        assert _run(small, instance).success
    building = _mart(small, "daily_aggregates").filter(pl.col("mote_id") == 0)
    assert building["record_count"].to_list() == [3 * 2_880, 4 * 2_880]


def test_days_that_lost_their_readings_are_emptied(small: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert _run(small, instance).success
        open_archive(small).table().delete(f"day = '{_days()[0]:%d}'")
        assert _run(small, instance).success
    assert _mart(small, "daily_aggregates")["date"].unique().to_list() == [_days()[1].isoformat()]


# -- nothing there -------------------------------------------------------------------------------------------------


def test_without_an_archive_materializing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="sieis load"):
        materialize(Settings(data_dir=tmp_path), None, None)


def test_an_empty_archive_is_nothing_to_materialize(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    open_archive(settings).create()
    with pytest.raises(NothingToMaterializeError, match="no readings"):
        materialize(settings, None, None)


def test_days_from_before_the_first_partition_are_materialized(small: Settings) -> None:
    old = today() - dt.timedelta(days=40)
    _archive(small, _day_of_readings(old).head(100), source="stream:old")
    assert materialize(small, old, old, train=False).first == old
    daily = open_marts(small).scan("daily_aggregates").filter(date=str(old), mote_id=0).collect()
    assert daily["record_count"].to_list() == [100]


def test_days_without_a_partition_are_refused(small: Settings) -> None:
    with pytest.raises(NothingToMaterializeError, match="no partition"):
        materialize(small, dt.date(2004, 1, 1), dt.date(2004, 1, 2))


def test_a_failing_step_is_told_in_the_summary(small: Settings) -> None:
    few = open_archive(small).table()
    few.delete("mote_id > 0")
    _archive(small, _day_of_readings(_days()[0]).head(500), source="history:few")
    summary = materialize(small, None, None)
    assert summary.checks_failed == 0
    assert len(summary.failures) == 1
    assert "anomaly_model: only 500 of 500 readings are healthy" in summary.failures[0]
