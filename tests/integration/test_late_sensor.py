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
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups import late
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
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
        self.keys: list[str | None] = []
        self.moment = 1_800_000_000

    def look(self) -> list[Window | None]:
        """The windows asked for."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"platform": PlatformResource.of(self.settings)}
        )
        data = self.definitions.resolve_sensor_def("late_data").evaluate_tick(context)
        self.cursor = data.cursor
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


def test_days_from_before_the_partitions_wait_until_a_load_fixes_the_timeline(sensor: Sensor) -> None:
    append(sensor.settings, 40)
    assert sensor.look() == [Window(day(2), day(2))]
    TimelineFile.of(sensor.settings).fix(sensor.settings, dt.date(2004, 2, 28), 50)
    assert sensor.look() == [Window(day(40), day(40))]
    sensor.derive(Window(day(40), day(40)))
    assert sensor.look() == []


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
