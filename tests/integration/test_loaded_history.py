"""Days that a load has filled, in Dagster's eyes: the state of every partition is that of the archive."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from sieis_platform.backfill import Backfill
from sieis_platform.defs.archive.historical import HISTORY
from sieis_platform.defs.archive.loaded import loaded_history
from sieis_platform.history import HistoricalLoad
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Commit, LedgerEntry
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.timeline import DAY_NS, TimelineFile
from tests.installation import Installation
from tests.ticks import tick
from tests.unit.sieis_platform.history_file import DAYS, MOTES, day, write

pytestmark = pytest.mark.timeout(300)

A_DAY = 96
#: Without it a file so small is one commit.
BATCH = 5_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("file") / "readings.txt", A_DAY)


@pytest.fixture
def settings(tmp_path: Path, file: Path) -> Settings:
    made = Settings(data_dir=tmp_path, load_batch_rows=BATCH, data_file=file)
    TimelineFile.of(made).fix(made, dt.date(2004, 3, 1), DAYS)
    return made


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def load(settings: Settings, file: Path) -> None:
    hot = open_hot(settings)
    try:
        HistoricalLoad(settings, hot, open_archive(settings)).load(file)
    finally:
        hot.close()


def told(instance: dg.DagsterInstance) -> list[tuple[str, int, int]]:
    """Day, rows and version of every event about the days of history, oldest first."""
    events = instance.fetch_materializations(HISTORY, limit=1_000).records
    made = [one for record in reversed(events) if (one := record.asset_materialization) is not None]

    def number(one: dg.AssetMaterialization, name: str) -> int:
        return int(str(one.metadata[name].value))

    return [(one.partition or "", number(one, "dagster/row_count"), number(one, "version")) for one in made]


def held(settings: Settings) -> list[tuple[str, int, int]]:
    """The same of every day that the archive has rows of."""
    archive = open_archive(settings)
    version = archive.version()
    return [(str(day), rows, version) for day, rows in archive.rows_by_day(archive.files()).items()]


def test_the_days_that_a_load_wrote_are_told_once(settings: Settings, instance: dg.DagsterInstance, file: Path) -> None:
    assert tick(loaded_history, settings, instance, None).skip_message
    load(settings, file)
    assert instance.get_materialized_partitions(HISTORY) == set()
    cursor = tick(loaded_history, settings, instance, None).cursor
    assert told(instance) == held(settings)
    assert instance.get_materialized_partitions(HISTORY) == {str(day(number)) for number in range(1, DAYS + 1)}
    for kept in (cursor, None, "set by hand"):
        load(settings, file)
        assert tick(loaded_history, settings, instance, kept).asset_events == []
    assert len(told(instance)) == DAYS


def test_a_file_that_is_loaded_half_has_filled_no_day(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    long = write(tmp_path / "long.txt", 2_880)
    hot = open_hot(settings)

    class Broken(Exception):  # noqa: N818 - stands for a kill
        """The process ends here."""

    def breaks(_: object) -> None:
        raise Broken

    with pytest.raises(Broken):
        HistoricalLoad(settings, hot, open_archive(settings)).load(long, breaks)
    hot.close()
    assert 0 < sum(rows for _, rows, _ in held(settings)) < DAYS * MOTES * 2_880
    data = tick(loaded_history, settings, instance, None)
    assert told(instance) == []
    load(settings, long)
    tick(loaded_history, settings, instance, data.cursor)
    assert told(instance) == held(settings)
    assert sum(rows for _, rows, _ in told(instance)) == DAYS * MOTES * 2_880


def test_days_that_a_backfill_has_told_are_not_told_again(
    settings: Settings, instance: dg.DagsterInstance, file: Path
) -> None:
    made = Installation(settings, instance)
    assert made.backfill(day(3), day(2)).success
    before = told(instance)
    load(settings, file)
    tick(loaded_history, settings, instance, None)
    others = [one for one in held(settings) if one[0] not in (str(day(3)), str(day(2)))]
    assert told(instance) == [*before, *others]
    assert len(others) == DAYS - 2


def test_what_came_another_way_fills_no_day(settings: Settings, instance: dg.DagsterInstance, file: Path) -> None:
    hot, archive = open_hot(settings), open_archive(settings)
    Backfill(settings, hot, archive).fill(file, day(3), day(3))
    hot.close()
    late = archive.scan_all().filter(mote_id=1).head(1).collect().drop("ingested_at", "year", "month", "day")
    late = late.with_columns(
        timestamp=pl.col("timestamp") + DAY_NS, source=pl.lit("stream:x"), source_offset=pl.lit(0, pl.Int64)
    )
    app = "sensor_readings/x/0"
    archive.append(Commit(late, [LedgerEntry(app=app, start=0, end=1, stored=1)], {app: None}))
    data = tick(loaded_history, settings, instance, None)
    assert told(instance) == []
    assert tick(loaded_history, settings, instance, data.cursor).asset_events == []


def test_a_load_into_days_whose_aggregates_exist_has_exactly_those_made_again(
    settings: Settings, instance: dg.DagsterInstance, file: Path, tmp_path: Path
) -> None:
    load(settings, file)
    made = Installation(settings, instance)
    assert made.days_asked_for() == [str(day(number)) for number in range(DAYS, 0, -1)]
    other = tmp_path / "other.txt"
    # Readings of the second and the fifth day of the data set, of a mote that it lacks.
    other.write_text("2004-03-02 00:00:00.5 0 9 20 40 100 2.625\n2004-03-05 00:00:00.5 0 9 20 40 100 2.625\n")
    load(settings, other)
    new = open_archive(settings).scan_all().filter(mote_id=9).sort("timestamp").collect()
    touched = ["-".join(row) for row in new.select("year", "month", "day").iter_rows()]
    assert len(touched) == 2
    assert made.days_asked_for() == touched
    assert made.mart("daily_aggregates").filter(mote_id=9)["date"].to_list() == touched
    assert made.days_asked_for() == []
