"""One run of the simulator on the real embedded broker, with a clock that moves only when the simulator waits."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import polars as pl
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from sieis_platform.reading import FIELDS, READING_SCHEMA, Message
from sieis_platform.settings import Settings
from sieis_platform.state import SimulatorPosition, State, StateUnavailableError
from sieis_platform.timeline import DAY_NS, Timeline
from sieis_streaming.broker import EmbeddedBroker, client_config, locate
from sieis_streaming.pace import Clock
from sieis_streaming.simulator import Plan, Simulator, Status
from tests.broker import EMBEDDED_PARTITIONS

SECOND = 1_000_000_000
FIRST = dt.date(2004, 2, 28)
TODAY = dt.date(2026, 2, 19)
EPOCH = dt.date(1970, 1, 1)
MIDNIGHT = (TODAY - EPOCH).days * DAY_NS
TIMELINE = Timeline(mode="align", anchor=TODAY, first_day=FIRST, days=2)
MOTES = (1, 2, 5)


class TwoDays:
    """A reading every minute of each mote, 7 s times its id after the full minute."""

    days = (FIRST, FIRST + dt.timedelta(1))
    motes = MOTES

    def readings(self, day: dt.date) -> pl.DataFrame:
        start = (day - EPOCH).days * DAY_NS
        stamps = pl.DataFrame({"timestamp": [start + minute * 60 * SECOND for minute in range(1_440)]})
        return (
            stamps.join(pl.DataFrame({"mote_id": MOTES}), how="cross")
            .with_columns(pl.col("timestamp") + pl.col("mote_id") * 7 * SECOND, *(pl.lit(2.5).alias(f) for f in FIELDS))
            .select(pl.col(name).cast(kind) for name, kind in READING_SCHEMA.items())
            .sort("timestamp")
        )


@dataclass
class ScriptedClock(Clock):
    """Starts at `start_ns`; a wait calls the hooks and moves on without waiting."""

    start_ns: int
    seconds: float = 0.0
    at_wait: list[Callable[[], object]] = field(default_factory=list)

    def now_ns(self) -> int:
        return self.start_ns + round(self.seconds * SECOND)

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, wake: threading.Event, seconds: float) -> None:
        for hook in self.at_wait:
            hook()
        self.seconds += seconds


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, simulator_interval_seconds=10, _env_file=None)


@pytest.fixture
def state(settings: Settings) -> Iterator[State]:
    with State.open(settings) as opened:
        yield opened


@pytest.fixture
def broker(settings: Settings) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(settings) as running:
        yield running


def at(time: str) -> int:
    return int(dt.datetime.fromisoformat(f"{TODAY}T{time}+00:00").timestamp()) * SECOND


def received(settings: Settings, count: int) -> list[tuple[int, int]]:
    """(timestamp, mote_id) of everything on the topic, sorted; waits for `count`."""
    reader = Consumer({**client_config(settings, locate(settings, timeout=5)), "group.id": "test"})
    topic = settings.kafka_topic
    reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(EMBEDDED_PARTITIONS)])
    found: list[tuple[int, int]] = []
    while len(found) < count:
        messages = reader.consume(count, timeout=1)
        assert messages, f"only {len(found)} of {count} came"
        for message in messages:
            read = msgspec.json.decode(message.value() or b"", type=Message)
            assert message.key() == str(read.mote_id).encode()
            found.append((round(read.timestamp.timestamp() * 1_000_000) * 1_000, read.mote_id))
    reader.close()
    return sorted(found)


def expected(start: int, end: int) -> list[tuple[int, int]]:
    minutes = range((end - start) // (60 * SECOND) + 1)
    moments = [(start + (minute * 60 + mote * 7) * SECOND, mote) for minute in minutes for mote in MOTES]
    return sorted(one for one in moments if one[0] < end)


@pytest.mark.usefixtures("broker")
def test_every_reading_of_a_day_is_delivered_and_the_end_is_kept(settings: Settings, state: State) -> None:
    plan = Plan(motes=42, unpaced=True, start=TODAY, until_ns=MIDNIGHT + DAY_NS)
    clock = ScriptedClock(MIDNIGHT + 2 * DAY_NS)
    summary = Simulator(settings, plan, TwoDays(), TIMELINE, state, clock=clock).run()
    assert (summary.records, summary.stopped) == (3 * 1_440, False)
    assert received(settings, summary.records) == expected(MIDNIGHT, MIDNIGHT + DAY_NS)
    assert state.simulator_position(settings.kafka_topic) == SimulatorPosition(
        timestamp=MIDNIGHT + (1_439 * 60 + 35) * SECOND, mote_id=5, emitted=3 * 1_440
    )


@pytest.mark.usefixtures("broker")
def test_catches_up_from_midnight_and_then_goes_with_the_clock(settings: Settings, state: State) -> None:
    clock = ScriptedClock(at("12:00:00"))
    plan = Plan(motes=42, speed=100, until_ns=at("13:00:00"))
    simulator = Simulator(settings, plan, TwoDays(), TIMELINE, state, clock=clock)
    seen: list[Status] = []
    clock.at_wait.append(lambda: seen.append(simulator.status()))
    summary = simulator.run()
    assert received(settings, summary.records) == expected(MIDNIGHT, at("13:00:00"))
    modes = [status.mode for status in seen]
    live = modes.index("live")
    assert set(modes[:live]) == {"catching_up"}
    assert set(modes[live:]) == {"live"}
    assert live == 44, "12 h less 7 s, at 99 s a second, is 436.3 s: seen at the next tick of 10 s"
    assert seen[0].lag_seconds == pytest.approx(12 * 3_600, abs=60)
    assert max(status.lag_seconds for status in seen[live:]) == 0, "live, nothing that is due waits"
    assert seen[-1].dataset_day == FIRST


@pytest.mark.usefixtures("broker")
def test_a_kept_speed_runs_ahead_of_the_clock(settings: Settings, state: State) -> None:
    clock = ScriptedClock(at("12:00:00"))
    plan = Plan(motes=1, speed=1_000, keep_speed=True, until_ns=MIDNIGHT + DAY_NS)
    simulator = Simulator(settings, plan, TwoDays(), TIMELINE, state, clock=clock)
    seen: list[str] = []
    clock.at_wait.append(lambda: seen.append(simulator.status().mode))
    assert simulator.run().records == 1_440
    assert list(dict.fromkeys(seen)) == ["catching_up", "ahead"]
    assert clock.now_ns() < at("12:02:00")


@pytest.mark.usefixtures("broker")
def test_the_next_run_goes_on_where_the_last_one_was(settings: Settings, state: State) -> None:
    clock = ScriptedClock(at("23:59:59"))
    plan = Plan(motes=42, unpaced=True, max_records=1_000)
    for _ in range(3):
        assert Simulator(settings, plan, TwoDays(), TIMELINE, state, clock=clock).run().records == 1_000
    found = received(settings, 3_000)
    assert found == expected(MIDNIGHT, MIDNIGHT + DAY_NS)[:3_000]
    assert state.simulator_position(settings.kafka_topic) == SimulatorPosition(*found[-1], emitted=3_000)


@pytest.mark.usefixtures("broker")
def test_paused_it_emits_nothing_and_afterwards_everything(settings: Settings, state: State) -> None:
    clock = ScriptedClock(at("12:00:00"))
    plan = Plan(motes=42, speed=1_000, until_ns=at("13:00:00"))
    simulator = Simulator(settings, plan, TwoDays(), TIMELINE, state, clock=clock)
    during: list[Status] = []

    def script() -> None:
        if clock.seconds == 600:
            simulator.pause()
        elif 600 < clock.seconds < 1_200:
            during.append(simulator.status())
        elif clock.seconds == 1_200:
            simulator.resume()

    clock.at_wait.append(script)
    summary = simulator.run()
    assert len(during) > 10
    assert all(status.paused for status in during)
    assert len({status.emitted for status in during}) == 1
    assert during[-1].lag_seconds > during[0].lag_seconds
    assert received(settings, summary.records) == expected(MIDNIGHT, at("13:00:00"))


@pytest.mark.usefixtures("broker")
def test_a_new_speed_takes_effect_while_it_runs(settings: Settings, state: State) -> None:
    clock = ScriptedClock(at("12:00:00"))
    plan = Plan(motes=42, speed=10, until_ns=at("12:00:00"))
    simulator = Simulator(settings, plan, TwoDays(), TIMELINE, state, clock=clock)
    clock.at_wait.append(lambda: simulator.set_speed(1_000) if clock.seconds == 100 else None)
    assert simulator.run().records == len(expected(MIDNIGHT, at("12:00:00")))
    assert clock.seconds == 150, "100 s at 10x, then 42,193 s at 1,000x, in ticks of 10 s"


@pytest.mark.usefixtures("broker")
def test_a_fixed_rate_stamps_each_record_with_its_moment(settings: Settings, state: State) -> None:
    clock = ScriptedClock(at("12:00:00"))
    plan = Plan(motes=42, speed=100, rate=50, max_records=2_000)
    simulator = Simulator(settings, plan, TwoDays(), TIMELINE, state, clock=clock)
    summary = simulator.run()
    found = received(settings, 2_000)
    assert [stamp for stamp, _ in found] == [at("12:00:00") + number * SECOND // 50 for number in range(2_000)]
    assert {mote for _, mote in found} == {1, 2, *range(5, 18)}, "15 motes, each every 0.3 s, are 50 a second"
    assert summary.records_per_second == pytest.approx(50, rel=0.01)


@pytest.mark.usefixtures("broker")
def test_a_limit_bounds_the_rate_of_catching_up(settings: Settings, state: State) -> None:
    clock = ScriptedClock(at("12:00:00"))
    plan = Plan(motes=42, unpaced=True, max_rate=10, until_ns=at("01:00:00"))
    simulator = Simulator(settings, plan, TwoDays(), TIMELINE, state, clock=clock)
    seen: list[int] = []
    clock.at_wait.append(lambda: seen.append(simulator.status().emitted))
    assert simulator.run().records == 180
    assert seen[:4] == [0, 10, 20, 30]


class BusyState(State):
    """Cannot be written at first: another process holds it."""

    refusals = 3

    def save_simulator_position(self, topic: str, position: SimulatorPosition) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StateUnavailableError("database is locked")
        super().save_simulator_position(topic, position)


@pytest.mark.usefixtures("broker")
def test_a_position_that_cannot_be_saved_now_is_saved_later(settings: Settings) -> None:
    clock = ScriptedClock(at("12:00:00"))
    plan = Plan(motes=42, speed=10, until_ns=at("01:00:00"))
    with BusyState.open(settings) as state:
        Simulator(settings, plan, TwoDays(), TIMELINE, state, clock=clock).run()
        assert state.refusals == 0
        kept = state.simulator_position(settings.kafka_topic)
    assert received(settings, 180) == expected(MIDNIGHT, at("01:00:00"))
    assert kept == SimulatorPosition(*expected(MIDNIGHT, at("01:00:00"))[-1], emitted=180)


def test_the_limit_holds_on_the_embedded_broker_unless_it_is_waived(settings: Settings, tmp_path: Path) -> None:
    kafka = Settings(data_dir=tmp_path, kafka_bootstrap="kafka:9092", _env_file=None)
    assert Plan.of(settings).max_rate == settings.simulator_embedded_rate
    assert Plan.of(settings, speed=1e6).max_rate == settings.simulator_embedded_rate
    assert Plan.of(settings, unpaced=True).max_rate is None
    assert Plan.of(settings, rate=10_000).max_rate is None
    assert Plan.of(kafka).max_rate is None


def test_a_stretch_of_the_past_is_replayed_as_fast_as_the_broker_may_take_it(settings: Settings) -> None:
    past = Plan.of(settings, until_ns=MIDNIGHT, now_ns=MIDNIGHT)
    assert (past.unpaced, past.max_rate) == (True, settings.simulator_embedded_rate)
    assert not Plan.of(settings, until_ns=MIDNIGHT + 1, now_ns=MIDNIGHT).unpaced
    assert not Plan.of(settings, until_ns=MIDNIGHT, speed=100, now_ns=MIDNIGHT).unpaced
    assert not Plan.of(settings).unpaced


def test_motes_are_repeated_only_when_asked_for(settings: Settings) -> None:
    assert Plan.of(settings).fleet(6) == 6
    assert Plan.of(settings).fleet(54) == settings.simulator_motes
    assert Plan.of(settings, motes=100).fleet(54) == 100
    assert Plan.of(settings, rate=40_000 / 60).fleet(54) == 200, "the reference load at 100x"


def test_a_first_start_never_goes_back_before_the_anchor(settings: Settings, state: State) -> None:
    def first_day(settings: Settings, now: int) -> dt.date:
        clock = ScriptedClock(now)
        return Simulator(settings, Plan(motes=1), TwoDays(), TIMELINE, state, clock=clock).status().platform_day

    later = MIDNIGHT + 5 * DAY_NS + SECOND
    assert first_day(settings, MIDNIGHT - SECOND) == TODAY
    assert first_day(settings, later) == TODAY + dt.timedelta(5)
    assert first_day(settings.model_copy(update={"filter_today_only": False}), later) == TODAY


def test_stopped_before_there_is_a_broker_it_ends_quietly(settings: Settings, state: State) -> None:
    simulator = Simulator(settings, Plan(motes=1), TwoDays(), TIMELINE, state)
    simulator.stop()
    summary = simulator.run()
    assert (summary.records, summary.stopped) == (0, True)
