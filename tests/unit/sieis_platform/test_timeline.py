"""The timeline: a bijection on days that keeps the time of day, fixed once for ever."""

import calendar
import datetime as dt
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sieis_platform.settings import Settings, TimelineMode
from sieis_platform.timeline import DAY_NS, Timeline, TimelineError, TimelineFile

unhurried = hypothesis_settings(deadline=None)  # a busy machine is no failure

EPOCH = dt.date(1970, 1, 1)
INTEL = dt.date(2004, 2, 28)
DAYS = 36

# Dates whose shifted images stay inside 64 bits of nanoseconds (1678 to 2261).
dates = st.dates(dt.date(1972, 1, 1), dt.date(2200, 1, 1))
lengths = st.integers(1, 800)


@st.composite
def aligned(draw: st.DrawFn) -> Timeline:
    days = draw(lengths)
    phase = draw(st.integers(0, days - 1))
    return Timeline(mode="align", anchor=draw(dates), first_day=draw(dates), days=days, phase=phase)


@st.composite
def shifted(draw: st.DrawFn) -> Timeline:
    mode: TimelineMode = draw(st.sampled_from(["year", "none"]))
    return Timeline(mode=mode, anchor=draw(dates), first_day=draw(dates), days=draw(lengths))


def dataset_days(timeline: Timeline) -> list[dt.date]:
    return [timeline.first_day + dt.timedelta(days=index) for index in range(timeline.days)]


def ns(day: dt.date, time_of_day: int = 0) -> int:
    return (day - EPOCH).days * DAY_NS + time_of_day


def mapped(timeline: Timeline, moments: list[int]) -> list[int | None]:
    return pl.DataFrame({"timestamp": moments}).select(timeline.to_platform()).to_series().to_list()


# -- align -----------------------------------------------------------------------------------------------------------
@unhurried
@given(aligned())
def test_history_holds_each_day_of_the_data_set_exactly_once(timeline: Timeline) -> None:
    history = [timeline.anchor - dt.timedelta(days=back) for back in range(timeline.days, 0, -1)]
    assert sorted(timeline.platform_day(day) for day in dataset_days(timeline)) == history
    assert timeline.history_days == history


@unhurried
@given(aligned())
def test_the_way_back_from_history_leads_to_the_same_day(timeline: Timeline) -> None:
    for day in dataset_days(timeline):
        assert timeline.dataset_day(timeline.platform_day(day)) == day


@unhurried
@given(aligned(), st.integers(0, 100_000))
def test_live_dates_go_round_the_data_set_for_ever(timeline: Timeline, later: int) -> None:
    date = timeline.anchor + dt.timedelta(days=later)
    expected = timeline.first_day + dt.timedelta(days=(later + timeline.phase) % timeline.days)
    assert timeline.dataset_day(date) == expected
    assert timeline.dataset_day(date + dt.timedelta(days=timeline.days)) == expected


@unhurried
@given(aligned())
def test_the_anchor_date_shows_the_day_of_the_phase(timeline: Timeline) -> None:
    assert timeline.dataset_day(timeline.anchor) == timeline.first_day + dt.timedelta(days=timeline.phase)


def test_the_clean_week_of_the_real_set_lies_just_behind_the_anchor() -> None:
    timeline = Timeline(mode="align", anchor=dt.date(2026, 11, 23), first_day=INTEL, days=DAYS, phase=7)
    assert timeline.platform_day(dt.date(2004, 3, 5)) == dt.date(2026, 11, 22)
    assert timeline.platform_day(INTEL) == dt.date(2026, 11, 16)
    assert timeline.platform_day(dt.date(2004, 3, 6)) == dt.date(2026, 10, 18)
    assert timeline.dataset_day(dt.date(2026, 11, 23)) == dt.date(2004, 3, 6)


# -- columns ---------------------------------------------------------------------------------------------------------
@unhurried
@given(st.one_of(aligned(), shifted()), st.lists(st.integers(0, DAY_NS - 1), min_size=1, max_size=5))
def test_columns_are_mapped_as_days_are_and_the_time_of_day_is_kept(timeline: Timeline, times: list[int]) -> None:
    given_at = [(day, time) for day in dataset_days(timeline) for time in times]
    found = mapped(timeline, [ns(day, time) for day, time in given_at])
    assert found == [ns(timeline.platform_day(day), time) for day, time in given_at]


@unhurried
@given(st.one_of(aligned(), shifted()), st.integers(1, 30_000 * DAY_NS))
def test_what_lies_outside_the_span_maps_to_null(timeline: Timeline, distance: int) -> None:
    first, after = ns(timeline.first_day), ns(timeline.last_day + dt.timedelta(days=1))
    inside = [first, after - 1]
    outside = [first - distance, after + distance - 1]
    found = mapped(timeline, [*outside, *inside])
    assert found[:2] == [None, None]
    assert None not in found[2:]


@unhurried
@given(st.one_of(aligned(), shifted()))
def test_a_day_outside_the_span_is_refused_by_name(timeline: Timeline) -> None:
    for day in (timeline.first_day - dt.timedelta(days=1), timeline.last_day + dt.timedelta(days=1)):
        with pytest.raises(TimelineError, match="outside the data set"):
            timeline.platform_day(day)


# -- year and none ---------------------------------------------------------------------------------------------------
@unhurried
@given(shifted())
def test_distances_are_kept_and_nothing_collides(timeline: Timeline) -> None:
    images = [timeline.platform_day(day) for day in dataset_days(timeline)]
    assert images == [images[0] + dt.timedelta(days=index) for index in range(timeline.days)]
    assert [timeline.dataset_day(image) for image in images] == dataset_days(timeline)
    for beyond in (images[0] - dt.timedelta(days=1), images[-1] + dt.timedelta(days=1)):
        assert timeline.dataset_day(beyond) is None
    assert timeline.history_days == [image for image in images if image < timeline.anchor]


@unhurried
@given(st.integers(1972, 2200), st.integers(1, 1200))
def test_february_28_stays_february_28_over_leap_years_and_others(year: int, days: int) -> None:
    timeline = Timeline(mode="year", anchor=dt.date(year, 7, 1), first_day=INTEL, days=days)
    assert timeline.platform_day(INTEL) == dt.date(year, 2, 28)
    if days > 1:
        after = dt.date(year, 2, 29) if calendar.isleap(year) else dt.date(year, 3, 1)
        assert timeline.platform_day(dt.date(2004, 2, 29)) == after


@unhurried
@given(st.integers(1972, 2200))
def test_a_data_set_that_begins_on_february_29_begins_where_there_is_such_a_day_or_on_march_1(year: int) -> None:
    timeline = Timeline(mode="year", anchor=dt.date(year, 7, 1), first_day=dt.date(2004, 2, 29), days=400)
    expected = dt.date(year, 2, 29) if calendar.isleap(year) else dt.date(year, 3, 1)
    assert timeline.platform_day(timeline.first_day) == expected
    assert len({timeline.platform_day(day) for day in dataset_days(timeline)}) == 400


@unhurried
@given(dates, dates, lengths)
def test_none_changes_nothing(anchor: dt.date, first_day: dt.date, days: int) -> None:
    timeline = Timeline(mode="none", anchor=anchor, first_day=first_day, days=days)
    moments = [ns(day, 12_345) for day in dataset_days(timeline)]
    assert mapped(timeline, moments) == moments


# -- what does not fit -----------------------------------------------------------------------------------------------
@unhurried
@given(lengths, st.integers(-5, 2_000))
def test_a_phase_beyond_the_data_set_is_refused(days: int, phase: int) -> None:
    assume(not 0 <= phase < days)
    with pytest.raises(TimelineError, match="SIEIS_TIMELINE_PHASE"):
        Timeline(mode="align", anchor=INTEL, first_day=INTEL, days=days, phase=phase)


def test_a_data_set_without_days_is_refused() -> None:
    with pytest.raises(TimelineError, match="at least one day"):
        Timeline(mode="none", anchor=INTEL, first_day=INTEL, days=0)


# -- the file --------------------------------------------------------------------------------------------------------
def settings(folder: Path, **values: object) -> Settings:
    return Settings(data_dir=folder, _env_file=None, **values)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_the_first_use_fixes_today_and_tomorrow_changes_nothing(tmp_path: Path) -> None:
    mine = settings(tmp_path / "new")
    today = dt.date(2026, 11, 23)
    fixed = TimelineFile.of(mine).fix(mine, INTEL, DAYS, today)
    assert fixed == Timeline(mode="align", anchor=today, first_day=INTEL, days=DAYS, phase=7)
    assert TimelineFile.of(mine).fix(mine, INTEL, DAYS, today + dt.timedelta(days=1)) == fixed
    assert TimelineFile.of(mine).read() == fixed
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["timeline.json"]


def test_the_real_clock_gives_the_date_in_utc(tmp_path: Path) -> None:
    mine = settings(tmp_path)
    before = dt.datetime.now(dt.UTC).date()
    anchor = TimelineFile.of(mine).fix(mine, INTEL, DAYS).anchor
    assert before <= anchor <= dt.datetime.now(dt.UTC).date()


def test_changed_settings_and_other_data_change_nothing(tmp_path: Path) -> None:
    mine = settings(tmp_path)
    fixed = TimelineFile.of(mine).fix(mine, INTEL, DAYS, dt.date(2026, 11, 23))
    other = settings(tmp_path, timeline_mode="year", timeline_phase=3, anchor_date=dt.date(2030, 1, 1))
    assert TimelineFile.of(other).fix(other, dt.date(2010, 1, 1), 5) == fixed


def test_the_setting_wins_over_the_clock(tmp_path: Path) -> None:
    mine = settings(tmp_path, anchor_date=dt.date(2025, 2, 1))
    assert TimelineFile.of(mine).fix(mine, INTEL, DAYS, dt.date(2026, 11, 23)).anchor == dt.date(2025, 2, 1)


def test_the_default_phase_bends_to_a_short_data_set_but_one_asked_for_is_refused(tmp_path: Path) -> None:
    mine = settings(tmp_path / "default")
    assert TimelineFile.of(mine).fix(mine, INTEL, 3).phase == 2
    asked = settings(tmp_path / "asked", timeline_phase=7)
    with pytest.raises(TimelineError, match=r"0\.\.2"):
        TimelineFile.of(asked).fix(asked, INTEL, 3)
    assert TimelineFile.of(asked).read() is None


@pytest.mark.parametrize("mode", ["year", "none"])
def test_other_modes_have_no_phase(tmp_path: Path, mode: TimelineMode) -> None:
    mine = settings(tmp_path, timeline_mode=mode, timeline_phase=99)
    assert TimelineFile.of(mine).fix(mine, INTEL, 3).phase == 0


BROKEN = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"mode": "\xff"}',
    b'{"mode": "align"}',
    b'{"mode": "sideways", "anchor": "2026-01-01", "first_day": "2004-02-28", "days": 3, "phase": 0}',
    b'{"mode": "align", "anchor": "2026-01-01", "first_day": "2004-02-28", "days": 3, "phase": 3}',
    b'{"mode": "align", "anchor": "2026-13-01", "first_day": "2004-02-28", "days": 3, "phase": 0}',
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_is_an_error_with_a_name_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    mine = settings(tmp_path)
    file = TimelineFile.of(mine)
    file.path.write_bytes(content)
    with pytest.raises(TimelineError):
        file.fix(mine, INTEL, DAYS)
    assert file.path.read_bytes() == content


def test_a_folder_in_its_place_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "timeline.json").mkdir()
    with pytest.raises(TimelineError, match="not a timeline file"):
        TimelineFile.of(settings(tmp_path)).read()


FIXES = """
import datetime as dt, pathlib, sys
from sieis_platform.settings import Settings
from sieis_platform.timeline import TimelineFile
settings = Settings(data_dir=pathlib.Path(sys.argv[1]), _env_file=None)
file = TimelineFile.of(settings)
sys.stdin.readline()
for race in range(20):
    (settings.data_dir / str(race)).mkdir(exist_ok=True, parents=True)
    one = TimelineFile(settings.data_dir / str(race) / "timeline.json")
    print(one.fix(settings, dt.date(2004, 2, 28), 36, dt.date(2020, 1, int(sys.argv[2]))).anchor)
"""


def test_processes_that_fix_it_at_the_same_moment_agree(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIXES, str(tmp_path), str(day)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for day in (1, 2, 3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert len(answers[0]) == 20
    assert answers[0] == answers[1] == answers[2]
    assert len(list(tmp_path.rglob("*.tmp"))) == 0
