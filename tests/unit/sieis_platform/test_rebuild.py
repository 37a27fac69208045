"""The hot store filled from archive and marts, on SQLite and InfluxDB: complete, repeatable, removing nothing."""

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform import rebuild
from sieis_platform.analysis.aggregates import aggregate, with_date
from sieis_platform.corrections import Asked, Corrections
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.rebuild import rebuild_hot
from sieis_platform.settings import Settings
from sieis_platform.state import Correction, State
from sieis_platform.stores.archive import Archive, Commit
from sieis_platform.stores.hot import AGGREGATE_MARTS, AGGREGATE_SCHEMA, HotStore
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.sqlite import SqliteHotStore
from sieis_platform.timeline import DAY_NS
from tests.influxdb import Buckets
from tools.services import Services

TODAY = dt.datetime.now(dt.UTC).date()
DAYS = [TODAY - dt.timedelta(days=days) for days in (3, 2, 1)]
STEP_NS = 600_000_000_000


@pytest.fixture(scope="module")
def buckets() -> Iterator[Buckets]:
    with Services.start(["influxdb"]) as services:
        yield Buckets(services["influxdb"])


@pytest.fixture(params=["sqlite", pytest.param("influx", marks=pytest.mark.services)])
def hot(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HotStore]:
    store: HotStore
    if request.param == "sqlite":
        store = SqliteHotStore(tmp_path / "hot.sqlite", retention_days=30)
    else:
        store = request.getfixturevalue("buckets").store(retention_days=30)
    yield store
    store.close()


def start_ns(day: dt.date) -> int:
    return (day - dt.date(1970, 1, 1)).days * DAY_NS


def day_of(day: dt.date, temperature: float = 20.0) -> pl.DataFrame:
    index = pl.int_range(144, dtype=pl.Int64)
    frames = [
        pl.select(
            pl.lit(mote).alias("mote_id"),
            (start_ns(day) + index * STEP_NS).alias("timestamp"),
            (temperature + index % 5).alias("temperature"),
            pl.lit(40.0).alias("humidity"),
            pl.when(index % 2 == 0).then(100.0).alias("light"),
            pl.lit(2.7).alias("voltage"),
        )
        for mote in (1, 2)
    ]
    return pl.concat(frames).select(pl.col(name).cast(kind) for name, kind in READING_SCHEMA.items())


def append(archive: Archive, rows: pl.DataFrame, source: str) -> None:
    lineage = rows.with_columns(
        pl.lit(source).alias("source"),
        pl.lit(0, pl.Int32).alias("source_partition"),
        pl.int_range(rows.height, dtype=pl.Int64).alias("source_offset"),
    )
    archive.append(Commit(lineage, [], {}))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive(str(tmp_path / "archive"))
    made.create()
    append(made, pl.concat([day_of(day) for day in DAYS]), "history:one")
    return made


@pytest.fixture
def marts(tmp_path: Path) -> Marts:
    made = Marts(str(tmp_path / "marts"))
    made.replace("daily_aggregates", with_date(aggregate(pl.concat([day_of(day) for day in DAYS]), "daily")))
    return made


def everything(hot: HotStore) -> pl.DataFrame:
    return hot.readings(start_ns(DAYS[0]), start_ns(TODAY) + 2 * DAY_NS).sort("mote_id", "timestamp")


def test_what_is_archived_is_hot_again_and_again_changes_nothing(hot: HotStore, archive: Archive, marts: Marts) -> None:
    told: list[tuple[dt.date, int]] = []
    summary = rebuild_hot(hot, archive, marts, DAYS[0], DAYS[-1], on_day=lambda day, rows: told.append((day, rows)))
    assert (summary.readings_archived, summary.readings_written, summary.aggregates_written) == (864, 864, 9)
    assert told == [(day, 288) for day in DAYS]
    expected = archive.scan().select(READING_SCHEMA.names()).collect().sort("mote_id", "timestamp")
    assert_frame_equal(everything(hot), expected)
    assert hot.aggregates("daily", start_ns(DAYS[0]), start_ns(TODAY)).height == 9
    assert rebuild_hot(hot, archive, marts, DAYS[0], DAYS[-1]).readings_written == 864
    assert_frame_equal(everything(hot), expected)


def test_only_the_days_asked_for_are_written(hot: HotStore, archive: Archive, marts: Marts) -> None:
    summary = rebuild_hot(hot, archive, marts, DAYS[1], DAYS[1])
    assert summary.readings_written == 288
    assert hot.count_readings(start_ns(DAYS[1]), start_ns(DAYS[2])) == 288
    assert hot.count_readings(start_ns(DAYS[0]), start_ns(TODAY)) == 288
    assert summary.aggregates_written == 3


def test_hourly_aggregates_reach_further_back(hot: HotStore, archive: Archive, marts: Marts) -> None:
    marts.replace("hourly_aggregates", with_date(aggregate(pl.concat([day_of(day) for day in DAYS]), "hourly")))
    rebuild_hot(hot, archive, marts, DAYS[-1], DAYS[-1], hourly_first=DAYS[1])
    found = {
        period: hot.aggregates(period, start_ns(DAYS[0]), start_ns(TODAY))["period_start"].min()
        for period in AGGREGATE_MARTS
    }
    assert found == {"daily": start_ns(DAYS[-1]), "hourly": start_ns(DAYS[1])}


def test_what_the_archive_does_not_have_yet_stays(hot: HotStore, archive: Archive, marts: Marts) -> None:
    live = day_of(TODAY).head(5)
    hot.write_readings(live)
    rebuild_hot(hot, archive, marts, DAYS[0], TODAY)
    assert hot.count_readings(start_ns(TODAY), start_ns(TODAY) + DAY_NS) == 5


def test_the_last_of_two_readings_of_one_key_wins(hot: HotStore, archive: Archive, marts: Marts) -> None:
    append(archive, day_of(DAYS[0], temperature=30.0).head(1), "history:two")
    rebuild_hot(hot, archive, marts, DAYS[0], DAYS[0])
    assert everything(hot)["temperature"][0] == 30.0
    assert everything(hot).height == 288


# -- others write meanwhile --------------------------------------------------------------------------------------------
Method = Literal["write_readings", "replace_aggregates"]


class Meanwhile:
    """What another writer does between read and write of a rebuild: each of `acts` before one call of `method`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, hot: HotStore, method: Method, *acts: Callable[[], object]
    ) -> None:
        self.calls = 0
        self.left = list(acts)
        self._real = getattr(hot, method)
        self._acting = False
        monkeypatch.setattr(hot, method, self._call)

    def _call(self, *arguments: object) -> object:
        if self._acting:  # the other writer's own
            return self._real(*arguments)
        self.calls += 1
        if self.left:
            self._acting = True
            self.left.pop(0)()
            self._acting = False
        return self._real(*arguments)


@pytest.fixture
def corrections(tmp_path: Path, hot: HotStore, marts: Marts) -> Iterator[Corrections]:
    """As `sieis correct` makes them, in both stores."""
    with State.open(Settings(data_dir=tmp_path / "state")) as state:
        yield Corrections(state, Archive(str(tmp_path / "archive")), marts, hot)


def asked(kind: Literal["delete", "null"], first: int, rows: int, *fields: str) -> Asked:
    """So many readings of mote 2 on the second day."""
    start = start_ns(DAYS[1]) + first * STEP_NS
    return Asked(kind, [2], start, start + rows * STEP_NS, "it burnt", "someone", fields)


def agree(hot: HotStore, archive: Archive) -> None:
    expected = archive.scan().select(READING_SCHEMA.names()).collect().sort("mote_id", "timestamp")
    assert_frame_equal(everything(hot), expected, check_exact=True)


def test_readings_deleted_while_they_are_written_stay_deleted(
    hot: HotStore, archive: Archive, marts: Marts, corrections: Corrections, monkeypatch: pytest.MonkeyPatch
) -> None:
    Meanwhile(monkeypatch, hot, "write_readings", lambda: None, lambda: corrections.apply(asked("delete", 10, 20)))
    summary = rebuild_hot(hot, archive, marts, DAYS[0], DAYS[-1])
    assert (summary.readings_archived, summary.changed_meanwhile) == (864, 20)
    assert everything(hot).height == 844
    agree(hot, archive)


def test_values_taken_away_while_they_are_written_stay_away(
    hot: HotStore, archive: Archive, marts: Marts, corrections: Corrections, monkeypatch: pytest.MonkeyPatch
) -> None:
    null = asked("null", 10, 20, "temperature")
    Meanwhile(monkeypatch, hot, "write_readings", lambda: None, lambda: corrections.apply(null))
    assert rebuild_hot(hot, archive, marts, DAYS[0], DAYS[-1]).changed_meanwhile == 20
    assert everything(hot)["temperature"].null_count() == 20
    agree(hot, archive)


def test_what_changes_again_while_it_is_put_right_is_put_right_again(
    hot: HotStore, archive: Archive, marts: Marts, corrections: Corrections, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Correction] = []

    def late_and_undone() -> None:
        # Between the two deleted readings comes a late one, into both stores.
        late = day_of(DAYS[1]).filter(mote_id=2)[[3]].with_columns(pl.col("timestamp") + 7)
        hot.write_readings(late)
        append(archive, late, "stream:late")
        corrections.undo(made[0].id, "someone")

    acts = (
        lambda: made.append(corrections.apply(asked("delete", 3, 5))),
        late_and_undone,
        lambda: corrections.apply(asked("null", 0, 9, "light")),
    )
    meanwhile = Meanwhile(monkeypatch, hot, "write_readings", *acts)
    rebuild_hot(hot, archive, marts, DAYS[1], DAYS[1])
    assert meanwhile.left == []
    within = (pl.col("timestamp") // DAY_NS == start_ns(DAYS[1]) // DAY_NS).alias("within")
    expected = archive.scan().select(READING_SCHEMA.names()).filter(within).collect().sort("mote_id", "timestamp")
    assert expected.height == 289
    assert_frame_equal(everything(hot), expected, check_exact=True)


def test_readings_that_only_come_are_left_to_who_brings_them(
    hot: HotStore, archive: Archive, marts: Marts, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = day_of(DAYS[0]).with_columns(pl.col("timestamp") + 7)

    def stream() -> None:
        hot.write_readings(late)
        append(archive, late, "stream:late")

    meanwhile = Meanwhile(monkeypatch, hot, "write_readings", stream)
    assert rebuild_hot(hot, archive, marts, DAYS[0], DAYS[-1]).changed_meanwhile == 0
    assert meanwhile.calls == len(DAYS), "a day that the stream writes to all the time must end, too"
    agree(hot, archive)


@pytest.mark.parametrize("lost", [False, True], ids=["other values", "a mote has lost its readings"])
def test_a_refresh_meanwhile_is_what_stays(
    hot: HotStore, archive: Archive, marts: Marts, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    readings = day_of(DAYS[1], temperature=30.0)
    second = with_date(aggregate(readings.filter(mote_id=1) if lost else readings, "daily"))

    def refresh() -> None:
        marts.replace_days("daily_aggregates", second, DAYS[1], DAYS[1])
        hot.replace_aggregates("daily", second.select(AGGREGATE_SCHEMA.names()), start_ns(DAYS[1]), start_ns(DAYS[2]))

    meanwhile = Meanwhile(monkeypatch, hot, "replace_aggregates", refresh)
    summary = rebuild_hot(hot, archive, marts, DAYS[0], DAYS[-1])
    assert (summary.aggregates_written, summary.changed_meanwhile, meanwhile.calls) == (9, second.height, 2)
    expected = marts.scan("daily_aggregates").select(AGGREGATE_SCHEMA.names()).sort("period_start", "mote_id").collect()
    assert_frame_equal(hot.aggregates("daily", start_ns(DAYS[0]), start_ns(TODAY)), expected, check_exact=True)


def test_other_files_with_the_same_aggregates_are_no_change(
    hot: HotStore, archive: Archive, marts: Marts, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = marts.scan("daily_aggregates").collect()
    meanwhile = Meanwhile(
        monkeypatch, hot, "replace_aggregates", lambda: marts.replace_days("daily_aggregates", same, DAYS[0], DAYS[-1])
    )
    assert rebuild_hot(hot, archive, marts, DAYS[0], DAYS[-1]).changed_meanwhile == 0
    assert meanwhile.calls == 1


def test_a_day_of_many_readings_is_read_in_pieces(
    hot: HotStore, archive: Archive, marts: Marts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "_PIECE_ROWS", 50)
    assert rebuild_hot(hot, archive, marts, DAYS[0], DAYS[0]).readings_written == 288
    assert hot.count_readings(start_ns(DAYS[0]), start_ns(DAYS[1])) == 288
