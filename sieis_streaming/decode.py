"""Kafka messages to columns: the valid readings as one frame, the meaningless ones as dead letters with a reason.

Belongs here: what makes a record meaningless. Not here: what is done with either kind (the sinks).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Final

import msgspec
import polars as pl
import pyarrow as pa
from confluent_kafka import Message as KafkaMessage

from sieis_platform.reading import FIELDS, READING_SCHEMA, Message, MoteId

STREAM_SCHEMA: Final = pl.Schema(
    {**READING_SCHEMA, "source_partition": pl.Int32(), "source_offset": pl.Int64(), "record_ms": pl.Int64()}
)
"""A reading with its stream position; `record_ms` is Kafka's record timestamp (Unix ms, -1 where there is none)."""

# Nanoseconds in 64 bits end in April 2262; before 1970 no sensor of ours existed.
_FIRST_US: Final = 0
_LAST_US: Final = 9_223_372_036_000_000

# What a dead letter takes beside its bytes: the message object, those of key and value, the detail; an estimate.
_LETTER_BYTES: Final = 512


class Reason(StrEnum):
    """Why a record is a dead letter."""

    EMPTY = "empty"
    NOT_JSON = "not_json"
    NOT_A_READING = "not_a_reading"
    NOT_FINITE = "not_finite"
    TIME_IMPOSSIBLE = "time_impossible"
    TIME_AHEAD = "time_ahead"


@dataclass(frozen=True)
class DeadLetter:
    """A record without meaning: why, and the original message."""

    reason: Reason
    detail: str
    message: KafkaMessage

    @property
    def partition(self) -> int:
        """Partition it was read from."""
        return self.message.partition() or 0

    @property
    def offset(self) -> int:
        """Offset it was read from."""
        return self.message.offset() or 0

    @property
    def size(self) -> int:
        """Bytes of memory that keeping it takes, about."""
        message = self.message
        headers = message.headers() or []
        pairs = headers.items() if isinstance(headers, dict) else headers
        return (
            _LETTER_BYTES
            + len(message.value() or b"")
            + len(message.key() or b"")
            + sum(len(name) + len(value or b"") for name, value in pairs)
        )


@dataclass(frozen=True)
class Decoded:
    """One poll: `rows` (STREAM_SCHEMA, in the order read) and the dead letters between them."""

    rows: pl.DataFrame
    dead: list[DeadLetter]

    @property
    def records(self) -> int:
        """Records of either kind."""
        return self.rows.height + len(self.dead)


class _Text(msgspec.Struct, frozen=True, gc=False):
    """A reading whose timestamp is left as text: Arrow reads a column of them in a tenth of the time of datetimes."""

    mote_id: MoteId
    timestamp: str
    temperature: float | None = None
    humidity: float | None = None
    light: float | None = None
    voltage: float | None = None


#: The timestamps that Arrow reads just as msgspec does, but for those neither takes (a 30th of February): Arrow raises.
_PLAIN_TIME: Final = r"^[12][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z$"
_UTC_US: Final = pa.timestamp("us", tz="UTC")

_decoder = msgspec.json.Decoder(Message)
_text_decoder = msgspec.json.Decoder(_Text)


def decode(messages: Sequence[KafkaMessage], max_skew_seconds: float) -> Decoded:
    """Decode and judge one poll's messages (without errors among them)."""
    dead: list[DeadLetter] = []
    rows = _plain(messages)
    if rows is None:
        readings, messages = _one_by_one(messages, dead)
        times = pa.array([reading.timestamp for reading in readings], _UTC_US)
        rows = _columns(readings, times, messages)
    verdict = rows.select(_reason(max_skew_seconds)).to_series()
    if verdict.null_count() < rows.height:
        bad = verdict.is_not_null().arg_true()
        dead.extend(_judged(Reason(verdict[index]), messages[index], max_skew_seconds) for index in bad)
        rows = rows.filter(verdict.is_null())
    return Decoded(rows.select(_nanoseconds()).cast(STREAM_SCHEMA), dead)


def _plain(messages: Sequence[KafkaMessage]) -> pl.DataFrame | None:
    """The columns of messages that are all readings with times of the plain form; None where one may not be."""
    try:
        readings = [_text_decoder.decode(message.value() or b"") for message in messages]
        times = pa.array([reading.timestamp for reading in readings], pa.string())
        if not pl.Series(times).str.contains(_PLAIN_TIME).all():
            return None
        return _columns(readings, times.cast(_UTC_US), messages)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, pa.ArrowInvalid):
        return None


def _one_by_one(messages: Sequence[KafkaMessage], dead: list[DeadLetter]) -> tuple[list[Message], list[KafkaMessage]]:
    readings: list[Message] = []
    good: list[KafkaMessage] = []
    for message in messages:
        value = message.value()
        if not value:
            dead.append(DeadLetter(Reason.EMPTY, "the message has no value", message))
            continue
        try:
            readings.append(_decoder.decode(value))
            good.append(message)
        except msgspec.ValidationError as error:
            dead.append(DeadLetter(Reason.NOT_A_READING, str(error), message))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            dead.append(DeadLetter(Reason.NOT_JSON, str(error), message))
        except RecursionError:  # fields we do not know are passed over, but not at any depth
            dead.append(DeadLetter(Reason.NOT_A_READING, "the message is nested too deeply", message))
    return readings, good


def _columns(readings: Sequence[Message | _Text], times: pa.Array, messages: Sequence[KafkaMessage]) -> pl.DataFrame:
    table = pa.table(
        {
            "mote_id": pa.array([reading.mote_id for reading in readings], pa.int32()),
            "timestamp": times.cast(pa.int64()),
            **{field: pa.array(list(map(attrgetter(field), readings)), pa.float64()) for field in FIELDS},
            "source_partition": pa.array([message.partition() for message in messages], pa.int32()),
            "source_offset": pa.array([message.offset() for message in messages], pa.int64()),
            "record_ms": pa.array([message.timestamp()[1] for message in messages], pa.int64()),
        }
    )
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never becomes a Series; the stub says either
    return frame.cast(dict.fromkeys(FIELDS, pl.Float32()), strict=False)


def _reason(max_skew_seconds: float) -> pl.Expr:
    ahead_us = pl.col("timestamp") - pl.col("record_ms") * 1_000
    judged = pl.lit(max_skew_seconds > 0) & (pl.col("record_ms") >= 0)
    not_finite = pl.any_horizontal(pl.col(field).is_finite().not_().fill_null(value=False) for field in FIELDS)
    return (
        pl.when(~pl.col("timestamp").is_between(_FIRST_US, _LAST_US))
        .then(pl.lit(Reason.TIME_IMPOSSIBLE.value))
        .when(judged & (ahead_us > int(max_skew_seconds * 1e6)))
        .then(pl.lit(Reason.TIME_AHEAD.value))
        .when(not_finite)
        .then(pl.lit(Reason.NOT_FINITE.value))
        .otherwise(None)
        .alias("reason")
    )


def _judged(reason: Reason, message: KafkaMessage, max_skew_seconds: float) -> DeadLetter:
    detail = {
        Reason.TIME_IMPOSSIBLE: "the timestamp lies before 1970 or after 2262",
        Reason.TIME_AHEAD: f"the timestamp is more than {max_skew_seconds:g} s ahead of the record's time",
        Reason.NOT_FINITE: "a value is too large for a 32-bit float",
    }[reason]
    return DeadLetter(reason, detail, message)


def _nanoseconds() -> list[pl.Expr]:
    return [pl.col(name) * 1_000 if name == "timestamp" else pl.col(name) for name in STREAM_SCHEMA.names()]
