"""What is refreshed with a model in use: by the clock, and where readings came late or were corrected."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from sieis_platform.corrections import Asked, Corrections
from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.ml.assets import ANOMALIES
from sieis_platform.defs.operations.jobs import hourly_refresh, refresh_and_train
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.stores.archive import Commit
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from tests.installation import Installation

pytestmark = pytest.mark.timeout(300)

AGGREGATES = {dg.AssetKey(mart) for mart in MARTS.values()}
MINUTE_NS = 60 * 10**9


def day(ago: int) -> dt.date:
    return today() - dt.timedelta(days=ago)


def append(settings: Settings, ago: int, minutes: range) -> None:
    """A reading a minute and mote of one day, of two motes; another position for each reading."""
    archive = open_archive(settings)
    archive.create()
    midnight = Window(day(ago), day(ago)).start_ns
    values = [(mote, midnight + minute * MINUTE_NS, 20.0, 40.0, 9.0, 2.7) for mote in (1, 2) for minute in minutes]
    rows = pl.DataFrame(values, READING_SCHEMA, orient="row").with_columns(
        source=pl.lit(f"stream:{ago}:{minutes.start}"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(len(values), dtype=pl.Int64),
    )
    archive.append(Commit(rows, [], {}))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def trained(settings: Settings) -> Iterator[Installation]:
    """Four days of two motes, derived, and a model trained on them."""
    for ago in (4, 3, 2, 1):
        append(settings, ago, range(300))
    with dg.DagsterInstance.ephemeral() as instance:
        made = Installation(settings, instance)
        made.run(refresh_and_train.name, Window(day(4), day(1)))
        assert made.tick() == []
        yield made


def remade(made: Installation, before: dict[str, dict[str, int]]) -> dict[str, list[str]]:
    """The partitions of each asset that were materialized since `before`."""
    return {
        asset: sorted(key for key, stored in made.made(asset).items() if stored != before[asset].get(key))
        for asset in before
    }


def test_late_data_and_corrections_derive_their_days_of_all_three_assets_and_no_others(trained: Installation) -> None:
    derived = [key.to_user_string() for key in (*sorted(AGGREGATES), ANOMALIES)]
    others = [asset for asset in trained.definitions.resolve_all_asset_keys() if asset.to_user_string() not in derived]

    def stored() -> dict[str, dict[str, int]]:
        return {asset: trained.made(asset) for asset in derived}

    before, unmade = stored(), {key: trained.instance.get_latest_materialization_event(key) for key in others}
    append(trained.settings, 3, range(400, 410))
    append(trained.settings, 0, range(10))  # today is refreshed by the hour
    assert trained.days_asked_for() == [str(day(3))]
    assert remade(trained, before) == {asset: [str(day(3))] for asset in derived}
    assert trained.mart(MARTS["daily"]).filter(date=str(day(3)), mote_id=0)["record_count"].item() == 620

    before = stored()
    hot = open_hot(trained.settings)
    with State.open(trained.settings) as state:
        corrections = Corrections(state, open_archive(trained.settings), open_marts(trained.settings), hot)
        start = Window(day(2), day(2)).start_ns
        done = corrections.apply(Asked("delete", [1], start, start + 60 * MINUTE_NS, "it lay on a heater", "me"))
        assert trained.days_asked_for() == [str(day(2))]
        assert remade(trained, before) == {asset: [str(day(2))] for asset in derived}
        before = stored()
        corrections.undo(done.id, "me")
        assert trained.days_asked_for() == [str(day(2))]
        assert remade(trained, before) == {asset: [str(day(2))] for asset in derived}
    hot.close()
    assert trained.days_asked_for() == []
    assert {key: trained.instance.get_latest_materialization_event(key) for key in others} == unmade


def hourly(settings: Settings, moment: dt.datetime) -> list[dg.RunRequest]:
    with dg.build_schedule_context(
        scheduled_execution_time=moment,
        resources={"platform": PlatformResource.of(settings)},
        repository_def=build_definitions(settings).get_repository_def(),
    ) as context:
        return list(hourly_refresh.evaluate_tick(context).run_requests or [])


@pytest.mark.parametrize(("hour", "ago"), [(0, [1, 0]), (1, [0]), (12, [0]), (23, [0])])
def test_today_is_refreshed_by_the_hour_and_after_midnight_yesterday_too(
    settings: Settings, hour: int, ago: list[int]
) -> None:
    moment = dt.datetime.combine(today(), dt.time(hour, 5), dt.UTC)
    assert hourly(settings, moment) == []  # there is no archive yet
    append(settings, 0, range(1))
    requests = hourly(settings, moment)
    assert [request.partition_key for request in requests] == [str(day(one)) for one in ago]
    assert len({request.run_key for request in requests}) == len(ago)
    assert {request.run_key for request in requests}.isdisjoint(
        request.run_key for request in hourly(settings, moment + dt.timedelta(hours=1))
    )
