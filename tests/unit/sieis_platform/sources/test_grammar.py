"""What a line means: every form, every kind of bad line, and the two parsers agreeing on anything."""

import datetime as dt
import math
import struct
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sieis_platform.reading import FIELDS
from sieis_platform.sources import grammar
from sieis_platform.sources.grammar import BATCH_SCHEMA, REJECT_SCHEMA, Batch, RejectReason, parse_block
from sieis_platform.sources.stream import MAX_LINE_BYTES, LineBlock

GOOD = b"2004-02-28 00:59:16.02785 3 1 19.9884 37.0933 45.08 2.69964"
GOOD_NS = 1_077_929_956_027_850_000


def parse(data: bytes, start: int = 0) -> Batch:
    return parse_block(LineBlock(data, start, start + len(data), ()))


def f32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def one(line: bytes) -> tuple:
    """The one reading of a line, without its offset."""
    batch = parse(line + b"\n")
    assert batch.rejects.is_empty()
    (row,) = batch.readings.drop("source_offset").iter_rows()
    return row


VALUES = tuple(f32(v) for v in (19.9884, 37.0933, 45.08, 2.69964))


@pytest.mark.parametrize(
    "line",
    [
        GOOD,
        GOOD + b"\r",
        GOOD + b" ",
        b"  " + GOOD,
        GOOD.replace(b" ", b"\t"),
        GOOD.replace(b" ", b"  "),
        b"2004-02-28 00:59:16.02785 1 19.9884 37.0933 45.08 2.69964 2026-02-19T23:59:59.123456",
        b"2004-02-28 00:59:16.02785 1 19.9884 37.0933 45.08 2.69964 2026-02-19T23:59:59Z",
        b"2004-02-28 00:59:16.02785 1 19.9884 37.0933 45.08 2.69964 2026-02-19 23:59:59.1",
        b"2004-02-28 00:59:16.02785 1 19.9884 37.0933 45.08 2.69964 2026-02-19 23:59:59.1\r",
        b"2004-02-28 00:59:16.02785 1 19.9884 37.0933 45.08 2.69964 2026-02-19 23:",
        b"2004-02-28 00:59:16.02785 1 19.9884 37.0933 45.08 2.69964 2026-02",
    ],
)
def test_every_form_of_a_complete_line_gives_the_same_reading(line: bytes) -> None:
    assert one(line) == (1, GOOD_NS, *VALUES)


@pytest.mark.parametrize("digits", range(7))
def test_seconds_have_none_to_six_fraction_digits(digits: int) -> None:
    fraction = "123456"[:digits]
    seconds = f"16.{fraction}" if fraction else "16"
    row = one(f"2004-02-28 00:59:{seconds} 3 1 1 2 3 4".encode())
    assert row[1] == GOOD_NS - 27_850_000 + int(fraction.ljust(9, "0") or 0)


@pytest.mark.parametrize("kept", range(5))
def test_missing_trailing_fields_are_null(kept: int) -> None:
    row = one(b" ".join(GOOD.split()[: 4 + kept]))
    assert row == (1, GOOD_NS, *VALUES[:kept], *[None] * (4 - kept))


@pytest.mark.parametrize("value", [b"122.153", b"-4.01", b"-8983.1", b"385", b"1e3", b"-0", b".5", b"+7."])
def test_impossible_but_well_formed_values_are_kept(value: bytes) -> None:
    row = one(b"2004-02-28 00:59:16 3 1 " + b" ".join([value] * 4))
    assert row[2:] == (f32(float(value)),) * 4


@pytest.mark.parametrize("mote", [1, 54, 65407, 2**31 - 1])
def test_any_mote_id_of_31_bits_is_taken(mote: int) -> None:
    assert one(f"2004-02-28 00:59:16 65535 {mote} 1 2 3 4".encode())[0] == mote


BAD_LINES = [
    (b"2004-02-28", RejectReason.TRUNCATED),
    (b"2004-02-28 00:5", RejectReason.TRUNCATED),
    (b"2004-02-28 00:59:16.02785", RejectReason.TRUNCATED),
    (b"2004-02-28 00:59:16.02785 3", RejectReason.TRUNCATED),
    (b"garbage", RejectReason.TRUNCATED),
    (b"some garbled line of text here", RejectReason.BAD_TIMESTAMP),
    (b"2004-02-30 00:59:16.02785 3 1 1 2 3 4", RejectReason.BAD_TIMESTAMP),
    (b"2003-02-29 00:59:16.02785 3 1 1 2 3 4", RejectReason.BAD_TIMESTAMP),
    (b"2004-13-01 00:59:16.02785 3 1 1 2 3 4", RejectReason.BAD_TIMESTAMP),
    (b"2004-00-01 00:59:16.02785 3 1 1 2 3 4", RejectReason.BAD_TIMESTAMP),
    (b"2004-02-28 24:00:00 3 1 1 2 3 4 ", RejectReason.BAD_TIMESTAMP),
    (b"2004-02-28 00:60:00 3 1 1 2 3 4 ", RejectReason.BAD_TIMESTAMP),
    (b"2004-02-28 00:00:60 3 1 1 2 3 4 ", RejectReason.BAD_TIMESTAMP),
    (b"2004-02-28 00:59:16. 3 1 1 2 3 4", RejectReason.BAD_TIMESTAMP),
    (b"2004-02-28 00:59:16.1234567 3 1 1 2 3 4", RejectReason.BAD_TIMESTAMP),
    (b"2004-02-28 0:59:16 3 1 19.9 37.0 45.1 2.6", RejectReason.BAD_TIMESTAMP),
    (b"2004-2-28 00:59:16 3 1 19.9 37.0 45.1 2.6", RejectReason.BAD_TIMESTAMP),
    (b"+200-02-28 00:59:16 3 1 19.9 37.0 45.1 2.6", RejectReason.BAD_TIMESTAMP),
    (b"1600-02-28 00:59:16 3 1 19.9 37.0 45.1 2.6", RejectReason.BAD_TIMESTAMP),
    (b"2600-02-28 00:59:16 3 1 19.9 37.0 45.1 2.6", RejectReason.BAD_TIMESTAMP),
    (b"2004-02-28 00:59:16.02785 x 1 19.9 37.0 45.1 2.6", RejectReason.BAD_EPOCH),
    (b"2004-02-28 00:59:16.02785 3.5 1 19.9 37.0 45.1 2.6", RejectReason.BAD_EPOCH),
    (b"2004-02-28 00:59:16.02785 3 x 19.9 37.0 45.1 2.6", RejectReason.BAD_MOTE),
    (b"2004-02-28 00:59:16.02785 3 0 19.9 37.0 45.1 2.6", RejectReason.BAD_MOTE),
    (b"2004-02-28 00:59:16.02785 3 -1 19.9 37.0 45.1 2.6", RejectReason.BAD_MOTE),
    (b"2004-02-28 00:59:16.02785 3 2147483648 19.9 37.0 45.1 2.6", RejectReason.BAD_MOTE),
    (b"2004-02-28 00:59:16.02785 3 99999999999999999999 19.9 37.0 45.1 2.6", RejectReason.BAD_MOTE),
    (b"2004-02-28 00:59:16.02785 1 19.9884 37.0933 45.08 2.69964", RejectReason.BAD_MOTE),
    (b"2004-02-28 00:59:16.02785 3 1 19.9 x 45.1 2.6", RejectReason.BAD_VALUE),
    (b"2004-02-28 00:59:16.02785 3 1 19,9 37.0 45.1 2.6", RejectReason.BAD_VALUE),
    (b"2004-02-28 00:59:16.02785 3 1 --1 37.0", RejectReason.BAD_VALUE),
    (b"2004-02-28 00:59:16.02785 3 1 nan 37.0 45.1 2.6", RejectReason.NOT_FINITE),
    (b"2004-02-28 00:59:16.02785 3 1 19.9 37.0 -inf 2.6", RejectReason.NOT_FINITE),
    (b"2004-02-28 00:59:16.02785 3 1 19.9 37.0 45.1 1e39", RejectReason.NOT_FINITE),
    (b"2004-02-28 00:59:16.02785 3 1 19.9 37.0 45.1 1e400", RejectReason.NOT_FINITE),
    (GOOD + b" 7", RejectReason.UNKNOWN_FORM),
    (GOOD + b"  7", RejectReason.UNKNOWN_FORM),
    (GOOD + b" 7 8 9 10 11 12 13", RejectReason.UNKNOWN_FORM),
    (b"2004-02-28 00:59:16.02785 1 19.9 37.0 2026-02-19T23:59:59", RejectReason.UNKNOWN_FORM),
    (b"2004-02-28 00:59:16.02785 2026-02-19T23:59:59", RejectReason.UNKNOWN_FORM),
    (b"2004-02-28 00:59:16.02785 1 19.9 37.0 45.1 2.6 2026-02-19 x", RejectReason.UNKNOWN_FORM),
    (b"2004-02-28 00:59:16.02785 0 2026-02-19T23:59:59", RejectReason.BAD_MOTE),
    (b"2004-02-28 00:59:16\x00 3 1 19.9 37.0 45.1 2.6", RejectReason.BINARY),
    (b"\x00\x01\x02\xff\xfe", RejectReason.BINARY),
    (GOOD + b"\xff", RejectReason.BINARY),
    (b"2004-02-28 00:59:16 3 1 \xd9\xa1 37.0 45.1 2.6", RejectReason.BAD_VALUE),
    (GOOD + b" " * MAX_LINE_BYTES, RejectReason.OVERLONG),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_line_is_a_reject_with_its_bytes_and_harms_no_other(line: bytes, reason: RejectReason) -> None:
    before, after = GOOD + b"\n", b"\n" + GOOD + b"\n"
    batch = parse(before + line + after, start=1000)
    assert batch.lines == 3
    assert batch.rejects.rows() == [(1000 + len(before), reason.value, line[:MAX_LINE_BYTES])]
    assert batch.readings["source_offset"].to_list() == [1000, 1000 + len(before) + len(line) + 1]
    assert batch.readings["timestamp"].to_list() == [GOOD_NS, GOOD_NS]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"", "empty"),
        (b"\r", "empty"),
        (b"  \t ", "empty"),
        (b"2004-02-28 00:59:16.02785 1 2026-02-19T23:59:59.1", "short"),
        (b"2004-02-28 00:59:16.02785 1 2026-02-19 23:59:59.1", "short"),
        (b"2004-02-28 00:59:16.02785 1 2026-02-19 23:59:59.1\r", "short"),
        (b"2004-02-28 00:59:16  1 2026-02-1", "short"),
    ],
)
def test_short_forms_and_empty_lines_are_counted_not_rejected(line: bytes, kind: str) -> None:
    batch = parse(GOOD + b"\n" + line + b"\n")
    assert batch.skipped == {"empty": 0, "short": 0} | {kind: 1}
    assert batch.readings.height == 1
    assert batch.rejects.is_empty()


def test_the_last_line_needs_no_newline_and_no_lines_are_no_problem() -> None:
    assert parse(GOOD).readings.height == 1
    empty = parse(b"")
    assert (empty.lines, empty.readings.height, empty.rejects.height) == (0, 0, 0)


def test_frames_have_the_agreed_columns_whatever_the_block_holds() -> None:
    for data in (b"", b"x\n", GOOD + b"\n", GOOD + b"\nx\n", b"\n"):
        batch = parse(data)
        assert batch.readings.schema == BATCH_SCHEMA
        assert batch.rejects.schema == REJECT_SCHEMA


# -- properties ------------------------------------------------------------------------------------------------------

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
STAMPS = st.datetimes(dt.datetime(1678, 1, 1), dt.datetime(2261, 12, 31))  # noqa: DTZ001 - a data set has no zone


@st.composite
def readings(draw: st.DrawFn) -> tuple[tuple, str]:
    """A reading and a line that says it."""
    stamp = draw(STAMPS)
    ns = (stamp - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1) * 1000  # noqa: DTZ001
    mote = draw(st.integers(1, 2**31 - 1))
    values = draw(st.lists(FLOATS, min_size=0, max_size=4))
    variant = len(values) == 4 and draw(st.booleans())
    words = [
        f"{stamp:%H:%M:%S}" + draw(st.sampled_from(["", f"{stamp:.%f}"] if not stamp.microsecond else [f"{stamp:.%f}"]))
    ]
    words += [str(mote)] if variant else [str(draw(st.integers(0, 2**63 - 1))), str(mote)]
    words += [repr(value) for value in values]
    if variant:
        words += draw(st.sampled_from([["2026-02-19T23:59:59.1"], ["2026-02-19", "23:59:59"]]))
    separator = draw(st.sampled_from([" ", " ", " ", "  ", "\t"]))
    line = separator.join([f"{stamp.year:04}-{stamp:%m-%d}", *words]) + draw(st.sampled_from(["", "\r", " "]))
    return (mote, ns, *values, *[None] * (4 - len(values))), line


@settings(deadline=None)
@given(st.lists(readings(), min_size=1, max_size=30))
def test_what_is_written_is_read(lines: list[tuple[tuple, str]]) -> None:
    batch = parse("".join(line + "\n" for _, line in lines).encode())
    assert batch.rejects.is_empty()
    assert batch.readings.drop("source_offset").rows() == [row for row, _ in lines]
    assert batch.readings["source_offset"].is_sorted()


TOKENS = st.sampled_from(
    [
        *GOOD.decode().split(),
        *("2026-02-19T23:59:59", "2026-02-19", "23:59:59.1", "2004-02-28", "00:59:16", "24:00:00"),
        *("nan", "1e39", "x", "-1", "0", "7", "+1", "1_0", "1e-5", "-0", ".", "5.", '"', "°"),
        *("", "\t", "\r", "\x0b", "\x00", "\x7f"),
    ]
)
NOISE = st.one_of(
    st.binary(max_size=80).map(lambda data: data.replace(b"\n", b"")),
    st.lists(TOKENS, max_size=12).map(lambda words: " ".join(words).encode()),
    st.lists(TOKENS, max_size=8).map(lambda words: ("2004-02-28 00:59:16.5 " + " ".join(words)).encode()),
    st.tuples(st.integers(0, len(GOOD) - 1), st.binary(max_size=2)).map(
        lambda edit: (GOOD[: edit[0]] + edit[1] + GOOD[edit[0] + 1 :]).replace(b"\n", b"")
    ),
)


@settings(deadline=None)
@given(st.lists(NOISE, max_size=30))
@example([GOOD + b"  garbage"])
@example([b"2004-02-28 00:59:16 3\r1 1 1 1 1 1"])
def test_any_bytes_parse_and_both_parsers_agree(lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    batch = parse(data)
    assert batch.lines == len(lines)
    assert batch.readings.height + batch.rejects.height + sum(batch.skipped.values()) == len(lines)
    offsets = set(batch.rejects["byte_offset"]) | set(batch.readings["source_offset"])
    assert len(offsets) == batch.readings.height + batch.rejects.height
    for offset, line in batch.rejects.select("byte_offset", "line").iter_rows():
        assert data[offset : offset + len(line) + 1] == line + b"\n"
    if lines:
        general, refused, skipped = grammar._parse_general(grammar._split(LineBlock(data, 0, len(data), ())))
        assert general.rows() == batch.readings.rows()
        assert refused.rows() == batch.rejects.rows()
        assert skipped == batch.skipped


def test_the_fast_path_takes_the_lines_of_a_real_file(intel_lab_file: Path) -> None:
    """The general parser would give the same; what would be lost is the speed."""
    import gzip

    with gzip.open(intel_lab_file) as file:
        data = b"".join(file.readlines(1 << 20))
    lines = grammar._split(LineBlock(data, 0, len(data), ()))
    found, done = grammar._parse_complete(lines, grammar._LAYOUTS[0])
    assert done.all()
    general, _, _ = grammar._parse_general(lines)
    assert found.equals(general)


def test_values_are_the_nearest_float32() -> None:
    row = one(b"2004-02-28 00:59:16 3 1 122.153 -3.91901 0.1 2.03397")
    assert row[2] == f32(122.153)
    assert all(math.isfinite(value) for value in row[2:])
    assert len(row) == 2 + len(FIELDS)


def test_overlong_lines_keep_their_first_bytes_and_the_offsets_behind_them() -> None:
    long = b"y" * 3 * MAX_LINE_BYTES
    batch = parse(long + b"\n" + GOOD + b"\n")
    assert batch.rejects.rows() == [(0, "overlong", long[:MAX_LINE_BYTES])]
    assert batch.readings["source_offset"].to_list() == [len(long) + 1]
    assert isinstance(batch.readings, pl.DataFrame)
