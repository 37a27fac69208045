"""Days of which the retention has let readings go: what was derived of them outlives everything that touches them."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform.corrections import Asked, Corrections
from sieis_platform.defs.failures import step_failure
from sieis_platform.defs.ml.assets import ANOMALY_SCHEMA
from sieis_platform.defs.operations.jobs import refresh, refresh_and_train
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.stores.archive import Commit
from sieis_platform.stores.hot import AGGREGATE_SCHEMA
from sieis_platform.stores.ledger import LedgerEntry
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.stores.upkeep import expire
from sieis_platform.timeline import DAY_NS
from tests.installation import Installation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

APP = "sensor_readings/one/0"
OLD, RECENT = 5, 1
HOUR_NS = DAY_NS // 24


def day(ago: int) -> dt.date:
    return today() - dt.timedelta(days=ago)


def append(settings: Settings, ago: int, keys: list[tuple[int, int]], temperature: float = 20.0) -> None:
    """One flush of the stream: readings (mote, ns after midnight) of one day."""
    archive = open_archive(settings)
    archive.create()
    position = archive.position(APP)
    start, midnight = position or 0, Window(day(ago), day(ago)).start_ns
    frame = pl.DataFrame(
        [(mote, midnight + ns, temperature, 40.0, 100.0, 2.7) for mote, ns in keys], READING_SCHEMA, orient="row"
    )
    rows = frame.with_columns(
        source=pl.lit("stream:one"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(start, start + len(keys), dtype=pl.Int64),
    )
    archive.append(
        Commit(rows, [LedgerEntry(app=APP, start=start, end=start + len(keys), stored=len(keys))], {APP: position})
    )


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    """Two days of which one will be let go, three readings each of the motes 1 and 2, derived."""
    settings = Settings(data_dir=tmp_path)
    for ago in (OLD, RECENT):
        append(settings, ago, [(mote, number * HOUR_NS) for mote in (1, 2) for number in range(3)])
    with dg.DagsterInstance.ephemeral() as instance:
        installation = Installation(settings, instance)
        assert installation.days_asked_for() == [str(day(OLD)), str(day(RECENT))]
        yield installation


def let_go(made: Installation, **retention: object) -> None:
    made.settings = made.settings.changed(**retention)
    made.definitions = Installation(made.settings, made.instance).definitions
    archive = open_archive(made.settings)
    assert expire(archive, today(), made.settings.archive_retention_days, made.settings.archive_retention_motes)


def counts(made: Installation, ago: int) -> list[tuple[int, int]]:
    """(mote, readings counted) of a day; 0 is the building."""
    rows = made.mart(MARTS["daily"]).filter(date=str(day(ago)))
    return list(rows.select("mote_id", "record_count").iter_rows())


def as_derived(made: Installation) -> dict[str, pl.DataFrame]:
    """All aggregates, and that the hot store shows the same ones."""
    found = {mart: made.mart(mart) for mart in MARTS.values()}
    for period, mart in MARTS.items():
        assert_frame_equal(made.hot_aggregates(period), found[mart].select(AGGREGATE_SCHEMA.names()), check_exact=True)
    return found


def refused(made: Installation, window: Window) -> str:
    """Why a run over these days failed."""
    done = made.definitions.resolve_job_def(refresh.name).execute_in_process(
        instance=made.instance,
        tags=window.tags(),
        asset_selection=[dg.AssetKey(mart) for mart in MARTS.values()],
        raise_on_error=False,
    )
    assert not done.success
    return next(step_failure(event) for event in done.all_events if event.is_step_failure)


def aggregate(made: Installation, window: Window) -> None:
    made.run(refresh.name, window, *MARTS.values())


def test_a_late_reading_of_a_mote_leaves_what_was_derived_of_those_let_go(made: Installation) -> None:
    let_go(made, archive_retention_motes={2: 1})
    assert counts(made, OLD) == [(0, 6), (1, 3), (2, 3)]
    building = made.mart(MARTS["hourly"]).filter(date=str(day(OLD)), mote_id=0)
    append(made.settings, OLD, [(1, 10 * HOUR_NS)], temperature=30.0)
    assert made.days_asked_for() == [str(day(OLD))]
    # The building as it was when all its motes were there: a part of them does not make its averages.
    assert counts(made, OLD) == [(0, 6), (1, 4), (2, 3)]
    hourly = as_derived(made)[MARTS["hourly"]].filter(date=str(day(OLD)))
    assert hourly.filter(mote_id=2).height == 3
    # Of the eleventh hour nothing was let go: there the building is its readings.
    later = hourly.filter(mote_id=0).filter(
        pl.col("period_start") == Window(day(OLD), day(OLD)).start_ns + 10 * HOUR_NS
    )
    assert later.select("record_count", "temp_avg").row(0) == (1, 30.0)
    assert_frame_equal(hourly.filter(mote_id=0).head(3), building, check_exact=True)
    assert made.days_asked_for() == []


def test_late_readings_of_a_day_let_go_are_not_taken_for_the_day(made: Installation) -> None:
    let_go(made, archive_retention_days=2)
    before = as_derived(made)
    append(made.settings, OLD, [(1, 10 * HOUR_NS)])
    assert made.days_asked_for() == []
    said = refused(made, Window(day(OLD), day(OLD)))
    assert "SIEIS_ARCHIVE_RETENTION_DAYS" in said
    assert f"choose days after {day(3)}" in said
    for mart, rows in as_derived(made).items():
        assert_frame_equal(rows, before[mart], check_exact=True)


def test_a_longer_retention_does_not_bring_back_what_is_gone(made: Installation) -> None:
    let_go(made, archive_retention_days=2)
    before = as_derived(made)
    made.settings = made.settings.changed(archive_retention_days=365)
    append(made.settings, OLD, [(1, 10 * HOUR_NS)])
    assert made.days_asked_for() == []
    aggregate(made, Window(day(OLD), day(RECENT)))
    for mart, rows in as_derived(made).items():
        assert_frame_equal(rows, before[mart], check_exact=True)


def test_a_range_that_begins_before_the_retention_derives_its_later_days_only(made: Installation) -> None:
    let_go(made, archive_retention_days=2)
    before = as_derived(made)
    append(made.settings, OLD, [(1, 10 * HOUR_NS)])
    append(made.settings, RECENT, [(1, 10 * HOUR_NS)])
    aggregate(made, Window(day(OLD), day(RECENT)))
    assert counts(made, RECENT) == [(0, 7), (1, 4), (2, 3)]
    for mart, rows in as_derived(made).items():
        old = pl.col("date") == str(day(OLD))
        assert_frame_equal(rows.filter(old), before[mart].filter(old), check_exact=True)


def test_a_mote_kept_longer_than_the_others_is_derived_alone(made: Installation) -> None:
    let_go(made, archive_retention_days=2, archive_retention_motes={2: 0})
    append(made.settings, OLD, [(1, 10 * HOUR_NS), (2, 10 * HOUR_NS)])
    assert made.days_asked_for() == [str(day(OLD))]
    assert counts(made, OLD) == [(0, 6), (1, 3), (2, 4)]
    as_derived(made)


def test_corrections_and_their_undoing_leave_the_motes_let_go(made: Installation) -> None:
    let_go(made, archive_retention_motes={2: 1})
    before = as_derived(made)
    start = Window(day(OLD), day(OLD)).start_ns
    hot = open_hot(made.settings)
    with State.open(made.settings) as state:
        corrections = Corrections(state, open_archive(made.settings), open_marts(made.settings), hot)
        done = corrections.apply(Asked("delete", [1], start, start + HOUR_NS, "it lay on a heater", "me"))
        assert made.days_asked_for() == [str(day(OLD))]
        assert counts(made, OLD) == [(0, 6), (1, 2), (2, 3)]
        corrections.undo(done.id, "me")
        assert made.days_asked_for() == [str(day(OLD))]
        for mart, rows in as_derived(made).items():
            assert_frame_equal(rows, before[mart], check_exact=True)

        # Undone only after all of the day was let go: its readings come back, but they are not the whole day.
        done = corrections.apply(Asked("delete", [1], start, start + HOUR_NS, "it lay on a heater", "me"))
        assert made.days_asked_for() == [str(day(OLD))]
        corrected = as_derived(made)
        let_go(made, archive_retention_days=2, archive_retention_motes={})
        corrections.undo(done.id, "me")
        assert made.days_asked_for() == []
    hot.close()
    for mart, rows in as_derived(made).items():
        assert_frame_equal(rows, corrected[mart], check_exact=True)


def test_the_counts_of_what_could_be_derived_are_still_checked(made: Installation) -> None:
    let_go(made, archive_retention_motes={2: 1})
    append(made.settings, OLD, [(1, 10 * HOUR_NS)])
    window, daily = Window(day(OLD), day(OLD)), MARTS["daily"]
    aggregate(made, window)

    def check() -> bool:
        everything = made.definitions.resolve_implicit_global_asset_job_def()
        result = everything.execute_in_process(
            instance=made.instance,
            tags=window.tags(),
            op_selection=[f"{daily}_counts_equal_archive"],
            raise_on_error=False,
        )
        return result.get_asset_check_evaluations()[0].passed

    sound = open_marts(made.settings).scan(daily).collect()
    assert check()
    for mote, passes in ((1, False), (2, True)):
        damaged = sound.with_columns(
            pl.when(pl.col("mote_id") == mote).then(pl.col("record_count") + 1).otherwise("record_count")
            .alias("record_count")
        )  # fmt: skip
        open_marts(made.settings).replace(daily, damaged)
        assert check() == passes, f"mote {mote}"


def test_anomalies_of_readings_let_go_stay(made: Installation) -> None:
    append(made.settings, RECENT, [(mote, minute * 60 * 10**9) for mote in (1, 2) for minute in range(60, 600)])
    assert made.days_asked_for() == [str(day(RECENT))]
    made.run(refresh_and_train.name, Window(day(OLD), day(RECENT)))
    marts = open_marts(made.settings)

    def flagged() -> pl.DataFrame:
        return marts.scan("anomalies").filter(date=str(day(OLD))).sort("mote_id", "timestamp").collect()

    start = Window(day(OLD), day(OLD)).start_ns
    marts.replace_days(
        "anomalies",
        pl.DataFrame(
            [(str(day(OLD)), mote, start, 99.0, 1.0, 1.0, 2.0, 0.9, 0.5, "m", "1") for mote in (1, 2)],
            ANOMALY_SCHEMA,
            orient="row",
        ),
        day(OLD),
        day(OLD),
    )
    before = flagged()
    let_go(made, archive_retention_motes={2: 1})
    append(made.settings, OLD, [(1, 10 * HOUR_NS)])
    assert made.days_asked_for() == [str(day(OLD))]
    assert_frame_equal(flagged().filter(mote_id=2), before.filter(mote_id=2), check_exact=True)
    assert 99.0 not in flagged().filter(mote_id=1)["temperature"].to_list()
