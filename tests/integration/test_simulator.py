"""`sieis simulate` as processes of its own: killed, told to stop, left by its broker, on real readings."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec
import polars as pl
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from sieis_platform.reading import Message
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.timeline import DAY_NS
from sieis_streaming.broker import EmbeddedBroker, client_config, locate
from sieis_streaming.dataset import open_dataset
from sieis_streaming.simulator import Plan, Simulator, Summary
from tests.broker import EMBEDDED_PARTITIONS
from tests.ports import free_port

REAL = Path(__file__).parents[3] / "shared" / "data" / "intel_lab" / "data.txt.gz"
FIRST = dt.date(2004, 2, 28)
DAY = dt.date(2026, 2, 19)
MOTES = 4
A_DAY = MOTES * 2_880
SLOWLY = 1_500
"""Records a second of a run that is to be interrupted: a day then lasts 8 s, so that its end is far off."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A day of four motes, a reading every 30 s, each value different."""
    lines = [
        f"{FIRST} {dt.time(tick // 120, tick // 2 % 60, tick % 2 * 30, mote)} {tick} {mote} {tick}.{mote} 40 3 2.7\n"
        for mote in range(1, MOTES + 1)
        for tick in range(2_880)
    ]
    file = tmp_path / "readings.txt"
    file.write_text("".join(lines))
    return Settings(
        data_dir=tmp_path / "var", data_file=file, anchor_date=DAY, simulator_port=free_port(), _env_file=None
    )


@pytest.fixture
def broker(settings: Settings) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(settings) as running:
        yield running


def simulate(settings: Settings) -> subprocess.Popen[str]:
    """A process that runs up to the end of the day, slowly."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIEIS_")}
    environment |= {
        "SIEIS_DATA_DIR": str(settings.data_dir),
        "SIEIS_DATA_FILE": str(settings.data_file),
        "SIEIS_ANCHOR_DATE": str(settings.anchor_date),
        "SIEIS_FILTER_TODAY_ONLY": "false",
        "SIEIS_SIMULATOR_PORT": str(settings.simulator_port),
        "SIEIS_SIMULATOR_EMBEDDED_RATE": str(SLOWLY),
        "SIEIS_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "sieis_cli", "simulate", "--json", "--until", str(DAY + dt.timedelta(1))]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=settings.data_dir.parent)


def go_on(settings: Settings) -> Summary:
    """Another run up to the end of the day, in this process (a start takes seconds)."""
    assert settings.data_file is not None
    days, timeline = open_dataset(settings, settings.data_file)
    until = ((DAY - dt.date(1970, 1, 1)).days + 1) * DAY_NS
    with State.open(settings) as state:
        return Simulator(settings, Plan.of(settings, until_ns=until), days, timeline, state).run()


def ended(process: subprocess.Popen[str]) -> dict:
    """The summary of a run that ends well."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)


class Reader:
    """Reads the whole topic, in one connection."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = Consumer({**client_config(settings, locate(settings, timeout=5)), "group.id": "test"})
        self._partitions = [TopicPartition(settings.kafka_topic, one) for one in range(EMBEDDED_PARTITIONS)]
        for partition in self._partitions:
            partition.offset = OFFSET_BEGINNING
        self._consumer.assign(self._partitions)
        self.messages: list[Message] = []

    def until(self, count: int) -> list[Message]:
        """Wait for `count` messages in all."""
        deadline = time.monotonic() + 30
        while len(self.messages) < count:
            assert time.monotonic() < deadline, f"only {len(self.messages)} of {count} came"
            got = self._consumer.consume(1_000, timeout=0.1)
            self.messages += [msgspec.json.decode(one.value() or b"", type=Message) for one in got]
        return self.messages

    def rest(self) -> list[Message]:
        """Everything that is there by now: the offsets of a topic made for this test begin at 0 and have no gaps."""
        return self.until(sum(self._consumer.get_watermark_offsets(one, timeout=5)[1] for one in self._partitions))

    def close(self) -> None:
        self._consumer.close()


def whole_day() -> set[tuple[int, dt.datetime, float]]:
    start = dt.datetime.combine(DAY, dt.time(), dt.UTC)
    return {
        (mote, start + dt.timedelta(seconds=30 * tick, microseconds=mote), float(f"{tick}.{mote}"))
        for mote in range(1, MOTES + 1)
        for tick in range(2_880)
    }


def facts(messages: list[Message]) -> list[tuple[int, dt.datetime, float]]:
    return [(one.mote_id, one.timestamp, one.temperature or 0.0) for one in messages]


@pytest.mark.drill
@pytest.mark.usefixtures("broker")
def test_killed_it_loses_nothing_and_repeats_only_what_was_not_yet_kept(settings: Settings) -> None:
    reader = Reader(settings)
    first = simulate(settings)
    with State.open(settings) as state:
        try:
            while state.simulator_position(settings.kafka_topic) is None:
                reader.until(len(reader.messages) + 1)
            reader.until(len(reader.messages) + 100)
        finally:
            first.kill()
            first.communicate()
        kept = state.simulator_position(settings.kafka_topic)
    assert kept is not None
    assert len(reader.rest()) < A_DAY, "killed too late to show anything"
    before = len(reader.messages)

    summary = go_on(settings)
    found = facts(reader.rest())
    reader.close()
    assert set(found) == whole_day()
    assert len(found) == before + summary.records
    # behind the kept position nothing is sent twice
    at = dt.datetime.fromtimestamp(kept.timestamp // 10**9, dt.UTC) + dt.timedelta(
        microseconds=kept.timestamp // 1_000 % 10**6
    )
    again = found[before:]
    assert min(moment for _, moment, _ in again) > at
    assert len(again) == sum(moment > at for _, moment, _ in whole_day())
    with State.open(settings) as state:
        after = state.simulator_position(settings.kafka_topic)
    assert after is not None
    assert after.emitted == kept.emitted + summary.records


@pytest.mark.usefixtures("broker")
def test_told_to_stop_it_keeps_exactly_what_was_sent(settings: Settings) -> None:
    reader = Reader(settings)
    first = simulate(settings)
    reader.until(1_000)
    first.send_signal(signal.SIGTERM)
    sent = ended(first)
    assert sent["stopped"] is True
    assert sent["records"] < A_DAY
    assert sent["records"] + go_on(settings).records == A_DAY
    assert sorted(facts(reader.until(A_DAY))) == sorted(whole_day()), "each once"
    reader.close()


def test_it_follows_its_broker_to_another_port(settings: Settings) -> None:
    first = EmbeddedBroker(settings)
    first.start()
    reader = Reader(settings)
    run = simulate(settings)
    reader.until(1_000)
    reader.close()
    first.stop()
    with EmbeddedBroker(settings):
        assert ended(run)["records"] == A_DAY
        reader = Reader(settings)
        by_mote: dict[int, list[dt.datetime]] = defaultdict(list)
        for mote, moment, _ in facts(reader.rest()):
            by_mote[mote].append(moment)
        reader.close()
    assert 0 < sum(map(len, by_mote.values())) < A_DAY
    for mote, moments in by_mote.items():
        every = sorted(moment for one, moment, _ in whole_day() if one == mote)
        assert sorted(set(moments)) == every[-len(set(moments)) :], f"mote {mote} has a gap after the restart"


@pytest.mark.skipif(not REAL.exists(), reason="needs the real readings beside the repository")
@pytest.mark.usefixtures("broker")
def test_a_real_day_arrives_as_it_was_measured(settings: Settings) -> None:
    days, timeline = open_dataset(settings, REAL)
    spring = dt.date(2004, 3, 5)
    day = next(DAY + dt.timedelta(n) for n in range(35) if timeline.dataset_day(DAY + dt.timedelta(n)) == spring)
    start = (day - dt.date(1970, 1, 1)).days * DAY_NS
    plan = Plan(motes=42, unpaced=True, keep_speed=True, start=day, until_ns=start + DAY_NS)
    with State.open(settings) as state:
        summary = Simulator(settings, plan, days, timeline, state).run()
    reader = Reader(settings)
    frame = pl.DataFrame(facts(reader.until(summary.records)), schema=["mote_id", "at", "temperature"], orient="row")
    reader.close()
    assert frame["at"].dt.date().unique().to_list() == [day]
    # computed independently of this code (README of the shared data)
    one, other = (frame.filter(pl.col("mote_id") == mote)["temperature"] for mote in (1, 22))
    assert (len(one), len(other)) == (1_824, 2_551)
    assert one.mean() == pytest.approx(21.884114, abs=1e-6)
    assert one.median() == pytest.approx(21.6103, abs=1e-6)
    assert other.max() == pytest.approx(33.1792, abs=1e-6)
