"""The sensor `late_data` over many looks: runs that fail, a timeline fixed meanwhile, an archive made anew."""

import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.jobs import refresh
from sieis_platform.defs.partitions import Window, daily_partitions, today
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups import late
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.stores.archive import Commit
from sieis_platform.stores.open import open_archive
from sieis_platform.timeline import TimelineFile

pytestmark = pytest.mark.timeout(300)


def day(ago: int) -> dt.date:
    return today() - dt.timedelta(days=ago)


def append(settings: Settings, ago: int, *, more: int = 0) -> None:
    archive = open_archive(settings)
    archive.create()
    for number in range(more + 1):
        at = Window(day(ago), day(ago)).start_ns + number
        reading = pl.DataFrame([(1, at, 20.0, 40.0, 1.0, 2.7)], READING_SCHEMA, orient="row")
        rows = reading.with_columns(
            source=pl.lit(f"stream:{ago}"),
            source_partition=pl.lit(0, pl.Int32),
            source_offset=pl.lit(archive.version()),
        )
        archive.append(Commit(rows, [], {}))


class Sensor:
    """The sensor as one load of the code has it, and its cursor; `moment` is what its clock shows."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.definitions = build_definitions(settings)
        self.cursor: str | None = None
        self.skipped = ""
        self.keys: list[str | None] = []
        self.moment = 1_800_000_000

    def load_code(self) -> None:
        """As Dagster does when it is started, or told to."""
        self.definitions = build_definitions(self.settings)

    def look(self) -> list[Window | None]:
        """The windows asked for."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.definitions.get_repository_def(),
            resources={"platform": PlatformResource.of(self.settings)},
        )
        data = self.definitions.resolve_sensor_def("late_data").evaluate_tick(context)
        self.cursor, self.skipped = data.cursor, data.skip_message or ""
        requests = data.run_requests or []
        self.keys += [request.run_key for request in requests]
        return [Window.of_tags(request.tags) for request in requests]

    def derive(self, window: Window) -> None:
        # Assembled anew, as in the process of a run.
        job = build_definitions(self.settings).resolve_job_def(refresh.name)
        aggregates = [dg.AssetKey(mart) for mart in MARTS.values()]
        assert job.execute_in_process(instance=self.instance, tags=window.tags(), asset_selection=aggregates).success


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def sensor(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sensor]:
    append(settings, 2)
    with dg.DagsterInstance.ephemeral() as instance:
        made = Sensor(settings, instance)
        monkeypatch.setattr(late, "_moment", lambda: made.moment)
        yield made


def test_a_day_whose_run_made_nothing_is_asked_for_again_but_not_at_every_look(sensor: Sensor) -> None:
    wanted = [Window(day(2), day(2))]
    assert sensor.look() == wanted
    sensor.moment += 1_799
    assert sensor.look() == []
    sensor.moment += 1
    assert sensor.look() == wanted
    assert len(set(sensor.keys)) == 2, "Dagster passes over a key that it has seen"
    sensor.derive(wanted[0])
    sensor.moment += 1_800
    assert sensor.look() == []
    sensor.moment += 1_800
    assert sensor.look() == []


def test_a_day_that_changes_again_is_asked_for_at_once(sensor: Sensor) -> None:
    assert sensor.look() == [Window(day(2), day(2))]
    append(sensor.settings, 2, more=1)
    assert sensor.look() == [Window(day(2), day(2))]
    assert sensor.look() == []


def test_each_failure_in_a_row_makes_the_wait_twice_as_long_up_to_a_day(sensor: Sensor) -> None:
    wanted = [Window(day(2), day(2))]
    assert sensor.look() == wanted
    for wait in (1_800, 3_600, 7_200, 14_400, 28_800, 57_600, 86_400, 86_400, 86_400):
        sensor.moment += wait - 1
        assert sensor.look() == []
        sensor.moment += 1
        assert sensor.look() == wanted
    append(sensor.settings, 2, more=1)  # what is new begins anew
    assert sensor.look() == wanted
    sensor.moment += 1_800
    assert sensor.look() == wanted
    assert len(set(sensor.keys)) == len(sensor.keys), "Dagster passes over a key that it has seen"


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_nobody_is_asked_for_a_day_while_a_run_over_it_waits_or_is_running(
    sensor: Sensor, status: dg.DagsterRunStatus
) -> None:
    append(sensor.settings, 3)
    append(sensor.settings, 6)
    job = sensor.definitions.resolve_job_def(refresh.name)
    queued = sensor.instance.create_run_for_job(job, tags=Window(day(3), day(2)).tags(), status=status)
    assert sensor.look() == [Window(day(6), day(6))]
    sensor.derive(Window(day(6), day(6)))
    sensor.moment += 86_400
    assert sensor.look() == []
    assert "not derived yet" in sensor.skipped
    sensor.instance.report_run_canceled(queued)
    assert sensor.look() == [Window(day(3), day(2))]


def test_rows_from_before_the_first_day_are_asked_for_once_the_loaded_code_knows_it(sensor: Sensor) -> None:
    append(sensor.settings, 40)
    assert sensor.look() == [Window(day(2), day(2))]
    sensor.derive(Window(day(2), day(2)))
    assert sensor.look() == []  # Dagster refuses runs over days that its code does not know
    assert f"1 wait without a partition: {day(40)}" in sensor.skipped
    sensor.load_code()
    assert sensor.look() == [Window(day(40), day(40))]
    sensor.derive(Window(day(40), day(40)))
    append(sensor.settings, 41)
    assert sensor.look() == []
    sensor.load_code()
    assert sensor.look() == [Window(day(41), day(41))]
    sensor.derive(Window(day(41), day(41)))
    assert sensor.look() == []


def test_days_that_wait_without_a_partition_are_alerted_once(sensor: Sensor) -> None:
    append(sensor.settings, 40)
    append(sensor.settings, (today() - dt.date(1970, 1, 1)).days)

    def alerts() -> list[str]:
        with State.open(sensor.settings) as state:
            return [one.alert.text for one in state.recent_alerts(10)]

    sensor.look()
    sensor.moment += 599
    sensor.look()
    assert alerts() == []
    sensor.moment += 1
    sensor.look()
    (text,) = alerts()
    assert f"1970-01-01, {day(40)}" in text
    sensor.load_code()  # one of the two has its partition now
    for window in (Window(day(40), day(40)), Window(day(2), day(2))):
        sensor.derive(window)
    for _ in range(3):
        sensor.moment += 86_400
        assert sensor.look() == []
        assert "1 wait without a partition: 1970-01-01" in sensor.skipped
    assert len(alerts()) == 1
    open_archive(sensor.settings).table().delete("year = '1970'")
    assert sensor.look() == []
    assert "partition" not in sensor.skipped


def test_a_stream_without_history_keeps_the_partitions_it_began_with(
    sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(sensor.settings, 33)
    sensor.look()
    first = daily_partitions(sensor.settings).start.date()
    assert first == day(33)
    later = today() + dt.timedelta(days=5)
    monkeypatch.setattr("sieis_platform.defs.partitions.today", lambda: later)
    sensor.load_code()
    assert daily_partitions(sensor.settings).start.date() == first


def test_a_stream_that_begins_today_keeps_the_month_before_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(settings, 0)
    with dg.DagsterInstance.ephemeral() as instance:
        sensor = Sensor(settings, instance)
        monkeypatch.setattr(late, "_moment", lambda: sensor.moment)
        sensor.look()
        kept = daily_partitions(settings).start.date()
        assert kept == day(30)
        later = today() + dt.timedelta(days=40)
        monkeypatch.setattr("sieis_platform.defs.partitions.today", lambda: later)
        monkeypatch.setattr(late, "today", lambda: later)
        append(settings, 20)  # what this test's clock calls sixty days ago
        assert sorted(window.first for window in sensor.look() if window) == [day(20), day(0)]
        assert daily_partitions(settings).start.date() == kept


def test_a_log_that_was_cleaned_up_asks_for_the_days_that_have_readings_or_had(sensor: Sensor) -> None:
    append(sensor.settings, 5)
    assert sensor.look() == [Window(day(5), day(5)), Window(day(2), day(2))]
    for ago in (5, 2):
        sensor.derive(Window(day(ago), day(ago)))
    append(sensor.settings, 40)
    sensor.load_code()
    archive = open_archive(sensor.settings)
    archive.table().delete(f"day = '{day(5):%d}' AND month = '{day(5):%m}'")
    archive.table().create_checkpoint()
    for entry in (Path(archive.uri) / "_delta_log").glob("0*.json"):
        if int(entry.stem) < archive.version():
            entry.unlink()
    sensor.cursor = None
    sensor.look()
    sensor.load_code()
    sensor.moment += 86_400
    asked = {window.first for window in sensor.look() if window}
    assert {day(40)} <= asked <= {day(40), day(5), day(2)}


def test_a_timeline_fixed_meanwhile_is_followed(sensor: Sensor) -> None:
    sensor.look()
    TimelineFile.of(sensor.settings).fix(sensor.settings, dt.date(2004, 2, 28), 50)
    append(sensor.settings, 40)
    sensor.load_code()
    assert sensor.look() == [Window(day(40), day(40))]
    sensor.derive(Window(day(40), day(40)))


def test_an_archive_made_anew_is_derived_anew_whatever_its_versions(sensor: Sensor) -> None:
    append(sensor.settings, 2, more=3)
    assert sensor.look() == [Window(day(2), day(2))]
    sensor.derive(Window(day(2), day(2)))
    assert sensor.look() == []
    # Its versions are lower than the one that the aggregates were made from.
    shutil.rmtree(Path(sensor.settings.archive_location))
    append(sensor.settings, 2)
    assert sensor.look() == [Window(day(2), day(2))]
    sensor.derive(Window(day(2), day(2)))  # the check of counts compares with the new archive
    assert sensor.look() == []
