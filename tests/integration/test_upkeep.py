"""The archive's care end to end: the real jobs on a real instance, and `sieis verify` after each of them."""

import datetime as dt
import json
import os
import time
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.defs.archive.jobs import (
    close_day,
    compact_open_day,
    daily_closing,
    move_cold,
    nightly_move,
    nightly_retention,
    retention,
    vacuum,
)
from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.jobs import observe_archive, refresh
from sieis_platform.defs.partitions import Window, reach_back, today
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Archive, Commit
from sieis_platform.stores.ledger import LedgerEntry
from sieis_platform.stores.open import open_archive, open_marts

pytestmark = pytest.mark.timeout(300)

APP = "sensor_readings/one/0"
MOTES = 3


def day(ago: int) -> dt.date:
    return today() - dt.timedelta(days=ago)


def append(settings: Settings, ago: int, *, minutes: range = range(60), temperature: float = 20.0) -> None:
    """One flush of the stream: a reading a minute and mote of one day."""
    archive = open_archive(settings)
    archive.create()
    position = archive.position(APP)
    start = position or 0
    midnight = Window(day(ago), day(ago)).start_ns
    keys = [(mote, midnight + minute * 60 * 10**9) for mote in range(1, MOTES + 1) for minute in minutes]
    frame = pl.DataFrame([(*key, temperature, 40.0, 100.0, 2.7) for key in keys], READING_SCHEMA, orient="row")
    rows = frame.with_columns(
        source=pl.lit("stream:one"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(start, start + len(keys), dtype=pl.Int64),
    )
    entry = LedgerEntry(app=APP, start=start, end=start + len(keys), stored=len(keys))
    archive.append(Commit(rows, [entry], {APP: position}))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Three days of three flushes each; the second day holds an hour twice, with other values."""
    settings = Settings(data_dir=tmp_path)
    for ago in (2, 1, 0):
        for part in range(3):
            append(settings, ago, minutes=range(60 * part, 60 * part + 60))
    append(settings, 1, temperature=25.0)
    return settings


def run(
    settings: Settings, instance: dg.DagsterInstance, job: object, window: Window | None = None
) -> dg.ExecuteInProcessResult:
    name = job.name  # pyright: ignore[reportAttributeAccessIssue]
    result = build_definitions(settings).resolve_job_def(name).execute_in_process(
        instance=instance, tags=window.tags() if window else None
    )  # fmt: skip
    assert result.success
    return result


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict:
    event = next(one for one in result.get_asset_materialization_events() if one.asset_key == dg.AssetKey(asset))
    return {name: value.value for name, value in event.materialization.metadata.items()}


def clean(settings: Settings) -> bool:
    return audit_archive(open_archive(settings)).findings == []


def test_the_open_day_is_compacted(settings: Settings) -> None:
    before = open_archive(settings).scan_all().select(pl.len()).collect().item()
    with dg.DagsterInstance.ephemeral() as instance:
        done = metadata(run(settings, instance, compact_open_day), "archive_open_day")
    assert (done["files_removed"], done["files_added"]) == (7 * MOTES, 2 * MOTES)
    assert open_archive(settings).scan_all().select(pl.len()).collect().item() == before
    assert clean(settings)


def test_days_are_closed_once_and_again_when_rows_come_late(settings: Settings, tmp_path: Path) -> None:
    platform = PlatformResource.of(settings)

    def opened() -> dg.DagsterInstance:
        # Anew each time: what a schedule's context was given is closed with it.
        return dg.DagsterInstance.local_temp(str(tmp_path), overrides={"telemetry": {"enabled": False}})

    def close(window: Window) -> dg.ExecuteInProcessResult:
        with opened() as instance:
            return run(settings, instance, close_day, window)

    def requested() -> list[Window | None]:
        with dg.build_schedule_context(
            instance=opened(),
            scheduled_execution_time=dt.datetime.combine(today(), dt.time(0, 40), dt.UTC),
            resources={"platform": platform},
        ) as context:
            requests = daily_closing.evaluate_tick(context).run_requests or []
        return [Window.of_tags(request.tags) for request in requests]

    assert requested() == [Window(day(2), day(1))]
    done = metadata(close(Window(day(2), day(1))), "archive_closed_days")
    assert (done["superseded_rows"], done["files_added"]) == (60 * MOTES, MOTES)  # the other day has them already
    assert requested() == [Window(day(1), day(1))]  # yesterday, always: its last rows come after midnight
    append(settings, 2, minutes=range(200, 210))
    assert requested() == [Window(day(2), day(1))]
    close(Window(day(2), day(1)))
    assert requested() == [Window(day(1), day(1))]
    archive = open_archive(settings)
    found = archive.scan_all().filter(pl.col("temperature") == 25.0).collect()
    assert found.height == 60 * MOTES
    assert archive.scan_all().select(pl.len()).collect().item() == (3 * 180 + 10) * MOTES
    assert clean(settings)


def test_a_day_from_before_the_first_partition_is_closed_once_the_loaded_code_knows_it(
    settings: Settings, tmp_path: Path
) -> None:
    append(settings, 40)
    loaded = build_definitions(settings)

    def requested() -> list[Window | None]:
        with dg.build_schedule_context(
            instance=dg.DagsterInstance.local_temp(str(tmp_path), overrides={"telemetry": {"enabled": False}}),
            scheduled_execution_time=dt.datetime.combine(today(), dt.time(0, 40), dt.UTC),
            resources={"platform": PlatformResource.of(settings)},
            repository_def=loaded.get_repository_def(),
        ) as context:
            requests = daily_closing.evaluate_tick(context).run_requests or []
        return [Window.of_tags(request.tags) for request in requests]

    assert requested() == [Window(day(2), day(1))]
    reach_back(settings, [day(40)])
    assert requested() == [Window(day(2), day(1))]
    loaded = build_definitions(settings)
    assert requested() == [Window(day(40), day(40)), Window(day(2), day(1))]


@pytest.mark.parametrize(
    ("kept", "runs"),
    [
        ({}, False),
        ({"archive_retention_days": 30}, True),
        ({"archive_retention_motes": {7: 3}}, True),
    ],
)
def test_old_days_are_let_go_every_night_where_a_retention_is_set(
    settings: Settings, kept: dict, *, runs: bool
) -> None:
    these = settings.changed(**kept)
    night = dt.datetime.combine(today(), dt.time(2, 20), dt.UTC)
    with dg.build_schedule_context(
        scheduled_execution_time=night, resources={"platform": PlatformResource.of(these)}
    ) as context:
        tick = nightly_retention.evaluate_tick(context)
    assert [request.run_key for request in tick.run_requests or []] == ([night.isoformat()] if runs else [])
    assert ("for ever" in (tick.skip_message or "")) is not runs


def test_retention_and_vacuum_leave_what_verify_can_prove(settings: Settings) -> None:
    short = settings.model_copy(
        update={"archive_retention_days": 1, "archive_retention_motes": {2: 0}, "archive_vacuum_hours": 24}
    )
    archive = open_archive(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        done = metadata(run(short, instance, retention), "archive_retention")
        assert done["expired_rows"] == 180 * (MOTES - 1)
        assert clean(settings)
        assert metadata(run(short, instance, retention), "archive_retention")["expired_rows"] == 0
        first = metadata(run(short, instance, vacuum), "archive_vacuum")
        assert (first["files_deleted"], first["log_entries_deleted"]) == (0, 0)  # nothing is a day old
        old = time.time() - 30 * 3600
        for file in Path(archive.uri).rglob("_delta_log/*"):
            os.utime(file, (old, old))
        second = run(short, instance, vacuum)
    assert metadata(second, "archive_vacuum")["log_entries_deleted"] > 10
    begins = archive.commits()[-1]["version"]
    assert begins > 10
    assert metadata(second, "ledger")["covered_to_version"] >= begins - 1
    audit = audit_archive(archive)
    assert audit.findings == []
    assert (audit.accounts[0].removed, audit.accounts[0].end) == (180 * (MOTES - 1), archive.position(APP))


def test_nothing_that_runs_by_the_clock_reads_the_whole_ledger(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = open_archive(settings)
    archive.copy_ledger()
    expected = {entry.app: entry.end for entry in archive.ledger()}
    for name in ("books", "ledger", "commits"):
        monkeypatch.setattr(Archive, name, lambda *_, name=name: pytest.fail(f"Archive.{name} reads all of history"))
    with dg.DagsterInstance.ephemeral() as instance:
        run(settings, instance, observe_archive)
        seen = instance.fetch_observations(dg.AssetKey("archive"), limit=1).records[0].asset_observation
        done = build_definitions(settings).resolve_job_def(refresh.name).execute_in_process(
            instance=instance,
            tags=Window(today(), today()).tags(),
            asset_selection=[*(dg.AssetKey(mart) for mart in MARTS.values()), dg.AssetKey("archive")],
        )  # fmt: skip
    assert seen is not None
    assert seen.metadata["positions"].value == expected
    (judged,) = (one for one in done.get_asset_check_evaluations() if one.check_name == "parse_errors")
    assert judged.metadata["rows"].value == 1  # the stream, today
    assert judged.passed


def test_old_days_get_cold_and_everything_goes_on_as_before(settings: Settings, tmp_path: Path) -> None:
    chilly = settings.changed(archive_cold_uri=str(tmp_path / "cold"), archive_cold_after_days=1)
    platform = PlatformResource.of(chilly)
    for these, expected in ((chilly, None), (settings, "every day stays in the live table")):
        with dg.build_schedule_context(
            scheduled_execution_time=dt.datetime.now(dt.UTC), resources={"platform": PlatformResource.of(these)}
        ) as context:
            tick = nightly_move.evaluate_tick(context)
        assert len(tick.run_requests or []) == (expected is None)
        assert (expected or "") in (tick.skip_message or "")
    before = open_archive(settings).scan_all().sort("source_offset").collect()
    with dg.DagsterInstance.ephemeral() as instance:

        def look(cursor: str | None) -> tuple[list[Window | None], str | None]:
            sensor = build_definitions(chilly).resolve_sensor_def("late_data")
            data = sensor.evaluate_tick(
                dg.build_sensor_context(instance=instance, cursor=cursor, resources={"platform": platform})
            )
            return [Window.of_tags(request.tags) for request in data.run_requests or []], data.cursor

        _, cursor = look(None)
        done = metadata(run(chilly, instance, move_cold), "archive_cold_days")
        assert (done["days_moved"], done["rows_moved"], done["moved_until"]) == (1, 180 * MOTES, str(day(2)))
        assert metadata(run(chilly, instance, move_cold), "archive_cold_days")["rows_moved"] == 0
        assert open_archive(chilly).scan_all().sort("source_offset").collect().equals(before)
        asked, cursor = look(cursor)
        assert asked == []  # nothing is derived again
        window = Window(day(2), day(1))
        job = build_definitions(chilly).resolve_job_def(refresh.name)
        aggregates = [dg.AssetKey(mart) for mart in MARTS.values()]
        assert job.execute_in_process(instance=instance, tags=window.tags(), asset_selection=aggregates).success
        daily = open_marts(chilly).scan(MARTS["daily"]).filter(pl.col("mote_id") == 1).collect()
        assert sorted(daily["date"]) == [str(day(2)), str(day(1))]
        append(chilly, 2, minutes=range(200, 210))
        assert look(cursor)[0] == [Window(day(2), day(2))]
        assert metadata(run(chilly, instance, close_day, Window(day(2), day(2))), "archive_closed_days")
        assert metadata(run(chilly, instance, move_cold), "archive_cold_days")["rows_moved"] == 10 * MOTES
        done = metadata(run(chilly, instance, vacuum), "storage_report")
        assert (done["rows"], done["cold_rows"], done["cold_files"]) == (420 * MOTES, 190 * MOTES, MOTES)
        report = open_marts(chilly).scan("storage_report").collect()
        assert dict(report.select("table", "rows").iter_rows())["archive_cold"] == 190 * MOTES
        summary = json.loads((Path(open_archive(chilly).uri) / "_metrics" / "summary.json").read_text())
        assert (summary["rows"], summary["cold"]["rows"], summary["cold"]["days"]) == (420 * MOTES, 190 * MOTES, 1)
        assert clean(chilly)
        short = chilly.changed(archive_retention_days=1)
        assert metadata(run(short, instance, retention), "archive_retention")["expired_rows"] == 190 * MOTES
    assert clean(chilly)
    assert clean(settings)  # no day is cold any more: the setting may go


def test_what_was_derived_of_days_beyond_the_retention_stays(settings: Settings) -> None:
    short = settings.changed(archive_retention_days=1)
    with dg.DagsterInstance.ephemeral() as instance:
        window = Window(day(2), day(1))
        job = build_definitions(settings).resolve_job_def(refresh.name)
        aggregates = [dg.AssetKey(mart) for mart in MARTS.values()]
        assert job.execute_in_process(instance=instance, tags=window.tags(), asset_selection=aggregates).success
        before = {
            mart: open_marts(settings).scan(mart).sort("period_start", "mote_id").collect() for mart in MARTS.values()
        }

        def look(cursor: str | None) -> tuple[list[Window | None], str | None]:
            sensor = build_definitions(short).resolve_sensor_def("late_data")
            platform = PlatformResource.of(short)
            context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"platform": platform})
            data = sensor.evaluate_tick(context)
            return [Window.of_tags(request.tags) for request in data.run_requests or []], data.cursor

        asked, first = look(None)
        assert asked == []
        assert metadata(run(short, instance, retention), "archive_retention")["expired_rows"] == 180 * MOTES
        asked, second = look(first)
        assert asked == []
        assert second != first  # the commit was read, and passed over
        append(settings, 1, minutes=range(300, 310))
        assert look(second)[0] == [Window(day(1), day(1))]
    for mart, rows in before.items():
        assert rows.equals(open_marts(settings).scan(mart).sort("period_start", "mote_id").collect())
        assert rows["date"].unique().sort().to_list() == [str(day(2)), str(day(1))]


def test_the_report_says_what_the_tables_weigh(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run(settings, instance, vacuum)
        run(settings, instance, close_day, Window(day(2), day(0)))
        run(settings, instance, vacuum)
    archive = open_archive(settings)
    summary = json.loads((Path(archive.uri) / "_metrics" / "summary.json").read_text())
    size = sum(Path(uri.removeprefix("file://")).stat().st_size for uri in archive.table().file_uris())
    assert {name: summary[name] for name in ("files", "small_files", "rows", "bytes", "days")} == {
        "files": 3 * MOTES, "small_files": 3 * MOTES, "rows": 3 * 180 * MOTES, "bytes": size, "days": 3,
    }  # fmt: skip
    assert (summary["first_day"], summary["last_day"]) == (day(2).isoformat(), day(0).isoformat())
    # {"mote_id":1,"temperature":20.0,"humidity":40.0,"light":100.0,"voltage":2.7,"timestamp":"2026-...00.000000Z"}
    assert summary["raw_bytes"] == pytest.approx(3 * 180 * MOTES * 118, rel=0.02)
    assert summary["compression_ratio"] == pytest.approx(summary["raw_bytes"] / size, abs=0.01)
    report = open_marts(settings).scan("storage_report").collect()
    assert sorted(report["table"]) == ["archive", "ledger", "storage_report"]
    assert report.filter(table="archive").select("files", "bytes").row(0) == (3 * MOTES, size)


def test_counts_are_checked_against_what_was_recorded_once_the_version_is_gone(settings: Settings) -> None:
    window = Window(day(2), day(1))
    daily = MARTS["daily"]
    with dg.DagsterInstance.ephemeral() as instance:
        selected = [dg.AssetKey(mart) for mart in MARTS.values()]
        job = build_definitions(settings).resolve_job_def(refresh.name)
        assert job.execute_in_process(instance=instance, tags=window.tags(), asset_selection=selected).success
        append(settings, 1, minutes=range(300, 310))  # what the aggregates do not know of
        archive = open_archive(settings)
        run(settings, instance, close_day, window)
        archive.table().vacuum(0, dry_run=False, enforce_retention_duration=False)

        def check() -> dg.AssetCheckEvaluation:
            everything = build_definitions(settings).resolve_implicit_global_asset_job_def()
            result = everything.execute_in_process(
                instance=instance,
                tags=window.tags(),
                op_selection=[f"{daily}_counts_equal_archive"],
                raise_on_error=False,
            )
            return result.get_asset_check_evaluations()[0]

        assert check().passed
        assert check().metadata["readings"].value == 2 * 180 * MOTES
        damaged = open_marts(settings).scan(daily).collect().with_columns(pl.col("record_count") + 1)
        open_marts(settings).replace(daily, damaged)
        assert not check().passed
