"""The grammar of the Intel Lab format: a block of lines to readings, rejects and counts, in columns.

Belongs here: what a line means. Not here: opening and cutting files (stream.py), whole files (intel_lab.py), keeping
rejects.

A line is fields separated by spaces or tabs, ended by LF or CRLF. Its form follows from its fields:

1. *Variant*: a field that begins like a date (`2026-`) stands where the values end. It is the updated timestamp: one
   field (`2026-02-19T23:59:59.1`) or two (`2026-02-19 23:59:59.1`). No value can look like it, since a number has no
   '-' inside but after an 'e'. Before it stand `date time mote temperature humidity light voltage`, without epoch; only
   all four values make a reading, for with fewer nobody knows which are missing. It may itself be cut short: it is not
   used.
2. *Short form*: the updated timestamp follows at once on `date time mote`. No values: skipped, counted, no reject.
3. *Original*: no updated timestamp, `date time epoch mote temperature humidity light voltage`. Epoch and mote are
   integers. The last fields may be missing and are null then. A variant line whose updated timestamp is lost altogether
   is taken for this form, and refused because its third number is no mote id.

The timestamp is `YYYY-MM-DD HH:MM:SS` with 0 to 6 fraction digits, taken as UTC, of the years 1678 to 2261 (Unix ns in
64 bit). Values are any finite numbers in float32, plausible or not: the truth about a dying sensor is kept.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from sieis_platform.reading import FIELDS, MAX_MOTE_ID, READING_SCHEMA
from sieis_platform.sources.stream import MAX_LINE_BYTES, LineBlock

BATCH_SCHEMA: Final = pl.Schema({**READING_SCHEMA, "source_offset": pl.Int64()})
"""Columns of `Batch.readings`: a reading in dataset time, and the byte its line starts at in the decompressed file."""

REJECT_SCHEMA: Final = pl.Schema({"byte_offset": pl.Int64(), "reason": pl.String(), "line": pl.Binary()})
"""Columns of `Batch.rejects`: where the line starts, why it was refused, its bytes (at most MAX_LINE_BYTES)."""

_US_PER_DAY: Final = 86_400_000_000
_STAMP_BYTES: Final = 27  # `YYYY-MM-DD HH:MM:SS.ffffff` and the separator after it
_YEARS: Final = (1678, 2261)

_DATE_LIKE: Final = r"^\d{4}-[0-9T:.Z+-]*$"
_BARE_DATE: Final = r"^\d{4}-\d{2}-\d{2}$"
_TIME_LIKE: Final = r"^\d{1,2}(:[0-9:.]*)?(Z|[+-][0-9:]*)?$"
# Control characters have no place in a line of text; tab, vertical tab, form feed and CR are white space (bytes 9,
# 11-13).
_CONTROL: Final = r"[\x00-\x08\x0e-\x1f\x7f]"

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class RejectReason(StrEnum):
    """Why a line did not become a reading."""

    TRUNCATED = "truncated"
    """Three fields or fewer: no usable mote or timestamp."""
    BAD_TIMESTAMP = "bad_timestamp"
    """Not a date and time, or one that does not exist."""
    BAD_EPOCH = "bad_epoch"
    BAD_MOTE = "bad_mote"
    """Not an integer of 1 to 2**31 - 1."""
    BAD_VALUE = "bad_value"
    """A value that is not a number."""
    NOT_FINITE = "not_finite"
    """A value that is nan, infinite, or beyond float32."""
    UNKNOWN_FORM = "unknown_form"
    """A number of fields that fits none of the forms."""
    BINARY = "binary"
    """Control characters, or bytes that are not UTF-8."""
    OVERLONG = "overlong"
    """Longer than MAX_LINE_BYTES."""
    OUTSIDE_DATASET_SPAN = "outside_dataset_span"
    """A reading whose date lies far off all others (given by the load, see profiles.py)."""


@dataclass(frozen=True)
class Batch:
    """What one block of lines held. Every line is exactly one of: a reading, a reject, skipped."""

    readings: pl.DataFrame
    rejects: pl.DataFrame
    skipped: dict[str, int]
    lines: int
    start_offset: int
    end_offset: int


class _Layout(NamedTuple):
    """Fields of a complete line after date and time, for the fast path."""

    numbers: tuple[str, ...]
    values: tuple[str, ...]
    updated: bool


_LAYOUTS: Final = (
    _Layout(("epoch", "mote_id"), FIELDS, updated=False),
    _Layout(("mote_id",), FIELDS, updated=True),
    _Layout(("mote_id",), (), updated=True),
)


class _Lines(NamedTuple):
    """Lines that fill one buffer: its bytes, index of each line's first byte and of its newline, its offset in the
    file."""

    data: npt.NDArray[np.uint8]
    starts: Ints
    ends: Ints
    offsets: Ints

    def take(self, keep: Bools) -> "_Lines":
        """Only the lines of `keep`, copied together."""
        lengths = self.ends - self.starts + 1
        data = self.data[np.repeat(keep, lengths)]
        ends = np.cumsum(lengths[keep])
        return _Lines(data, ends - lengths[keep], ends - 1, self.offsets[keep])

    def binary(self) -> pl.Series:
        """The lines as one Binary column, newline included."""
        bounds = np.append(self.starts, len(self.data)).astype(np.int64)
        array = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(self.starts), [None, pa.py_buffer(bounds), pa.py_buffer(self.data)]
        )
        return pl.Series("line", array)


def parse_block(block: LineBlock) -> Batch:
    """Parse the lines of one block."""
    lines = _split(block)
    count = len(lines.starts)
    skipped = {"empty": 0, "short": 0}
    readings: list[pl.DataFrame] = []
    rejects: list[pl.DataFrame] = []

    overlong = lines.ends - lines.starts > MAX_LINE_BYTES
    if overlong.any():
        rejects.append(_overlong(lines, overlong))
        lines = lines.take(~overlong)
    for layout in _LAYOUTS:
        if not len(lines.starts):
            break
        found, done = _parse_complete(lines, layout)
        if layout.values:
            readings.append(found)
        else:
            skipped["short"] += int(done.sum())
        if done.any():
            lines = lines.take(~done)
    if len(lines.starts):
        found, refused, passed = _parse_general(lines)
        readings.append(found)
        rejects.append(refused)
        for kind, number in passed.items():
            skipped[kind] += number
    return Batch(
        readings=_in_order(readings, BATCH_SCHEMA, "source_offset"),
        rejects=_in_order(rejects, REJECT_SCHEMA, "byte_offset"),
        skipped=skipped,
        lines=count,
        start_offset=block.start_offset,
        end_offset=block.end_offset,
    )


def _in_order(frames: list[pl.DataFrame], schema: pl.Schema, by: str) -> pl.DataFrame:
    frames = [frame for frame in frames if frame.height]
    if not frames:
        return pl.DataFrame(schema=schema)
    return frames[0] if len(frames) == 1 else pl.concat(frames).sort(by)


def _split(block: LineBlock) -> _Lines:
    text = block.data if block.data.endswith(b"\n") or not block.data else block.data + b"\n"
    data = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n")).astype(np.int64)
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    offsets = starts + block.start_offset
    for index, left_out in block.gaps:
        offsets[starts > index] += left_out
    return _Lines(data, starts, ends, offsets)


def _overlong(lines: _Lines, overlong: Bools) -> pl.DataFrame:
    kept = [lines.data[start : start + MAX_LINE_BYTES].tobytes() for start in lines.starts[overlong].tolist()]
    return pl.DataFrame(
        {"byte_offset": lines.offsets[overlong], "reason": [RejectReason.OVERLONG.value] * len(kept), "line": kept},
        schema=REJECT_SCHEMA,
    )


def _parse_complete(lines: _Lines, layout: _Layout) -> tuple[pl.DataFrame, Bools]:
    """Fast path: the complete lines of one layout, by the multi-threaded CSV reader; the rest is left to the next.

    It may leave out what it does not understand, but must never read a line other than `_parse_general` does.
    """
    stamp, usable = _timestamps(lines)
    text = lines.data.tobytes()
    usable &= ~_odd_lines(lines, text)
    if not usable.any():
        return pl.DataFrame(schema=BATCH_SCHEMA), usable
    strings = ("updated", "updated_time") if layout.updated else ()
    schema = {
        "date": pl.String(),
        "time": pl.String(),
        **dict.fromkeys(layout.numbers, pl.Int64()),
        **dict.fromkeys(layout.values, pl.Float64()),
        **dict.fromkeys(strings, pl.String()),
        "extra": pl.String(),
    }
    header = " ".join(schema).encode() + b"\n"  # else the reader takes the number of columns from whatever comes first
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    table = pl.read_csv(
        header + text,
        separator=" ",
        schema=schema,
        columns=list(schema)[2:],
        quote_char=None,
        truncate_ragged_lines=True,
        ignore_errors=True,
        encoding="utf8-lossy",
    )
    if table.height != len(lines.starts):  # a row is not a line: trust none of it
        return pl.DataFrame(schema=BATCH_SCHEMA), np.zeros(len(usable), dtype=bool)
    complete = pl.all_horizontal(
        pl.Series(usable),
        pl.col("mote_id").is_between(1, MAX_MOTE_ID),
        pl.col(layout.numbers).is_not_null(),
        *(pl.col(value).cast(pl.Float32).is_finite() for value in layout.values),
        pl.col("extra").is_null(),
    ).fill_null(False)
    if layout.updated:
        bare = pl.col("updated").str.contains(_BARE_DATE) & pl.col("updated_time").str.contains(_TIME_LIKE)
        alone = pl.col("updated").str.contains(_DATE_LIKE) & pl.col("updated_time").is_null()
        complete &= (bare | alone).fill_null(False)
    done = table.select(complete.alias("done"))["done"]
    values = [
        pl.col(field).cast(pl.Float32) if field in layout.values else pl.lit(None, pl.Float32).alias(field)
        for field in FIELDS
    ]
    found = table.select(
        pl.col("mote_id").cast(pl.Int32, strict=False),
        pl.Series("timestamp", stamp * 1000),
        *values,
        pl.Series("source_offset", lines.offsets),
    )
    return (found if done.all() else found.filter(done)), done.to_numpy()


def _odd_lines(lines: _Lines, text: bytes) -> Bools:
    """Lines that one parser might cut into fields otherwise than another: with double spaces or not of plain ASCII."""
    control = np.count_nonzero(lines.data < 32) - len(lines.starts) - text.count(b"\r\n")
    if not control and text.isascii() and b"\x7f" not in text and b"  " not in text:
        return np.zeros(len(lines.starts), dtype=bool)
    data = lines.data
    odd = (data < 32) & (data != ord("\n")) | (data > 126)
    odd[:-1] &= (data[:-1] != ord("\r")) | (data[1:] != ord("\n"))
    odd[:-1] |= (data[:-1] == ord(" ")) & (data[1:] == ord(" "))
    return np.logical_or.reduceat(odd, lines.starts)


def _timestamps(lines: _Lines) -> tuple[Ints, Bools]:
    """Unix microseconds of the timestamp each line begins with, and whether there is a valid one followed by a
    space."""
    usable = lines.ends - lines.starts >= _STAMP_BYTES
    if not usable.any():
        return np.zeros(len(usable), dtype=np.int64), usable
    begin = np.where(usable, lines.starts, lines.starts[np.argmax(usable)])
    window = np.lib.stride_tricks.sliding_window_view(lines.data, _STAMP_BYTES)[begin].T
    window = np.ascontiguousarray(window)
    return _stamp_columns(window, usable)


def _stamp_columns(window: npt.NDArray[np.uint8], usable: Bools) -> tuple[Ints, Bools]:
    """The same, from the transposed first bytes (shape: _STAMP_BYTES x lines)."""
    valid = usable.copy()
    for index, mark in ((4, "-"), (7, "-"), (10, " "), (13, ":"), (16, ":")):
        valid &= window[index] == ord(mark)
    digits = window - np.uint8(ord("0"))  # wraps: whatever is no digit becomes 10 or more
    for index in (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18):
        valid &= digits[index] < 10

    def pair(index: int) -> npt.NDArray[np.int32]:
        return digits[index].astype(np.int32) * 10 + digits[index + 1]

    year, month, day = pair(0) * 100 + pair(2), pair(5), pair(8)
    hour, minute, second = pair(11), pair(14), pair(17)
    valid &= (year >= _YEARS[0]) & (year <= _YEARS[1]) & (month >= 1) & (month <= 12) & (day >= 1)
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(valid, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]").view(np.int64)
    valid &= day <= (months + 1).astype("datetime64[D]").view(np.int64) - days
    stamp = (days + day - 1) * _US_PER_DAY + (hour * 3600 + minute * 60 + second).astype(np.int64) * 1_000_000

    fraction = np.zeros(len(stamp), dtype=np.int64)
    more = window[19] == ord(".")
    ended = window[19] == ord(" ")
    more &= digits[20] < 10  # a point needs a digit
    for index in range(20, 26):
        more &= digits[index] < 10
        fraction += np.where(more, digits[index], 0).astype(np.int64) * 10 ** (25 - index)
        ended |= more & (window[index + 1] == ord(" "))
    return np.where(valid & ended, stamp + fraction, 0), valid & ended


def _parse_general(lines: _Lines) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """Every other line: the whole grammar of the module docstring. Returns readings, rejects, skipped by kind."""
    raw = lines.binary()
    fields = 10  # one more than the longest form
    text = pl.when(pl.Series(_utf8(lines))).then(pl.col("line")).otherwise(pl.lit(b"\0")).cast(pl.String)
    words = pl.col("text").str.replace_all(r"[ \t\r\n\x0b\x0c]+", " ").str.strip_chars(" ").str.splitn(" ", fields + 1)
    table = (
        pl.DataFrame({"byte_offset": lines.offsets, "line": raw})
        .with_columns(text.alias("text"))
        .with_columns(words.struct.rename_fields([f"w{i}" for i in range(fields + 1)]).alias("words"))
        .unnest("words")
        .with_columns(pl.sum_horizontal(pl.col(f"w{i}").is_not_null() for i in range(fields + 1)).alias("n"))
    )
    stamp, stamped = _stamps_of(table)
    updated_at = pl.coalesce(
        pl.when(pl.col(f"w{i}").str.contains(_DATE_LIKE)).then(pl.lit(i)) for i in range(2, fields)
    )
    table = table.with_columns(
        updated_at.alias("updated_at"), pl.Series("timestamp", stamp), pl.Series("stamped", stamped)
    )
    last, n = pl.col("updated_at"), pl.col("n")

    def ends_updated(at: int) -> pl.Expr:
        two = (n == at + 2) & pl.col(f"w{at}").str.contains(_BARE_DATE) & pl.col(f"w{at + 1}").str.contains(_TIME_LIKE)
        return (last == at) & ((n == at + 1) | two)

    form = (
        pl.when(ends_updated(7)).then(pl.lit("variant"))
        .when(ends_updated(3)).then(pl.lit("short"))
        .when(last.is_null() & n.is_between(4, 8)).then(pl.lit("original"))
        .otherwise(pl.lit("unknown"))
    )  # fmt: skip
    table = table.with_columns(form.alias("form"))
    original = pl.col("form") == "original"
    text_values = [
        pl.when(original).then(pl.col(f"w{4 + i}")).otherwise(pl.col(f"w{3 + i}")) for i in range(len(FIELDS))
    ]
    numbers = [
        value.cast(pl.Float64, strict=False).alias(field) for field, value in zip(FIELDS, text_values, strict=True)
    ]
    missing = [value.is_null().alias(f"{field}_missing") for field, value in zip(FIELDS, text_values, strict=True)]
    mote = pl.when(original).then(pl.col("w3")).otherwise(pl.col("w2")).cast(pl.Int64, strict=False)
    table = table.with_columns(*numbers, *missing, mote.alias("mote_id"))

    has_values = pl.col("form") != "short"
    bad_value = pl.any_horizontal(pl.col(field).is_null() & ~pl.col(f"{field}_missing") for field in FIELDS)
    infinite = pl.any_horizontal(~pl.col(field).cast(pl.Float32).is_finite().fill_null(True) for field in FIELDS)
    reason = (
        pl.when(pl.col("text").str.contains(_CONTROL))
        .then(pl.lit(RejectReason.BINARY.value))
        .when(pl.col("w0") == "").then(pl.lit("empty"))
        .when((n <= 3) & last.is_null()).then(pl.lit(RejectReason.TRUNCATED.value))
        .when(~pl.col("stamped")).then(pl.lit(RejectReason.BAD_TIMESTAMP.value))
        .when(pl.col("form") == "unknown").then(pl.lit(RejectReason.UNKNOWN_FORM.value))
        .when(original & pl.col("w2").cast(pl.Int64, strict=False).is_null()).then(pl.lit(RejectReason.BAD_EPOCH.value))
        .when(~pl.col("mote_id").is_between(1, MAX_MOTE_ID).fill_null(False)).then(pl.lit(RejectReason.BAD_MOTE.value))
        .when(has_values & bad_value).then(pl.lit(RejectReason.BAD_VALUE.value))
        .when(has_values & infinite).then(pl.lit(RejectReason.NOT_FINITE.value))
        .when(~has_values).then(pl.lit("short"))
    )  # fmt: skip
    table = table.with_columns(reason.alias("reason"))
    readings = table.filter(pl.col("reason").is_null()).select(
        pl.col("mote_id").cast(pl.Int32),
        pl.col("timestamp") * 1000,
        *(pl.col(field).cast(pl.Float32) for field in FIELDS),
        pl.col("byte_offset").alias("source_offset"),
    )
    kinds = ("empty", "short")
    passed = {kind: int((table["reason"] == kind).sum()) for kind in kinds}
    refused = table.filter(pl.col("reason").is_not_null() & ~pl.col("reason").is_in(kinds))
    return readings, _without_newline(refused.select(REJECT_SCHEMA.names())), passed


def _utf8(lines: _Lines) -> Bools:
    """Lines that are UTF-8 (Polars refuses a whole column for one that is not)."""
    valid = np.ones(len(lines.starts), dtype=bool)
    for index in np.flatnonzero(np.logical_or.reduceat(lines.data > 127, lines.starts)).tolist():
        try:
            lines.data[lines.starts[index] : lines.ends[index]].tobytes().decode()
        except UnicodeDecodeError:
            valid[index] = False
    return valid


def _without_newline(rejects: pl.DataFrame) -> pl.DataFrame:
    lines = [line.removesuffix(b"\n") for line in rejects["line"].to_list()]
    return rejects.with_columns(pl.Series("line", lines, pl.Binary))


def _stamps_of(table: pl.DataFrame) -> tuple[Ints, Bools]:
    """`_timestamps` of the first two words of each row, by the same rules."""
    fits = (pl.col("w0").str.len_bytes() == 10) & pl.col("w1").str.len_bytes().is_between(8, 15)
    joined = pl.concat_str("w0", pl.lit(" "), "w1").str.pad_end(_STAMP_BYTES, " ")
    fits = (fits & (joined.str.len_bytes() == _STAMP_BYTES)).fill_null(False)
    columns = table.select(
        pl.when(fits).then(joined).otherwise(pl.lit(" " * _STAMP_BYTES)).alias("stamp"), fits.alias("fits")
    )
    window = np.frombuffer("".join(columns["stamp"].to_list()).encode(), dtype=np.uint8).reshape(-1, _STAMP_BYTES).T
    return _stamp_columns(np.ascontiguousarray(window), columns["fits"].to_numpy())
