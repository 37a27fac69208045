"""When readings are due, on a clock that stands still until told."""

import datetime as dt
import threading

import pytest

from sieis_streaming.pace import Clock, Limit, Pace, Rate

SECOND = 1_000_000_000
NOON = int(dt.datetime(2026, 2, 19, 12, tzinfo=dt.UTC).timestamp()) * SECOND
HOUR = 3_600 * SECOND


class StillClock(Clock):
    def __init__(self, now_ns: int = NOON) -> None:
        self.start, self.seconds = now_ns, 0.0

    def now_ns(self) -> int:
        return self.start + int(self.seconds * SECOND)

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, wake: threading.Event, seconds: float) -> None:
        self.seconds += seconds


def test_catches_up_at_its_speed_then_goes_with_the_clock() -> None:
    clock = StillClock()
    pace = Pace(clock, NOON - HOUR, speed=100)
    assert pace.due_ns() == NOON - HOUR
    clock.seconds = 10
    assert pace.due_ns() == NOON - HOUR + 1_000 * SECOND
    assert not pace.live
    clock.seconds = 37  # 3,700 s of its time against 3,637 s behind
    assert pace.due_ns() == clock.now_ns()
    assert pace.live
    clock.seconds = 100
    assert pace.due_ns() == clock.now_ns(), "live is 1x"


def test_a_kept_speed_runs_ahead_of_the_clock() -> None:
    clock = StillClock()
    pace = Pace(clock, NOON - HOUR, speed=100, keep_speed=True)
    clock.seconds = 100
    assert pace.due_ns() == NOON - HOUR + 10_000 * SECOND
    assert pace.due_ns() > clock.now_ns()
    assert not pace.live


def test_unpaced_is_due_up_to_the_clock_at_once_and_without_end_when_kept() -> None:
    clock = StillClock()
    assert Pace(clock, 0, speed=1, unpaced=True).due_ns() == NOON
    assert Pace(clock, 0, speed=1, unpaced=True, keep_speed=True).due_ns() > NOON * 2


def test_a_start_ahead_of_the_clock_waits_for_it() -> None:
    clock = StillClock()
    pace = Pace(clock, NOON + HOUR, speed=100)
    assert pace.due_ns() == NOON


def test_held_it_stands_still_and_then_catches_up() -> None:
    clock = StillClock()
    pace = Pace(clock, NOON, speed=10)
    assert pace.due_ns() == NOON
    pace.hold(NOON)
    clock.seconds = 90
    assert pace.held
    assert pace.due_ns() == NOON
    pace.release()
    clock.seconds = 91
    assert pace.due_ns() == NOON + 10 * SECOND
    clock.seconds = 101
    assert pace.due_ns() == clock.now_ns()


def test_a_new_speed_counts_from_where_it_is() -> None:
    clock = StillClock()
    pace = Pace(clock, NOON - HOUR, speed=10)
    clock.seconds = 10
    pace.speed = 100
    assert pace.due_ns() == NOON - HOUR + 100 * SECOND
    clock.seconds = 11
    assert pace.due_ns() == NOON - HOUR + 200 * SECOND


@pytest.mark.parametrize("steps", [1, 7, 1_000])
def test_a_rate_does_not_drift_however_often_it_is_looked_at(steps: int) -> None:
    clock = StillClock()
    rate = Rate(clock, 333)
    taken: list[int] = []
    for step in range(1, steps + 1):
        clock.seconds = 100 * step / steps
        taken.extend(rate.take(rate.due()))
    assert len(taken) == 33_300
    assert taken[0] == NOON
    assert taken[-1] == NOON + int(33_299 / 333 * SECOND)
    assert len(set(taken)) == len(taken)


def test_a_rate_held_loses_nothing_and_owes_nothing() -> None:
    clock = StillClock()
    rate = Rate(clock, 100)
    clock.seconds = 1
    assert len(rate.take(rate.due())) == 100
    rate.hold()
    clock.seconds = 50
    assert rate.due() == 0
    rate.release()
    clock.seconds = 51
    assert rate.due() == 100
    assert rate.take(1)[0] == NOON + 50 * SECOND


def test_a_limit_allows_a_burst_of_one_second_after_any_idleness() -> None:
    clock = StillClock()
    limit = Limit(clock, 1_000)
    clock.seconds = 60
    assert limit.allowance() == 1_000
    limit.spend(1_000)
    assert limit.allowance() == 0
    clock.seconds = 60.25
    assert limit.allowance() == 250
