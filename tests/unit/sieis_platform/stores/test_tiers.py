"""Days in the cold table: read as if they had never moved, whoever writes beside it and wherever it is interrupted."""

import datetime as dt
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform import crash
from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores import cold as cold_module
from sieis_platform.stores.archive import Archive, Commit
from sieis_platform.stores.archive_errors import ArchiveError, ColdTierError
from sieis_platform.stores.cold import Cold
from sieis_platform.stores.delta import clean
from sieis_platform.stores.ledger import LedgerCopy, LedgerEntry
from sieis_platform.stores.marts import Marts
from sieis_platform.stores.restore import put_back
from sieis_platform.stores.rewrite import ROW_SCHEMA, Scope, remove, replace_rows
from sieis_platform.stores.tiers import Moved, bring_back, movable_days, move_day
from sieis_platform.stores.touched import touched_days
from sieis_platform.stores.upkeep import compact_day, drop_superseded, expire, vacuum
from sieis_platform.timeline import DAY_NS

FIRST = dt.date(2026, 2, 26)  # the days lie in two months
MIDNIGHT = (FIRST - dt.date(1970, 1, 1)).days * DAY_NS
APP = "sensor_readings/one/0"
DAYS = 5
MOTES = 3
OLD = range(3)  # of the days: those that move
#: Where a move, and a return, can be interrupted.
MOVING = [point for point in crash.POINTS if point.startswith("cold.") and point != "cold.after_restore"]
RETURNING = ["cold.after_cold", "cold.after_live"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing but the tables is left of the run (tests/faults/test_kill_cold.py does kill)."""


def day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number)


def append(archive: Archive, keys: Sequence[tuple[int, int]], temperature: float = 20.0) -> None:
    """Readings (mote, ns after the first midnight), as a flush of the stream."""
    position = archive.position(APP)
    start = position or 0
    frame = pl.DataFrame(
        [(mote, MIDNIGHT + ns, temperature, 40.0, None, 2.7) for mote, ns in keys], READING_SCHEMA, orient="row"
    )
    rows = frame.with_columns(
        source=pl.lit("stream:one"),
        source_partition=pl.lit(0, pl.Int32),
        source_offset=pl.int_range(start, start + len(keys), dtype=pl.Int64),
    )
    entry = LedgerEntry(app=APP, start=start, end=start + len(keys), stored=len(keys))
    archive.append(Commit(rows, [entry], {APP: position}))


def opened(archive: Archive, *, cold: bool = True) -> Archive:
    """The same archive, as another process opens it; without its cold table as one with other settings does."""
    marts = Marts(f"{Path(archive.uri).parent / 'marts'}")
    return Archive(
        archive.uri,
        mote_folders="mote_id" in archive.partition_columns,
        ledger_copy=LedgerCopy(marts),
        cold=Cold(archive.cold.uri if cold else ""),
    )


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["mote folders", "no mote folders"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    archive = opened(Archive(str(tmp_path / "archive"), mote_folders=request.param, cold=Cold(str(tmp_path / "cold"))))
    archive.create()
    for part in range(2):
        append(archive, [(mote, DAY_NS * number + part) for number in range(DAYS) for mote in range(1, MOTES + 1)])
    return archive


def move(archive: Archive) -> Moved:
    done = [move_day(archive, one) for one in movable_days(archive, day(OLD[-1]))]
    return Moved(sum(one.days for one in done), sum(one.rows for one in done), sum(one.superseded for one in done))


def held(archive: Archive) -> pl.DataFrame:
    """Every row, as another process reads it; the ledger agrees."""
    other = opened(archive)
    assert audit_archive(other).findings == []
    return other.scan_all().select(ROW_SCHEMA.names()).sort("source_offset").collect()


def live_days(archive: Archive) -> set[int]:
    rows = archive.scan_live(archive.files(), None, None).select(
        (pl.col("timestamp") - MIDNIGHT).floordiv(DAY_NS).unique()
    )
    return set(rows.collect().to_series())


# -- moved days are read as before -------------------------------------------------------------------------------------
def test_moved_days_are_read_as_if_they_had_never_moved(archive: Archive) -> None:
    before, by_day = held(archive), archive.rows_by_day(archive.files())
    mark = touched_days(archive, None).mark
    assert move(archive) == (3, 18, 0)
    assert live_days(archive) == {3, 4}
    assert_frame_equal(held(archive), before, check_exact=True)
    assert archive.rows_by_day(archive.files()) == by_day
    weights = archive.weight_by_day(archive.files(), day(2))
    assert weights["rows"].to_list() == [6, 6, 6]
    for number in range(DAYS):
        start = MIDNIGHT + number * DAY_NS
        assert archive.scan(start, start + DAY_NS, [2]).collect().height == 2
    touched = touched_days(archive, mark)
    assert touched.days == {}  # nothing to derive again
    assert touched.mark.version == archive.version()
    version = archive.version()
    assert move(archive) == (0, 0, 0)
    assert archive.version() == version


def test_the_motes_of_some_days_are_told_whichever_table_holds_them(archive: Archive) -> None:
    append(archive, [(7, 0), (9, 4 * DAY_NS)])
    every = list(range(1, MOTES + 1))
    for _ in range(2):
        files = archive.files()
        assert archive.motes(files, day(0), day(4)) == [*every, 7, 9]
        assert archive.motes(files, day(0), day(0)) == [*every, 7]
        assert archive.motes(files, day(4), day(9)) == [*every, 9]
        assert archive.motes(files, day(5), day(9)) == []
        move(archive)  # the second time in the cold table


def test_an_older_version_is_read_with_the_cold_table_that_went_with_it(archive: Archive) -> None:
    versions = [(archive.version(), held(archive))]
    move_day(archive, day(0))
    append(archive, [(1, 7)])
    versions.append((archive.version(), held(archive)))
    move_day(archive, day(0))
    move_day(archive, day(1))
    remove(archive, Scope.day(day(1)), reason="test")
    for version, rows in versions:
        found = archive.scan_all(version).select(ROW_SCHEMA.names()).sort("source_offset").collect()
        assert_frame_equal(found, rows, check_exact=True)


def test_days_that_never_moved_are_read_without_the_cold_table(archive: Archive) -> None:
    move(archive)
    other = opened(archive)
    shutil.move(archive.cold.uri, f"{archive.cold.uri}-away")
    recent = MIDNIGHT + 3 * DAY_NS
    assert other.scan(recent, None).collect().height == 12
    assert other.newest_days(other.files(), 2) == [day(3), day(4)]
    with pytest.raises(ArchiveError, match=r"there is no cold archive at .* SIEIS_ARCHIVE_COLD_URI"):
        other.scan(recent - 1, None)
    with pytest.raises(ArchiveError, match="there is no cold archive"):
        other.newest_days(other.files(), 3)


def test_late_rows_of_a_moved_day_are_read_touch_it_and_move_with_the_next_run(archive: Archive) -> None:
    move(archive)
    mark = touched_days(archive, None).mark
    append(archive, [(1, 5), (9, DAY_NS), (2, DAY_NS)], temperature=25.0)  # a new one, a new mote, a correction
    late = held(archive)
    assert late.height == 33
    assert set(touched_days(archive, mark).days) == {day(0), day(1)}
    assert archive.rows_by_day(archive.files())[day(1)] == 8
    assert move(archive) == (2, 3, 1)
    after = held(archive)
    assert live_days(archive) == {3, 4}
    lost = late.join(after, on="source_offset", how="anti")
    assert lost.select("mote_id", "temperature").rows() == [(2, 20.0)]  # what the repeated key replaced
    assert archive.scan(MIDNIGHT + DAY_NS, MIDNIGHT + DAY_NS + 1, [2]).collect()["temperature"].to_list() == [25.0]


def test_repeated_keys_are_closed_on_the_way(archive: Archive) -> None:
    append(archive, [(1, 0), (2, 0)], temperature=25.0)
    expected = archive.scan(MIDNIGHT, MIDNIGHT + DAY_NS).sort("source_offset").collect()
    assert move_day(archive, day(0)) == (1, 8, 2)
    held(archive)
    assert_frame_equal(archive.scan(MIDNIGHT, MIDNIGHT + DAY_NS).sort("source_offset").collect(), expected)
    cold = archive.cold_files(archive.files())
    assert cold is not None
    assert len(cold.all()) == (MOTES if "mote_id" in archive.partition_columns else 1)


def test_a_day_of_more_rows_than_are_held_at_once_moves_in_groups_of_motes(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sieis_platform.stores.rewrite.ROWS_AT_ONCE", 4)
    before = held(archive)
    assert move(archive) == (3, 18, 0)
    assert_frame_equal(held(archive), before, check_exact=True)
    assert bring_back(archive).rows == 18
    assert_frame_equal(held(archive), before, check_exact=True)


# -- interrupted, and beside other writers -----------------------------------------------------------------------------
def at(monkeypatch: pytest.MonkeyPatch, point: str, act: Callable[[], object]) -> list[str]:
    """Have `act` happen at the first pass of a crash point; the list holds the point once it did."""
    done: list[str] = []

    def reached(name: str) -> None:
        if name == point and not done:
            done.append(name)
            act()

    monkeypatch.setattr(crash, "point", reached)
    return done


def die() -> None:
    raise Killed


def killed(monkeypatch: pytest.MonkeyPatch, point: str, act: Callable[[], object]) -> None:
    """Have `act` end at a crash point."""
    with monkeypatch.context() as patched:
        at(patched, point, die)
        with pytest.raises(Killed):
            act()


@pytest.mark.parametrize("point", MOVING)
def test_a_move_killed_anywhere_loses_and_repeats_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    move_day(opened(archive), day(0))
    append(archive, [(1, 3), (1, DAY_NS + 3)])
    before = held(archive)
    killed(monkeypatch, point, lambda: move(opened(archive)))
    assert_frame_equal(held(archive), before, check_exact=True)
    append(archive, [(2, 4)])  # life goes on
    before = held(archive)
    move(archive)
    assert_frame_equal(held(archive), before, check_exact=True)
    assert live_days(archive) == {3, 4}


def test_what_a_killed_move_left_is_not_taken_up_by_the_move_of_another_day(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(archive)
    for point in ("cold.after_cold", "cold.after_restore"):
        killed(monkeypatch, point, lambda: move_day(opened(archive), day(0)))
    assert move_day(archive, day(1)).rows == 6
    assert live_days(archive) == {0, 2, 3, 4}
    assert_frame_equal(held(archive), before, check_exact=True)


@pytest.mark.parametrize("point", RETURNING)
def test_a_return_killed_anywhere_loses_and_repeats_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    before = held(archive)
    move(archive)
    killed(monkeypatch, point, lambda: bring_back(opened(archive)))
    assert_frame_equal(held(archive), before, check_exact=True)
    bring_back(archive)
    assert_frame_equal(held(archive), before, check_exact=True)
    assert live_days(archive) == set(range(DAYS))


def lose_values(archive: Archive) -> None:
    """A correction: the values of a mote are taken away on two days."""
    replace_rows(
        archive,
        Scope(day(1), day(0), [2]),
        lambda rows: rows.with_columns(pl.lit(None, pl.Float32).alias("temperature")),
        reason="corrected",
    )


def slow(act: Callable[[Archive], object], name: str) -> object:
    return pytest.param(act, marks=pytest.mark.slow, id=name)


@pytest.mark.parametrize("point", [pytest.param("cold.before_cold", marks=pytest.mark.slow), "cold.after_cold"])
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda archive: append(archive, [(1, 9), (2, 9), (9, 9)]), id="late"),
        pytest.param(lambda archive: remove(archive, Scope(day(0)), reason="test"), id="expiry"),
        pytest.param(lambda archive: move_day(archive, day(0)), id="same move"),
        pytest.param(lambda archive: move_day(archive, day(1)), id="other move"),
        pytest.param(lose_values, id="correction"),
        slow(lambda archive: append(archive, [(9, 9)]), "late of a new mote"),
        slow(lambda archive: append(archive, [(1, 4 * DAY_NS + 9)]), "of today"),
        slow(lambda archive: remove(archive, Scope.day(day(0), [1]), reason="test"), "removal"),
        slow(lambda archive: compact_day(archive, day(0)), "compaction"),
        slow(lambda archive: vacuum(archive, 1), "vacuum"),
        slow(lambda archive: (move_day(archive, day(0)), bring_back(archive)), "there and back"),
    ],
)
def test_what_others_commit_between_the_two_commits_of_a_move_is_not_lost(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, other: Callable[[Archive], object]
) -> None:
    shutil.copytree(tmp_path, twin := tmp_path.parent / f"{tmp_path.name}-twin")
    alone = opened(
        Archive(
            str(twin / "archive"),
            mote_folders="mote_id" in archive.partition_columns,
            cold=Cold(str(twin / "cold")),
        )
    )
    move_day(alone, day(2))
    other(alone)
    move(alone)
    move_day(archive, day(2))
    with monkeypatch.context() as patched:
        done = at(patched, point, lambda: other(opened(archive)))
        move(archive)
    assert done == [point]
    move(archive)
    columns = [name for name in ROW_SCHEMA.names() if name != "ingested_at"]
    assert_frame_equal(held(archive).select(columns), held(alone).select(columns), check_exact=True)
    assert live_days(archive) == {3, 4}


@pytest.mark.parametrize("point", RETURNING[:1])
def test_what_others_commit_between_the_two_commits_of_a_return_is_not_lost(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    move(archive)
    with monkeypatch.context() as patched:
        at(patched, point, lambda: append(opened(archive), [(1, 9), (9, 9)]))
        bring_back(archive)
    assert held(archive).height == 2 * DAYS * MOTES + 2
    assert live_days(archive) == set(range(DAYS))


def test_a_move_does_not_build_on_what_another_leaves_half_done_meanwhile(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(archive)
    move_day(archive, day(2))  # so that nothing else, as a changed property, makes the two conflict
    with monkeypatch.context() as patched:
        half = lambda: killed(monkeypatch, "cold.after_cold", lambda: move_day(opened(archive), day(1)))  # noqa: E731
        at(patched, "cold.before_cold", half)
        move_day(archive, day(0))
    assert_frame_equal(held(archive), before, check_exact=True)
    assert live_days(archive) == {1, 3, 4}


def test_rows_that_come_while_the_cold_table_is_put_right_are_not_lost(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_day(archive, day(0))
    killed(monkeypatch, "cold.after_cold", lambda: move_day(opened(archive), day(1)))
    with monkeypatch.context() as patched:
        done = at(patched, "cold.after_restore", lambda: append(opened(archive), [(2, 9)]))
        lose_values(archive)
    assert done
    assert held(archive).height == 2 * DAYS * MOTES + 1


def test_a_move_that_slept_until_its_files_were_gone_is_refused(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(archive)
    move_day(archive, day(2))
    vacuum(archive, 1)  # as above
    with monkeypatch.context() as patched:
        at_once(patched)
        done = at(patched, "cold.after_cold", lambda: vacuum(opened(archive), 1))
        move_day(archive, day(0))
    assert done
    assert_frame_equal(held(archive), before, check_exact=True)
    assert live_days(archive) == {1, 3, 4}


# -- changes to moved days ---------------------------------------------------------------------------------------------
def test_a_moved_day_is_corrected_and_the_correction_moves_with_it(archive: Archive) -> None:
    before = held(archive)
    move(archive)
    mark = touched_days(archive, None).mark
    lose_values(archive)
    corrected = held(archive)
    assert corrected.filter(pl.col("temperature").is_null()).height == 4
    assert corrected.height == before.height
    assert set(touched_days(archive, mark).days) == {day(0), day(1)}
    assert live_days(archive) == {0, 1, 3, 4}
    move(archive)
    assert live_days(archive) == {3, 4}
    assert_frame_equal(held(archive), corrected, check_exact=True)


def test_rows_of_a_moved_day_are_removed_and_put_back(archive: Archive) -> None:
    before = held(archive)
    move(archive)
    scope = Scope.day(day(0), [2])
    images = before.filter(pl.col("mote_id") == 2, pl.col("timestamp") < MIDNIGHT + DAY_NS)
    assert remove(archive, scope, reason="test") == 2
    assert held(archive).height == before.height - 2
    version = archive.version()
    assert remove(archive, scope, reason="test") == 0
    assert archive.version() == version
    back = {"reason": "test", "metadata": {}, "transactions": {"correction/1": 2}}
    assert put_back(archive, scope, images, **back) == 2
    assert put_back(archive, scope, images, **back) == 0
    assert_frame_equal(held(archive), before, check_exact=True)
    move(archive)
    assert put_back(archive, scope, images, **back) == 0
    assert_frame_equal(held(archive), before, check_exact=True)


def test_repeated_keys_of_a_moved_day_are_dropped_across_the_tables(archive: Archive) -> None:
    move(archive)
    append(archive, [(1, 0)], temperature=25.0)
    assert drop_superseded(archive, day(0)) == 1
    assert held(archive).height == 2 * DAYS * MOTES


def test_the_retention_lets_moved_days_go_live_and_cold(archive: Archive) -> None:
    move(archive)
    append(archive, [(1, 9)])
    mark = touched_days(archive, None).mark
    assert expire(archive, day(4), 2, {3: 0}) == 2 * 4 + 1
    assert set(held(archive).filter(pl.col("timestamp") < MIDNIGHT + 2 * DAY_NS)["mote_id"]) == {3}
    assert expire(archive, day(4), 2, {3: 0}) == 0
    assert expire(archive, day(4), 1, {}) == 2 * 2 + 2 * 3
    assert held(archive).height == 12
    assert archive.cold.version(archive.table()) == 0  # nothing is left there
    assert touched_days(archive, mark).days == {}


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have vacuums of the cold table take what is not needed now, without a horizon."""
    monkeypatch.setattr(cold_module, "clean", lambda table, _hours, *, log: clean(table, 0, log=log))


def test_a_vacuum_leaves_what_is_read_and_takes_the_rest(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    move(archive)
    killed(monkeypatch, "cold.after_cold", lambda: lose_values(opened(archive)))
    lose_values(archive)
    move(archive)
    before = held(archive)
    files = set(Path(archive.cold.uri).rglob("*.parquet"))
    with monkeypatch.context() as patched:
        at_once(patched)
        for _ in range(2):
            vacuum(archive, 1)
    cold = archive.cold_files(archive.files())
    assert cold is not None
    left = set(Path(archive.cold.uri).rglob("[!_]*=*/*.parquet"))
    assert len(left) == len(cold.all()) < len(files)
    assert_frame_equal(held(archive), before, check_exact=True)
    append(archive, [(1, 9)])
    move(archive)
    assert held(archive).height == before.height + 1


# -- the way back, and settings that do not fit ------------------------------------------------------------------------
def test_days_come_back_and_the_setting_may_go(archive: Archive) -> None:
    before = held(archive)
    move(archive)
    mark = touched_days(archive, None).mark
    assert bring_back(archive) == (3, 18, 0)
    assert bring_back(archive) == (0, 0, 0)
    assert touched_days(archive, mark).days == {}
    shutil.rmtree(archive.cold.uri)
    without = opened(archive, cold=False)
    found = without.scan_all().select(ROW_SCHEMA.names()).sort("source_offset").collect()
    assert_frame_equal(found, before, check_exact=True)
    vacuum(without, 1)
    elsewhere = opened(archive)
    elsewhere.cold.uri += "-elsewhere"
    assert move(elsewhere).rows == 18
    assert audit_archive(elsewhere).findings == []


def test_without_the_setting_moved_days_are_an_error_and_never_silently_missing(archive: Archive) -> None:
    move(archive)
    without = opened(archive, cold=False)
    assert without.scan(MIDNIGHT + 3 * DAY_NS).collect().height == 12
    append(without, [(1, 9)])  # the stream goes on
    for act in (
        without.scan_all,
        lambda: without.scan(MIDNIGHT, MIDNIGHT + 1),
        lambda: without.rows_by_day(without.files()),
        lambda: without.require_cold(without.files()),
        lambda: audit_archive(without),
        lambda: expire(without, day(4), 1, {}),
        lambda: drop_superseded(without, day(0)),
        lambda: vacuum(without, 1),
        lambda: bring_back(without),
    ):
        with pytest.raises(ColdTierError, match="SIEIS_ARCHIVE_COLD_URI is not set: set it to where they are"):
            act()
    with pytest.raises(ColdTierError, match="no day can be moved"):
        move_day(without, day(3))
    assert held(archive).height == 2 * DAYS * MOTES + 1


def test_another_table_is_not_taken_for_the_cold_one(archive: Archive, tmp_path: Path) -> None:
    move(archive)
    for place in ("empty", "full"):
        other = opened(archive)
        other.cold.uri = str(tmp_path / place)
        if place == "full":
            stranger = Archive(str(tmp_path / "stranger"), cold=Cold(other.cold.uri))
            stranger.create()
            append(stranger, [(1, 0)])
            move_day(stranger, day(0))
        for act in (other.scan_all, lambda one=other: move_day(one, day(3)), lambda one=other: bring_back(one)):
            with pytest.raises(ArchiveError, match=r"there is no cold archive|is not the one that days"):
                act()
    newest = max(Path(archive.cold.uri, "_delta_log").glob("*.json"))
    kept = newest.read_bytes()
    newest.unlink()  # as restored from an older backup
    with pytest.raises(ColdTierError, match="restore both from one backup"):
        opened(archive).scan_all()
    newest.write_bytes(kept)
    anew = Archive(str(tmp_path / "anew"), cold=Cold(archive.cold.uri))
    anew.create()
    append(anew, [(1, 0)])
    with pytest.raises(ColdTierError, match="days of another archive"):
        move_day(anew, day(0))
    assert held(archive).height == 2 * DAYS * MOTES
