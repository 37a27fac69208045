"""Corrections: what changes and what does not, in archive and hot store; the way back; what is refused."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sieis_platform import backfill
from sieis_platform import corrections as corrections_module
from sieis_platform.analysis.ledger import audit_archive
from sieis_platform.backfill import Backfill
from sieis_platform.corrections import METADATA, Asked, CorrectionError, Corrections, UnknownCorrectionError
from sieis_platform.history import HistoricalLoad
from sieis_platform.reading import FIELDS, KEY
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.stores.archive import Commit, LedgerEntry
from sieis_platform.stores.corrected import IMAGES, CorrectionImages
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.stores.tiers import move_day
from sieis_platform.timeline import DAY_NS
from tests.unit.sieis_platform.history_file import MOTES, archived, day, hot_rows, won, write

A_DAY = 96
HOUR_NS = 3_600 * 10**9


def start_of(date: dt.date) -> int:
    return (date - dt.date(1970, 1, 1)).days * DAY_NS


#: From noon four days ago to noon three days ago.
START, END = start_of(day(4)) + 12 * HOUR_NS, start_of(day(3)) + 12 * HOUR_NS
INSIDE = pl.col("timestamp").is_between(START, END, closed="left") & pl.col("mote_id").is_in([2, 3])


def asked(kind, *fields: str, motes=(2, 3), start=START, end=END) -> Asked:
    return Asked(kind, list(motes), start, end, "the battery was dying", "someone", fields)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("file") / "readings.txt", A_DAY)


@pytest.fixture(params=["mote folders", "days only", "cold days"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, file: Path) -> Settings:
    """An installation with five days of history; the three oldest may lie in the cold table."""
    cold = request.param == "cold days"
    settings = Settings(
        data_dir=tmp_path,
        archive_mote_folders=request.param != "days only",
        archive_cold_uri=str(tmp_path / "cold") if cold else "",
    )
    hot = open_hot(settings)
    Backfill(settings, hot, open_archive(settings)).fill(file, day(5), day(1))
    hot.close()
    for number in (5, 4, 3) if cold else ():
        assert move_day(open_archive(settings), day(number)).rows == MOTES * A_DAY
    return settings


@pytest.fixture
def corrections(settings: Settings) -> Iterator[Corrections]:
    hot = open_hot(settings)
    with State.open(settings) as state:
        yield Corrections(state, open_archive(settings), open_marts(settings), hot)
    hot.close()


def agree(settings: Settings) -> None:
    """The ledger is clean, and both stores hold the same."""
    assert audit_archive(open_archive(settings)).findings == []
    assert_frame_equal(hot_rows(settings), won(open_archive(settings)), check_exact=True)


def test_deleting_takes_exactly_those_readings_and_undoing_brings_them_back(
    settings: Settings, corrections: Corrections
) -> None:
    before = open_archive(settings).scan_all().sort("source_offset").collect()
    done = corrections.apply(asked("delete"))
    assert (done.status, done.rows) == ("done", 2 * A_DAY)
    assert corrections.days(done.id) == [day(4), day(3)]
    after = open_archive(settings).scan_all().sort("source_offset").collect()
    assert_frame_equal(after, before.filter(~INSIDE), check_exact=True)
    agree(settings)

    undone = corrections.undo(done.id, "another")
    assert (undone.status, undone.undone_by) == ("undone", "another")
    # To the last bit, lineage and the moment of archiving included.
    assert_frame_equal(open_archive(settings).scan_all().sort("source_offset").collect(), before, check_exact=True)
    agree(settings)
    version = open_archive(settings).version()
    assert corrections.undo(done.id, "third") == undone
    assert open_archive(settings).version() == version


def test_taking_values_away_leaves_all_else_and_comes_back(settings: Settings, corrections: Corrections) -> None:
    before = archived(settings)
    done = corrections.apply(asked("null", "temperature", "voltage"))
    nulls = [pl.when(~INSIDE).then(field).alias(field) for field in ("temperature", "voltage")]
    assert_frame_equal(archived(settings), before.with_columns(nulls), check_exact=True)
    agree(settings)
    corrections.undo(done.id, "another")
    assert_frame_equal(archived(settings), before, check_exact=True)
    agree(settings)


def test_it_can_be_undone_when_the_old_files_are_gone(settings: Settings, corrections: Corrections) -> None:
    before = archived(settings)
    done = corrections.apply(asked("delete"))
    table = open_archive(settings).table()
    assert table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    corrections.undo(done.id, "another")
    assert_frame_equal(archived(settings), before, check_exact=True)
    agree(settings)


def test_the_audit_says_who_did_what_and_why_and_the_log_names_it(settings: Settings, corrections: Corrections) -> None:
    done = corrections.apply(asked("null", "light"))
    with State.open(settings) as state:
        (kept,) = state.corrections()
    assert kept == done == corrections.known()[0]
    assert (kept.reason, kept.author, kept.fields, kept.motes) == (
        "the battery was dying",
        "someone",
        ["light"],
        [2, 3],
    )
    commits = [commit[METADATA] for commit in open_archive(settings).commits() if METADATA in commit]
    assert commits
    assert all(done.id in text and "the battery was dying" in text for text in commits)


def test_readings_that_arrive_later_are_not_concerned(settings: Settings, corrections: Corrections, file: Path) -> None:
    # Mote 2 sent something late into the corrected range: undoing must not touch it, nor lose it.
    done = corrections.apply(asked("delete"))
    archive = open_archive(settings)
    late = (
        archive.scan_all()
        .filter(mote_id=1)
        .head(1)
        .collect()
        .with_columns(
            mote_id=pl.lit(2, pl.Int32), timestamp=pl.lit(START + 5), source=pl.lit("stream:x"), source_offset=pl.lit(0)
        )
    )
    rows = late.drop("ingested_at", "year", "month", "day")
    app = "sensor_readings/x/0"
    archive.append(Commit(rows, [LedgerEntry(app=app, start=0, end=1, stored=1)], {app: None}))
    corrections.undo(done.id, "another")
    found = won(archive).filter(INSIDE)
    assert found.height == 2 * A_DAY + 1
    assert found.filter(timestamp=START + 5).height == 1
    assert audit_archive(archive).findings == []


def test_a_backfill_leaves_corrected_readings_alone(settings: Settings, corrections: Corrections, file: Path) -> None:
    deleted = corrections.apply(asked("delete"))
    nulled = corrections.apply(asked("null", "light", motes=[1]))
    rows = archived(settings)
    hot = open_hot(settings)
    one = Backfill(settings, hot, open_archive(settings))
    assert one.fill(file, day(5), day(1)).added == 0
    assert one.fill(file, day(5), day(1), replace=True).added == 0
    assert_frame_equal(archived(settings), rows, check_exact=True)
    agree(settings)
    corrections.undo(nulled.id, "another")
    corrections.undo(deleted.id, "another")
    whole = archived(settings)
    assert one.fill(file, day(5), day(1), replace=True).changed == 0
    assert_frame_equal(archived(settings), whole, check_exact=True)
    hot.close()


@pytest.mark.parametrize("replace", [False, True])
def test_a_backfill_from_another_file_leaves_corrected_readings_alone(
    settings: Settings, corrections: Corrections, file: Path, tmp_path: Path, replace: bool
) -> None:
    # The same readings under another fingerprint: one more mote, whose lines come last.
    other = tmp_path / "other.txt"
    other.write_text(file.read_text() + "2004-03-01 00:00:00.5 0 9 20 40 100 2.625\n")
    corrections.apply(asked("delete"))
    corrections.apply(asked("null", "light", motes=[1]))
    hot = open_hot(settings)
    before = won(open_archive(settings))
    Backfill(settings, hot, open_archive(settings)).fill(other, day(5), day(1), replace=replace)
    hot.close()
    assert_frame_equal(won(open_archive(settings)).filter(pl.col("mote_id") != 9), before, check_exact=True)
    assert won(open_archive(settings)).filter(mote_id=9).height == 1
    corrected = open_archive(settings).scan_all().filter(INSIDE | (pl.col("mote_id") == 1) & pl.col("light").is_null())
    assert corrected.select("mote_id").collect()["mote_id"].unique().to_list() == [1]
    agree(settings)
    for done in reversed(corrections.known()):
        corrections.undo(done.id, "me")
    assert won(open_archive(settings)).filter(INSIDE).height == 2 * A_DAY
    assert audit_archive(open_archive(settings)).findings == []


def test_a_load_of_another_file_leaves_corrected_readings_alone(
    settings: Settings, corrections: Corrections, file: Path, tmp_path: Path
) -> None:
    # The same readings under another fingerprint, each of another value: they would win.
    other = tmp_path / "other.txt"
    other.write_text(file.read_text().replace(" 2.625\n", " 2.75\n") + "2004-03-01 00:00:00.5 0 9 20 40 100 2.625\n")
    corrections.apply(asked("delete"))
    corrections.apply(asked("null", "light", motes=[1]))
    concerned = INSIDE | (pl.col("mote_id") == 1) & pl.col("timestamp").is_between(START, END, closed="left")
    before = won(open_archive(settings))
    hot = open_hot(settings)
    summary = HistoricalLoad(settings, hot, open_archive(settings)).load(other)
    hot.close()
    assert summary.skipped["corrected"] == 3 * A_DAY
    after = won(open_archive(settings)).filter(pl.col("mote_id") != 9)
    assert_frame_equal(after.filter(concerned), before.filter(concerned), check_exact=True)
    assert after.filter(~concerned)["voltage"].unique().to_list() == [2.75]
    agree(settings)


@pytest.mark.parametrize("what", ["made", "made after the archive", "undone"])
def test_a_correction_while_a_backfill_replaces_the_days_holds(
    settings: Settings, corrections: Corrections, file: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = archived(settings)
    hot, archive = open_hot(settings), open_archive(settings)
    if what == "undone":
        done = corrections.apply(asked("delete"))
        target, name = archive, "scan_table"
    elif what == "made":
        target, name = backfill, "replace_rows"
    else:
        target, name = hot, "delete_readings"
    real, calls = getattr(target, name), []

    def meanwhile(*given: object, **named: object) -> object:
        """Another person, between two steps of the backfill."""
        calls.append(name)
        if len(calls) == 1:
            if what == "undone":
                corrections.undo(done.id, "another")
            else:
                corrections.apply(asked("null", "light"))
        return real(*given, **named)

    monkeypatch.setattr(target, name, meanwhile)
    Backfill(settings, hot, archive).fill(file, day(5), day(1), replace=what != "undone")
    hot.close()
    assert calls
    if what != "undone":
        before = before.with_columns(pl.when(~INSIDE).then("light").alias("light"))
    assert_frame_equal(archived(settings), before, check_exact=True)
    agree(settings)


@pytest.fixture
def other(file: Path, tmp_path: Path) -> Path:
    """The same readings under another fingerprint: one more mote, whose line comes last."""
    path = tmp_path / "other.txt"
    path.write_text(file.read_text() + "2004-03-01 00:00:00.5 0 9 20 40 100 2.625\n")
    return path


@pytest.mark.parametrize("case", ["delete, load", "delete, backfill", "null, load", "null, backfill"])
def test_undone_in_pieces_it_is_in_force_until_the_last(
    settings: Settings, corrections: Corrections, other: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    kind, by = case.split(", ")
    before = archived(settings)
    monkeypatch.setattr(corrections_module, "_ROWS_AT_ONCE", 1)  # a day a piece
    done = corrections.apply(asked(kind, *(["light"] if kind == "null" else [])))
    step = "put_back" if kind == "delete" else "replace_rows"
    real, pieces = getattr(corrections_module, step), []

    def then_others_write(*given: object, **named: object) -> object:
        """One piece is back; before the next, the same readings come from another file."""
        outcome = real(*given, **named)
        pieces.append(given[1])
        if len(pieces) == 1:
            hot, archive = open_hot(settings), open_archive(settings)
            if by == "load":
                HistoricalLoad(settings, hot, archive).load(other)
            else:
                Backfill(settings, hot, archive).fill(other, day(5), day(1))
            hot.close()
        return outcome

    monkeypatch.setattr(corrections_module, step, then_others_write)
    corrections.undo(done.id, "another")
    assert len(pieces) == 2
    now = archived(settings)
    assert_frame_equal(now.filter(INSIDE), before.filter(INSIDE), check_exact=True)
    assert now.filter(mote_id=9).height == 1
    agree(settings)
    archive = open_archive(settings)
    assert CorrectionImages(open_marts(settings)).in_force(archive, archive.table()).is_empty()


def test_undoing_what_changed_nothing_in_the_last_piece_ends_it_all_the_same(
    settings: Settings, corrections: Corrections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrections_module, "_ROWS_AT_ONCE", 1)
    half = corrections.apply(asked("null", "light", start=start_of(day(3))))
    whole = corrections.apply(asked("null", "light"))
    images = CorrectionImages(open_marts(settings))
    corrections.undo(whole.id, "me")
    archive = open_archive(settings)
    assert images.in_force(archive, archive.table()).select("timestamp").min().item() >= start_of(day(3))
    corrections.undo(half.id, "me")
    assert images.in_force(archive, archive.table()).is_empty()
    agree(settings)


def test_corrections_of_the_same_readings_are_undone_in_reverse(settings: Settings, corrections: Corrections) -> None:
    before = archived(settings)
    first = corrections.apply(asked("null", "light"))
    second = corrections.apply(asked("delete", motes=[2]))
    with pytest.raises(CorrectionError, match=second.id):
        corrections.undo(first.id, "x")
    corrections.undo(second.id, "x")
    corrections.undo(first.id, "x")
    assert_frame_equal(archived(settings), before, check_exact=True)
    agree(settings)


def test_conflicting_readings_of_one_key_are_corrected_and_brought_back_together(
    settings: Settings, corrections: Corrections
) -> None:
    archive = open_archive(settings)
    app = "sensor_readings/x/0"
    again = archive.scan_all().filter(INSIDE).sort(*KEY).head(10).collect().drop("ingested_at", "year", "month", "day")
    again = again.with_columns(source=pl.lit("stream:x"), source_offset=pl.int_range(10), light=pl.lit(1.0, pl.Float32))
    archive.append(Commit(again, [LedgerEntry(app=app, start=0, end=10, stored=10)], {app: None}))
    hot = open_hot(settings)
    hot.write_readings(again)
    hot.close()
    agree(settings)
    before = archived(settings)
    done = corrections.apply(asked("delete"))
    assert done.rows == 2 * A_DAY + 10
    assert won(archive).filter(INSIDE).is_empty()
    agree(settings)
    corrections.undo(done.id, "x")
    assert_frame_equal(archived(settings), before, check_exact=True)
    agree(settings)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (asked("delete", motes=[]), "at least one mote"),
        (asked("delete", motes=[0]), "at least one mote"),
        (asked("delete", start=END, end=START), "ends before it begins"),
        (asked("delete", "light"), "name no fields"),
        (asked("null"), "name the values"),
        (asked("null", "pressure"), "pressure is none of"),
        (Asked("delete", [1], START, END, "  ", "x"), "give a reason"),
        (asked("delete", motes=[77]), "no such reading"),
    ],
)
def test_what_makes_no_correction_is_refused_and_leaves_no_trace(
    corrections: Corrections, settings: Settings, wrong: Asked, why: str
) -> None:
    version = open_archive(settings).version()
    with pytest.raises(CorrectionError, match=why):
        corrections.apply(wrong)
    assert corrections.known() == []
    assert open_archive(settings).version() == version


@pytest.mark.parametrize("held", [0, 7])
def test_what_is_no_longer_kept_cannot_be_undone_and_that_is_said(
    settings: Settings, corrections: Corrections, held: int
) -> None:
    done = corrections.apply(asked("delete"))
    marts, version = open_marts(settings), open_archive(settings).version()
    images = marts.scan(IMAGES).collect()
    marts.replace(IMAGES, images.head(held))
    for call in (lambda: corrections.undo(done.id, "me"), lambda: corrections.complete(done.id)):
        with pytest.raises(CorrectionError, match=f"{2 * A_DAY} rows, but the mart {IMAGES} holds {held}"):
            call()
    assert corrections.known() == [done]
    assert open_archive(settings).version() == version
    marts.replace(IMAGES, images)
    corrections.undo(done.id, "me")
    agree(settings)


@pytest.mark.parametrize("kind", ["delete", "null"])
def test_finishing_a_finished_one_repairs_the_hot_store(
    settings: Settings, corrections: Corrections, kind: str
) -> None:
    before = won(open_archive(settings))
    done = corrections.apply(asked(kind, *(["light"] if kind == "null" else [])))
    hot = open_hot(settings)
    for corrected in (lambda: done, lambda: corrections.undo(done.id, "me")):
        expected = corrected()
        # A consumer that lagged behind writes every reading, with values that are no longer true.
        hot.write_readings(before.with_columns(light=pl.lit(7.0, pl.Float32)))
        assert hot_rows(settings).filter(INSIDE).height == 2 * A_DAY
        version = open_archive(settings).version()
        assert corrections.complete(done.id) == expected
        assert open_archive(settings).version() == version
        inside = hot_rows(settings).filter(INSIDE)
        assert_frame_equal(inside, won(open_archive(settings)).filter(INSIDE), check_exact=True)
    hot.close()


def test_an_unknown_id_is_said(corrections: Corrections) -> None:
    for call in (corrections.complete, corrections.days):
        with pytest.raises(UnknownCorrectionError, match="correct list"):
            call("nothing")


def test_all_fields_may_be_taken_away(settings: Settings, corrections: Corrections) -> None:
    corrections.apply(asked("null", *FIELDS))
    inside = won(open_archive(settings)).filter(INSIDE)
    assert inside.height == 2 * A_DAY
    assert inside.select(pl.all_horizontal(pl.col(FIELDS).is_null()).all()).item()
    agree(settings)
