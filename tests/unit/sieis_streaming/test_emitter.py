"""The wire format going out, and delivery on the real embedded broker."""

import datetime as dt
import math
import threading
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sieis_platform.reading import FIELDS, READING_SCHEMA, Message
from sieis_platform.settings import Settings
from sieis_streaming.broker import BrokerUnavailableError, EmbeddedBroker, client_config, locate
from sieis_streaming.emitter import DeliveryError, Emitter, encode
from sieis_streaming.replay import Cursor
from tests.broker import EMBEDDED_PARTITIONS

START = 1_771_502_399_123_456_000


def readings(count: int, start: int = START) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "mote_id": [1 + number % 5 for number in range(count)],
            "timestamp": [start + number * 1_000 for number in range(count)],
            "temperature": [20.0 + number / 7 for number in range(count)],
            "humidity": [None] * count,
            "light": [250.0] * count,
            "voltage": [2.7] * count,
        },
        schema=READING_SCHEMA,
    )


def drain(settings: Settings, count: int) -> list[tuple[bytes | None, bytes | None]]:
    reader = Consumer({**client_config(settings, locate(settings, timeout=5)), "group.id": "drain"})
    topic = settings.kafka_topic
    reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(EMBEDDED_PARTITIONS)])
    found: list[tuple[bytes | None, bytes | None]] = []
    while len(found) < count:
        messages = reader.consume(count, timeout=10)
        assert messages, f"only {len(found)} of {count} came"
        found += [(message.key(), message.value()) for message in messages]
    found += [(message.key(), message.value()) for message in reader.consume(1, timeout=0.2)]
    reader.close()
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, _env_file=None)


def test_the_message_is_the_contract() -> None:
    one = encode(readings(1).with_columns(temperature=pl.lit(122.153, pl.Float32), humidity=pl.lit(-4.5, pl.Float32)))
    assert one["key"].to_list() == ["1"]
    assert one["value"].to_list() == [
        '{"mote_id":1,"temperature":122.153,"humidity":-4.5,"light":250.0,"voltage":2.7,"timestamp":"2026-02-19T11:59:59.123456Z"}'
    ]


floats = st.none() | st.floats(width=32)


@hypothesis_settings(deadline=None)
@given(
    values=st.fixed_dictionaries(dict.fromkeys(FIELDS, floats)),
    mote_id=st.integers(1, 2**31 - 1),
    timestamp=st.integers(0, 4_000_000_000 * 10**9),
)
def test_what_is_read_back_is_what_was_encoded(values: dict, mote_id: int, timestamp: int) -> None:
    frame = pl.DataFrame([{"mote_id": mote_id, "timestamp": timestamp, **values}], schema=READING_SCHEMA)
    message = msgspec.json.decode(encode(frame)[0, "value"], type=Message)
    assert message.mote_id == mote_id
    assert message.timestamp == dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=timestamp // 1_000)
    for field in FIELDS:
        sent = values[field]
        read = getattr(message, field)
        if sent is None or not math.isfinite(sent):
            assert read is None
        else:
            assert np.float32(read) == np.float32(sent)


def test_everything_sent_arrives_once_and_the_cursor_is_the_last(settings: Settings) -> None:
    sent = readings(12_000)
    with EmbeddedBroker(settings):
        emitter = Emitter(settings, threading.Event())
        for start in range(0, 12_000, 5_000):
            assert emitter.send(sent[start : start + 5_000])
        assert emitter.flush(20)
        assert (emitter.sent, emitter.delivered, emitter.outstanding) == (12_000, 12_000, 0)
        assert emitter.cursor == Cursor(sent[-1, "timestamp"], sent[-1, "mote_id"])
        found = drain(settings, 12_000)
        emitter.close()
    expected = encode(sent)
    assert sorted(found) == sorted(
        (key.encode(), value.encode()) for key, value in zip(expected["key"], expected["value"], strict=True)
    )


def test_a_full_queue_is_waited_for(settings: Settings) -> None:
    with EmbeddedBroker(settings):
        emitter = Emitter(settings, threading.Event(), options={"queue.buffering.max.messages": 10})
        assert emitter.send(readings(500))
        assert emitter.flush(20)
        assert len(drain(settings, 500)) == 500
        emitter.close()


def test_what_was_not_acknowledged_goes_to_the_broker_that_comes_after(settings: Settings) -> None:
    first = EmbeddedBroker(settings)
    first.start()
    emitter = Emitter(settings, threading.Event())
    emitter.send(readings(100))
    assert emitter.flush(10)
    first.stop()
    later = readings(300, START + 1_000_000_000)
    emitter.send(later)
    assert not emitter.flush(0.3)
    assert emitter.cursor == Cursor(START + 99_000, 5), "acknowledged ones only"
    with EmbeddedBroker(settings):
        assert emitter.flush(20)
        assert emitter.cursor == Cursor(later[-1, "timestamp"], later[-1, "mote_id"])
        assert sorted(drain(settings, 300)) == sorted(
            (row["key"].encode(), row["value"].encode()) for row in encode(later).iter_rows(named=True)
        )
        emitter.close()


def test_patience_ends_with_a_named_error(settings: Settings) -> None:
    broker = EmbeddedBroker(settings)
    broker.start()
    emitter = Emitter(settings, threading.Event(), patience_seconds=0.3)
    broker.stop()
    emitter.send(readings(1))
    with pytest.raises(BrokerUnavailableError, match="1 readings without acknowledgement"):
        emitter.flush(30)
    emitter.close()


def test_a_record_refused_for_good_is_a_named_error(settings: Settings) -> None:
    with EmbeddedBroker(settings):
        emitter = Emitter(settings, threading.Event(), options={"message.max.bytes": 1_000})
        emitter.send(readings(1))
        emitter._produce(emitter._batches[0], [{"key": "1", "value": "x" * 2_000}])  # no reading is as long as that
        with pytest.raises(DeliveryError, match="refuses readings on sensor_readings"):
            emitter.flush(10)
        emitter.close()
