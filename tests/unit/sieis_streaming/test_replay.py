"""Which reading comes next: dates, order, resumption, motes, and what is said where there is none."""

import datetime as dt
from dataclasses import dataclass

import polars as pl
import pytest

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.timeline import DAY_NS, Timeline
from sieis_streaming.pace import FAR_FUTURE_NS
from sieis_streaming.replay import Cursor, NothingToEmitError, Replay, day_start

FIRST = dt.date(2004, 2, 28)
ANCHOR = dt.date(2026, 2, 19)
EPOCH = dt.date(1970, 1, 1)


@dataclass
class SmallSet:
    """Motes 2, 3 and 7; on each of its days one reading a mote every six hours, all at the same moment."""

    days: list[dt.date]
    motes = (7, 2, 3)

    def readings(self, day: dt.date) -> pl.DataFrame:
        start = (day - EPOCH).days * DAY_NS
        rows = [
            {"mote_id": mote, "timestamp": start + quarter * DAY_NS // 4, "temperature": float(mote)}
            for quarter in range(4)
            for mote in sorted(self.motes)
        ]
        return pl.DataFrame(rows, schema=READING_SCHEMA)


THREE_DAYS = SmallSet([FIRST, FIRST + dt.timedelta(1), FIRST + dt.timedelta(2)])


def timeline(mode: str = "align", days: int = 3) -> Timeline:
    return Timeline(mode=mode, anchor=ANCHOR, first_day=FIRST, days=days)


def take(replay: Replay, count: int) -> pl.DataFrame:
    frames: list[pl.DataFrame] = []
    while sum(map(len, frames)) < count:
        frame = replay.upto(FAR_FUTURE_NS, count - sum(map(len, frames)))
        assert frame is not None
        frames.append(frame)
    return pl.concat(frames)


def test_days_follow_each_other_without_end() -> None:
    seen = take(Replay(THREE_DAYS, timeline(), 3, day_start(ANCHOR)), 3 * 12 * 5)
    assert seen.schema == READING_SCHEMA
    assert seen.equals(seen.sort("timestamp", "mote_id"))
    assert (seen["timestamp"] // DAY_NS).unique(maintain_order=True).to_list() == [
        (ANCHOR - EPOCH).days + day for day in range(15)
    ]
    assert seen.select("mote_id", "timestamp").is_unique().all()


@pytest.mark.parametrize("cut", [1, 5, 12, 13, 30])
def test_goes_on_exactly_behind_its_cursor(cut: int) -> None:
    whole = take(Replay(THREE_DAYS, timeline(), 3, day_start(ANCHOR)), 40)
    last = whole[cut - 1]
    rest = take(Replay(THREE_DAYS, timeline(), 3, Cursor(last[0, "timestamp"], last[0, "mote_id"])), 40 - cut)
    assert rest.equals(whole[cut:])


def test_only_what_is_due_is_taken() -> None:
    replay = Replay(THREE_DAYS, timeline(), 3, day_start(ANCHOR))
    midnight = day_start(ANCHOR).timestamp
    assert replay.upto(midnight - 1, 100) is None
    first = replay.upto(midnight + DAY_NS // 4, 100)
    assert first is not None
    assert len(first) == 6
    assert replay.next_timestamp == midnight + DAY_NS // 2
    assert replay.upto(midnight + DAY_NS // 4, 100) is None


def test_the_lowest_motes_are_emitted_and_copies_get_new_ids() -> None:
    assert Replay(THREE_DAYS, timeline(), 2, day_start(ANCHOR)).motes == [2, 3]
    many = Replay(THREE_DAYS, timeline(), 8, day_start(ANCHOR))
    assert many.motes == [2, 3, 7, 8, 9, 10, 11, 12]
    first = take(many, 8)
    assert first["mote_id"].to_list() == many.motes
    assert first["temperature"].to_list() == [2, 3, 7, 2, 3, 7, 2, 3]


def test_days_without_readings_are_passed_over() -> None:
    gap = SmallSet([FIRST, FIRST + dt.timedelta(2)])
    replay = Replay(gap, timeline(), 3, day_start(ANCHOR))
    take(replay, 12)
    assert replay.day == ANCHOR + dt.timedelta(2)
    assert replay.dataset_day == FIRST + dt.timedelta(2)


def test_a_timeline_that_does_not_repeat_ends() -> None:
    replay = Replay(THREE_DAYS, timeline("none"), 3, day_start(FIRST + dt.timedelta(2)))
    take(replay, 12)
    assert replay.next_timestamp is None
    assert replay.upto(FAR_FUTURE_NS, 1) is None


def test_long_before_the_first_day_it_waits_for_that_day() -> None:
    replay = Replay(THREE_DAYS, timeline("year"), 3, day_start(dt.date(2026, 1, 1)))
    assert replay.day == dt.date(2026, 2, 28)


@pytest.mark.parametrize(
    ("mode", "start", "dates"),
    [
        ("none", dt.date(2026, 2, 19), "2004-02-28 to 2004-03-01"),
        ("year", dt.date(2026, 6, 1), "2026-02-28 to 2026-03-02"),
    ],
)
def test_where_nothing_is_left_it_says_which_dates_there_are(mode: str, start: dt.date, dates: str) -> None:
    with pytest.raises(NothingToEmitError, match=dates):
        Replay(THREE_DAYS, timeline(mode), 3, day_start(start))


def test_a_data_set_without_readings_is_named() -> None:
    with pytest.raises(NothingToEmitError, match="no readings at all"):
        Replay(SmallSet([]), timeline(), 3, day_start(ANCHOR))
