"""Decoding, on messages that came through a real broker: each is a reading, or a dead letter with its reason."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sieis_platform.reading import FIELDS, Message
from sieis_platform.settings import Settings
from sieis_streaming.broker import locate
from sieis_streaming.decode import STREAM_SCHEMA, Reason, decode
from tests.unit.sieis_streaming.conftest import Record, Topic

RECORD_MS = 1_771_545_599_123  # 2026-02-19T23:59:59.123Z
GOOD = {
    "mote_id": 1,
    "temperature": 22.5,
    "humidity": 45.3,
    "light": 250.0,
    "voltage": 2.8,
    "timestamp": "2026-02-19T23:59:59.123456Z",
}
GOOD_NS = 1_771_545_599_123_456_000


def record(value: bytes | None, record_ms: int = RECORD_MS) -> Record:
    return Record(value, b"1", record_ms=record_ms)


def changed(**fields: object) -> bytes:
    return json.dumps(GOOD | fields).encode()


def without(*names: str) -> bytes:
    return json.dumps({name: value for name, value in GOOD.items() if name not in names}).encode()


def raw(members: str) -> bytes:
    """A message of literal JSON members behind a good mote and time."""
    return b'{"mote_id": 1, "timestamp": "2026-02-19T23:59:59Z", ' + members.encode() + b"}"


DEAD: dict[str, tuple[bytes | None, Reason]] = {
    "tombstone": (None, Reason.EMPTY),
    "empty": (b"", Reason.EMPTY),
    "white space": (b"  \n", Reason.NOT_JSON),
    "text": (b"poison", Reason.NOT_JSON),
    "cut short": (changed()[:-5], Reason.NOT_JSON),
    "bytes": (b"\xff\xfe\x00", Reason.NOT_JSON),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), Reason.NOT_JSON),
    "byte order mark": (b"\xef\xbb\xbf" + changed(), Reason.NOT_JSON),
    "two objects": (changed() + changed(), Reason.NOT_JSON),
    "single quotes": (str(GOOD).encode(), Reason.NOT_JSON),
    "NaN": (raw('"light": NaN'), Reason.NOT_JSON),
    "Infinity": (raw('"light": -Infinity'), Reason.NOT_JSON),
    "null": (b"null", Reason.NOT_A_READING),
    "number": (b"17", Reason.NOT_A_READING),
    "string": (b'"reading"', Reason.NOT_A_READING),
    "array": (b"[" + changed() + b"]", Reason.NOT_A_READING),
    "nothing in it": (b"{}", Reason.NOT_A_READING),
    "nested": (json.dumps({"reading": GOOD}).encode(), Reason.NOT_A_READING),
    "nested deep": (raw('"more": ' + "[" * 5_000 + "]" * 5_000), Reason.NOT_A_READING),
    "no mote": (without("mote_id"), Reason.NOT_A_READING),
    "no time": (without("timestamp"), Reason.NOT_A_READING),
    "mote null": (changed(mote_id=None), Reason.NOT_A_READING),
    "mote 0": (changed(mote_id=0), Reason.NOT_A_READING),
    "mote negative": (changed(mote_id=-1), Reason.NOT_A_READING),
    "mote beyond 32 bits": (changed(mote_id=2**31), Reason.NOT_A_READING),
    "mote of 400 digits": (changed(mote_id=10**400), Reason.NOT_A_READING),
    "mote true": (changed(mote_id=True), Reason.NOT_A_READING),
    "mote as text": (changed(mote_id="1"), Reason.NOT_A_READING),
    "mote half": (changed(mote_id=1.5), Reason.NOT_A_READING),
    "time null": (changed(timestamp=None), Reason.NOT_A_READING),
    "time empty": (changed(timestamp=""), Reason.NOT_A_READING),
    "time naive": (changed(timestamp="2026-02-19T23:59:59"), Reason.NOT_A_READING),
    "time as epoch": (changed(timestamp=1_771_545_599), Reason.NOT_A_READING),
    "date only": (changed(timestamp="2026-02-19"), Reason.NOT_A_READING),
    "February 30": (changed(timestamp="2026-02-30T00:00:00Z"), Reason.NOT_A_READING),
    "25 o'clock": (changed(timestamp="2026-02-19T25:00:00Z"), Reason.NOT_A_READING),
    "year 10000": (changed(timestamp="10000-01-01T00:00:00Z"), Reason.NOT_A_READING),
    "value as text": (changed(temperature="22.5"), Reason.NOT_A_READING),
    "value true": (changed(light=True), Reason.NOT_A_READING),
    "value a list": (changed(light=[1.0]), Reason.NOT_A_READING),
    "value beyond 64 bits": (raw('"light": 1e400'), Reason.NOT_A_READING),
    "value beyond 32 bits": (raw('"light": 1e39'), Reason.NOT_FINITE),
    "value far below zero": (raw('"light": -3.5e38'), Reason.NOT_FINITE),
    "integer beyond 32-bit floats": (raw('"light": 1' + "0" * 39), Reason.NOT_FINITE),
    "year 9999": (changed(timestamp="9999-12-31T23:59:59Z"), Reason.TIME_IMPOSSIBLE),
    "year 9999 and beyond in UTC": (changed(timestamp="9999-12-31T23:59:59-14:00"), Reason.TIME_IMPOSSIBLE),
    "year 1 and before in UTC": (changed(timestamp="0001-01-01T00:00:00+14:00"), Reason.TIME_IMPOSSIBLE),
    "before 1970": (changed(timestamp="1969-12-31T23:59:59.999999Z"), Reason.TIME_IMPOSSIBLE),
    "after 64 bits of ns": (changed(timestamp="2262-04-11T23:47:16.000001Z"), Reason.TIME_IMPOSSIBLE),
    "tomorrow": (changed(timestamp="2026-02-20T23:59:59Z"), Reason.TIME_AHEAD),
}

ACCEPTED: dict[str, tuple[bytes, dict[str, object]]] = {
    "as agreed": (changed(), {}),
    "values null": (changed(**dict.fromkeys(FIELDS)), dict.fromkeys(FIELDS)),
    "values absent": (without(*FIELDS), dict.fromkeys(FIELDS)),
    "integers": (changed(temperature=22, light=0), {"temperature": 22.0, "light": 0.0}),
    "more fields": (changed(epoch=7, tags={"room": [1, {"a": None}]}), {}),
    "a field twice": (changed()[:-1] + b', "light": 7}', {"light": 7.0}),
    "white space around": (b" \r\n" + changed() + b"\n", {}),
    "impossible but true": (changed(temperature=122.153, humidity=-4), {"temperature": 122.153, "humidity": -4.0}),
    "beyond the fleet": (changed(mote_id=2**31 - 1), {"mote_id": 2**31 - 1}),
    "smaller than float32": (raw('"light": 1e-60'), {"light": 0.0}),
    "another zone": (changed(timestamp="2026-02-20T01:29:59.123456+01:30"), {"timestamp": GOOD_NS}),
    "no fraction": (changed(timestamp="2026-02-19T23:59:59Z"), {"timestamp": GOOD_NS - 123_456_000}),
    "nanoseconds are rounded": (changed(timestamp="2026-02-19T23:59:59.123456400Z"), {"timestamp": GOOD_NS}),
    "the first moment": (changed(timestamp="1970-01-01T00:00:00Z"), {"timestamp": 0}),
}


@pytest.fixture(scope="module")
def shared_topic(stream_settings: Settings) -> Iterator[Topic]:
    settings = stream_settings.model_copy(update={"kafka_topic": "readings.anything"})
    made = Topic(settings, locate(settings))
    yield made
    made.close()


@pytest.mark.parametrize("name", DEAD)
def test_a_record_without_meaning_is_dead_with_its_reason_and_its_message(shared_topic: Topic, name: str) -> None:
    value, reason = DEAD[name]
    (message,) = shared_topic.through(record(value))
    decoded = decode([message], 300)
    assert decoded.rows.is_empty()
    assert decoded.rows.schema == STREAM_SCHEMA
    assert [letter.reason for letter in decoded.dead] == [reason]
    assert decoded.dead[0].message is message
    assert decoded.dead[0].detail


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_reading_is_taken_as_it_is(shared_topic: Topic, name: str) -> None:
    value, differs = ACCEPTED[name]
    (message,) = shared_topic.through(record(value))
    decoded = decode([message], 300)
    assert decoded.dead == []
    (row,) = decoded.rows.to_dicts()
    expected = {**GOOD, "timestamp": GOOD_NS, **differs}
    if value.startswith(b'{"mote_id": 1, "timestamp": "2026-02-19T23:59:59Z", '):  # `raw`
        expected = {"mote_id": 1, "timestamp": GOOD_NS - 123_456_000, **dict.fromkeys(FIELDS), **differs}
    stored = {name: float(np.float32(is_)) if isinstance(is_, float) else is_ for name, is_ in expected.items()}
    assert {name: row[name] for name in expected} == stored
    assert (row["source_partition"], row["source_offset"], row["record_ms"]) == (0, message.offset(), RECORD_MS)


def test_one_poll_of_everything_accounts_for_each_position_once_and_keeps_the_order(topic: Topic) -> None:
    values = [value for pair in zip(DEAD.values(), list(ACCEPTED.values()) * 4, strict=False) for value, _ in pair]
    decoded = decode(topic.through(*map(record, values)), 300)
    offsets = decoded.rows["source_offset"].to_list()
    assert offsets == list(range(1, len(values), 2))
    assert sorted(letter.offset for letter in decoded.dead) == list(range(0, len(values), 2))
    reasons = {letter.offset: letter.reason for letter in decoded.dead}
    assert [reasons[offset] for offset in sorted(reasons)] == [reason for _, reason in DEAD.values()]


def test_an_empty_poll_is_an_empty_frame() -> None:
    decoded = decode([], 300)
    assert (decoded.rows.height, decoded.rows.schema, decoded.dead) == (0, STREAM_SCHEMA, [])


def test_positions_come_from_the_partition_that_was_read(topic: Topic) -> None:
    topic.send(record(changed()), partition=3)
    messages = topic.through(record(changed()), record(b"x"), partition=2)
    messages += topic.read(1)
    decoded = decode(messages, 300)
    assert sorted(decoded.rows.select("source_partition", "source_offset").rows()) == [(2, 0), (3, 0)]
    assert [(letter.partition, letter.offset) for letter in decoded.dead] == [(2, 1)]


# -- skew ------------------------------------------------------------------------------------------------------------
def ahead(microseconds: int) -> bytes:
    moment = datetime.fromtimestamp(RECORD_MS // 1_000, UTC).replace(microsecond=RECORD_MS % 1_000 * 1_000)
    total = int(moment.timestamp()) * 1_000_000 + moment.microsecond + microseconds
    seconds, rest = divmod(total, 1_000_000)
    return changed(timestamp=f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z")


@pytest.mark.parametrize(("skew", "limit_us"), [(300, 300_000_000), (0.5, 500_000), (0.001, 1_000)])
def test_the_boundary_of_the_skew_belongs_to_the_readings(topic: Topic, skew: float, limit_us: int) -> None:
    at, beyond, behind = topic.through(record(ahead(limit_us)), record(ahead(limit_us + 1)), record(ahead(-(10**12))))
    decoded = decode([at, beyond, behind], skew)
    assert decoded.rows["source_offset"].to_list() == [0, 2]
    assert [(letter.offset, letter.reason) for letter in decoded.dead] == [(1, Reason.TIME_AHEAD)]


def test_skew_is_judged_by_the_records_time_whenever_it_is_read(topic: Topic) -> None:
    now = json.dumps(GOOD | {"timestamp": datetime.now(UTC).isoformat()}).encode()
    old, new = topic.through(record(now), Record(now))
    assert [letter.reason for letter in decode([old], 300).dead] == [Reason.TIME_AHEAD]
    assert decode([new], 300).dead == []


def test_skew_zero_judges_nothing_but_what_cannot_be_stored(topic: Topic) -> None:
    far, beyond = (changed(timestamp=text) for text in ("2262-04-11T23:47:16Z", "2262-04-11T23:47:17Z"))
    decoded = decode(topic.through(record(far), record(beyond)), 0)
    assert decoded.rows["timestamp"].to_list() == [9_223_372_036_000_000_000]
    assert [letter.reason for letter in decoded.dead] == [Reason.TIME_IMPOSSIBLE]


PLAIN_TIMES = st.from_regex(
    r"[12][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,7})?(Z|z|\+01:00)?", fullmatch=True
)


@hypothesis_settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(PLAIN_TIMES, min_size=1, max_size=40))
def test_times_read_as_a_column_are_those_the_contract_reads(shared_topic: Topic, times: list[str]) -> None:
    expected = []
    for text in times:
        try:
            moment = msgspec.json.decode(changed(timestamp=text), type=Message).timestamp
        except msgspec.ValidationError:
            continue
        if moment.year >= 1970 and moment < datetime(2262, 4, 11, tzinfo=UTC):
            expected.append((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000)
    messages = shared_topic.through(*(record(changed(timestamp=text)) for text in times))
    together = decode(messages, 0).rows["timestamp"].to_list()
    alone = [stamp for message in messages for stamp in decode([message], 0).rows["timestamp"]]
    assert together == alone
    assert [stamp for stamp in together if stamp < 9_223_286_400_000_000_000] == expected


# -- anything --------------------------------------------------------------------------------------------------------
def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def documents() -> st.SearchStrategy[bytes]:
    fields = st.dictionaries(st.sampled_from([*GOOD, "more"]), json_values())
    times = st.datetimes(timezones=st.timezones()).map(lambda moment: {"timestamp": moment.isoformat()})
    return st.builds(lambda one, two: json.dumps(GOOD | one | two).encode(), fields, times | st.just({}))


@hypothesis_settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.none() | st.binary(max_size=40) | documents(), max_size=8), skew=st.sampled_from([0, 300]))
def test_whatever_comes_is_a_reading_or_a_dead_letter_and_nothing_else(
    shared_topic: Topic, values: list[bytes | None], skew: float
) -> None:
    messages = shared_topic.through(*map(record, values))
    decoded = decode(messages, skew)
    assert decoded.rows.schema == STREAM_SCHEMA
    fates = [*decoded.rows["source_offset"], *(letter.offset for letter in decoded.dead)]
    assert sorted(fates) == sorted(message.offset() or 0 for message in messages)
    finite = decoded.rows.select(pl.all_horizontal(pl.col(*FIELDS).is_finite().fill_null(True)).alias("finite"))
    assert finite["finite"].all()
    assert decoded.rows["mote_id"].null_count() + decoded.rows["timestamp"].null_count() == 0
    one_by_one = [decode([message], skew) for message in messages]
    assert [len(one.dead) + one.rows.height for one in one_by_one] == [1] * len(messages)
    assert sum(one.rows.height for one in one_by_one) == decoded.rows.height
