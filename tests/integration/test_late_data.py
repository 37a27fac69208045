"""Backfills, late data and corrections through Dagster, on the real file: what is derived follows, and nothing else."""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.corrections import Asked, Corrections
from sieis_platform.defs.archive.historical import HISTORY
from sieis_platform.defs.partitions import Window, today
from sieis_platform.defs.rollups.assets import MARTS
from sieis_platform.reading import QUANTITIES
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.stores.archive import Commit, LedgerEntry
from sieis_platform.stores.hot import AGGREGATE_SCHEMA, SHORT_NAMES
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.timeline import DAY_NS, TimelineFile
from tests.installation import Installation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FIRST_DAY, DAYS, ROWS = dt.date(2004, 2, 28), 35, 280_828


@pytest.fixture(scope="module")
def real(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The real file backfilled by one run over its 35 days, and derived as the sensor asked for."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("real"),
        data_file=real_data / "intel_lab" / "data.txt.gz",
        hot_retention_days=400,
    )
    timeline = TimelineFile.of(settings).fix(settings, FIRST_DAY, DAYS)
    with dg.DagsterInstance.ephemeral() as instance:
        made = Installation(settings, instance)
        done = made.backfill(timeline.history_days[0], timeline.history_days[-1])
        assert done.success
        materialized = instance.get_materialized_partitions(HISTORY)
        assert sorted(materialized) == [str(day) for day in timeline.history_days]
        requests = made.tick()
        assert [Window.of_tags(request.tags) for request in requests] == [
            Window(timeline.history_days[0], timeline.history_days[-1])
        ]
        yield made


def test_the_backfill_holds_every_row_once_and_again_changes_nothing(real: Installation) -> None:
    archive = open_archive(real.settings)
    rows = archive.scan_all().select("source_offset", "mote_id", "timestamp").collect()
    assert rows.height == rows["source_offset"].n_unique() == ROWS
    version, marts = archive.version(), {mart: real.mart(mart) for mart in MARTS.values()}
    history = real.timeline.history_days
    for replace in (False, True):
        assert real.backfill(history[0], history[-1], replace=replace).success
    assert archive.version() == version
    assert real.tick() == []
    for mart, before in marts.items():
        assert_frame_equal(real.mart(mart), before, check_exact=True)
    assert audit_archive(archive).findings == []


def _independent(readings: pl.DataFrame, nanoseconds: int) -> pl.DataFrame:
    """The aggregates by SQL, written from their definition, not from our code."""
    statistics = []
    for field, short in SHORT_NAMES.items():
        low, high = QUANTITIES[field].low, QUANTITIES[field].high
        value = f"CASE WHEN {field} BETWEEN {low} AND {high} THEN {field}::DOUBLE END"
        statistics += [
            f"avg({value}) AS {short}_avg",
            f"min({value}) AS {short}_min",
            f"max({value}) AS {short}_max",
            f"stddev_samp({value}) AS {short}_std",
            f"median({value}) AS {short}_median",
        ]
    nulls = " + ".join(f"({field} IS NULL)::INT" for field in SHORT_NAMES)
    impossible = " OR ".join(
        f"coalesce({field} NOT BETWEEN {QUANTITIES[field].low} AND {QUANTITIES[field].high}, FALSE)"
        for field in SHORT_NAMES
    )
    query = f"""SELECT {{mote}} AS mote_id, timestamp - timestamp % {nanoseconds} AS period_start,
        {", ".join(statistics)}, count(*) AS record_count, sum({nulls}) AS null_count,
        count(*) FILTER (WHERE {impossible}) AS out_of_range_count
        FROM readings GROUP BY ALL"""
    with duckdb.connect() as connection:
        connection.register("readings", readings)
        motes, building = (
            pl.DataFrame(connection.execute(query.format(mote=mote)).to_arrow_table()) for mote in ("mote_id", "0")
        )
    columns = AGGREGATE_SCHEMA.names()
    both = pl.concat([motes.select(columns).cast(AGGREGATE_SCHEMA), building.select(columns).cast(AGGREGATE_SCHEMA)])
    return both.sort("period_start", "mote_id")


@pytest.mark.parametrize(("mart", "nanoseconds"), [("hourly_aggregates", DAY_NS // 24), ("daily_aggregates", DAY_NS)])
def test_aggregates_of_the_backfill_are_those_of_the_file(
    real: Installation, real_readings: pl.DataFrame, real_data: Path, mart: str, nanoseconds: int
) -> None:
    found = real.mart(mart).select(AGGREGATE_SCHEMA.names())
    to_platform = real.timeline.to_platform()
    exact = _independent(real_readings.with_columns(to_platform), nanoseconds)
    assert_frame_equal(found, exact, rel_tol=1e-9, abs_tol=1e-9)
    # The file's own doubles: averages and extremes are off by what a float32 cannot hold.
    names = ["date", "time", "epoch", "mote", *SHORT_NAMES]
    raw = pl.read_csv(
        real_data / "intel_lab" / "data.txt.gz",
        separator=" ",
        has_header=False,
        new_columns=names,
        schema_overrides={"time": pl.String},
    )
    doubles = real_readings.with_columns(raw.select(list(SHORT_NAMES)).cast(pl.Float64)).with_columns(to_platform)
    expected = _independent(doubles, nanoseconds)
    means = ["mote_id", "period_start", *(name for name in found.columns if name.endswith(("_avg", "_min", "_max")))]
    assert_frame_equal(found.select(means), expected.select(means), rel_tol=1e-6, abs_tol=1e-6)


def test_a_day_of_the_stream_is_refused_with_the_reason(real: Installation) -> None:
    done = real.backfill(today(), today())
    assert not done.success
    (failure,) = [event for event in done.all_events if event.is_step_failure]
    assert "belongs to the stream" in str(failure.step_failure_data.user_failure_data)


def _late(settings: Settings, days: list[dt.date], mote: int = 5) -> None:
    """A reading of another mote on each of these days, in one commit, as the stream appends."""
    archive = open_archive(settings)
    app = "sensor_readings/late/0"
    at = archive.position(app)
    starts = [(day - dt.date(1970, 1, 1)).days * DAY_NS + 7 for day in days]
    rows = pl.DataFrame(
        {"mote_id": mote, "timestamp": starts, "temperature": 20.0, "humidity": 40.0, "light": 1.0, "voltage": 2.7}
    ).with_columns(
        source=pl.lit("stream:late"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(at or 0, (at or 0) + len(days)),
    )
    end = (at or 0) + len(days)
    archive.append(Commit(rows, [LedgerEntry(app=app, start=at or 0, end=end, stored=len(days))], {app: at}))


def _unchanged_but(before: pl.DataFrame, after: pl.DataFrame, days: list[dt.date]) -> None:
    dates = [str(day) for day in days]
    assert_frame_equal(
        after.filter(~pl.col("date").is_in(dates)), before.filter(~pl.col("date").is_in(dates)), check_exact=True
    )


def test_late_data_refreshes_exactly_its_past_days(real: Installation) -> None:
    history = real.timeline.history_days
    late = [history[3], history[4], history[20]]
    before = {mart: real.mart(mart) for mart in MARTS.values()}
    _late(real.settings, [*late, today()])
    open_archive(real.settings).table().optimize.compact()
    assert real.days_asked_for() == [str(day) for day in late]
    assert real.days_asked_for() == []
    for period, mart in MARTS.items():
        after = real.mart(mart)
        _unchanged_but(before[mart], after, late)
        assert after.filter(mote_id=5)["date"].to_list() == [str(day) for day in late]
        assert_frame_equal(real.hot_aggregates(period), after.select(AGGREGATE_SCHEMA.names()), check_exact=True)
    # Today waits until it is past: it is refreshed by the hour.
    assert real.cursor is not None
    assert list(json.loads(real.cursor)["pending"]) == [str(today())]


def test_a_day_touched_while_it_was_today_has_its_turn_once_it_is_past(
    real: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    _late(real.settings, [today()], mote=6)
    assert real.days_asked_for() == []
    tomorrow = today() + dt.timedelta(days=1)
    monkeypatch.setattr("sieis_platform.defs.rollups.late.today", lambda: tomorrow)
    assert real.days_asked_for() == [str(today())]
    assert real.days_asked_for() == []
    assert json.loads(real.cursor or "")["pending"] == {}


def test_a_correction_and_its_undoing_refresh_its_days_and_no_others(real: Installation) -> None:
    history = real.timeline.history_days
    # The days 8 to 9 of mote 5, which has nothing else there, and one hour of mote 1.
    _late(real.settings, [history[8], history[9]])
    assert real.days_asked_for() == [str(history[8]), str(history[9])]
    before = {mart: real.mart(mart) for mart in MARTS.values()}
    start = (history[8] - dt.date(1970, 1, 1)).days * DAY_NS
    hot = open_hot(real.settings)
    with State.open(real.settings) as state:
        corrections = Corrections(state, open_archive(real.settings), open_marts(real.settings), hot)
        done = corrections.apply(Asked("delete", [1, 5], start, start + DAY_NS, "the mote lay on a heater", "me"))
        assert real.days_asked_for() == [str(history[8])]
        for period, mart in MARTS.items():
            after = real.mart(mart)
            _unchanged_but(before[mart], after, [history[8]])
            # No average of readings that are gone is left, in either place.
            assert after.filter(pl.col("date") == str(history[8]), pl.col("mote_id").is_in([1, 5])).is_empty()
            assert_frame_equal(real.hot_aggregates(period), after.select(AGGREGATE_SCHEMA.names()), check_exact=True)
        assert audit_archive(open_archive(real.settings)).findings == []

        corrections.undo(done.id, "me")
        assert real.days_asked_for() == [str(history[8])]
    hot.close()
    for period, mart in MARTS.items():
        assert_frame_equal(real.mart(mart), before[mart], check_exact=True)
        assert_frame_equal(real.hot_aggregates(period), before[mart].select(AGGREGATE_SCHEMA.names()), check_exact=True)
    assert audit_archive(open_archive(real.settings)).findings == []


def test_the_sensor_waits_for_an_archive(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        none = Installation(Settings(data_dir=tmp_path), instance)
        assert none.tick() == []
        assert none.cursor is None
