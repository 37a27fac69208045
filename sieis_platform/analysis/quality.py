"""Expectations about readings, each a pure function from a frame to a verdict with a severity.

Belongs here: what is expected and how grave its breach is. Not here: where results are shown (defs/quality).

Severity says whose fault a breach is. `error`: the platform's (rows of the wrong shape, one position stored twice):
nothing derived may be built on it. `warning`: the building's (impossible values, silent motes): true, and to be shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import polars as pl

from sieis_platform.reading import (
    EXPECTED_INTERVAL_SECONDS,
    FIELDS,
    KEY,
    LINEAGE_SCHEMA,
    READING_SCHEMA,
    any_out_of_range,
)

Severity = Literal["error", "warning"]
Value = int | float | str | bool

POSITION: Final = ("source", "source_partition", "source_offset")
"""Where a row came from; one position is stored at most once (DESIGN 5)."""

# DESIGN 3 and the quality targets of the platform: below 5% nulls, below 1% duplicates. Of a working mote 1% impossible
# values is already a battery at its end; 90% of the readings leaves room for radio loss, of which the lab had far more.
MAX_OUT_OF_RANGE: Final = 0.01
MAX_NULLS: Final = 0.05
MAX_REPEATED: Final = 0.01
MIN_COMPLETENESS: Final = 0.90

_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True)
class Verdict:
    """The outcome of one expectation: whether it holds, how grave a breach is, one sentence, and the numbers."""

    name: str
    passed: bool
    severity: Severity
    text: str
    numbers: Mapping[str, Value] = field(default_factory=dict)


def schema(readings: pl.DataFrame) -> Verdict:
    """Every column of a reading and its lineage is there with its type, and no key is null."""
    expected = {**READING_SCHEMA, **LINEAGE_SCHEMA}
    wrong = [
        f"{name} is {readings.schema.get(name, 'missing')}, not {kind}"
        for name, kind in expected.items()
        if readings.schema.get(name) != kind
    ]
    keyless = sum(readings[name].null_count() for name in KEY if name in readings.columns)
    if keyless:
        wrong.append(f"{keyless:,} null keys")
    text = "; ".join(wrong) if wrong else "columns, types and keys are as agreed"
    return Verdict("schema", not wrong, "error", text, {"rows": readings.height, "null_keys": keyless})


def positions_unique(readings: pl.DataFrame) -> Verdict:
    """No position (source, partition, offset) is stored twice: each time it is, a delivery was repeated.

    Rows without source and offset (written by hand) are left out.
    """
    placed = readings.select(POSITION).drop_nulls(["source", "source_offset"])
    repeated = placed.height - placed.n_unique() if placed.height else 0
    text = f"{repeated:,} rows repeat a position" if repeated else f"{placed.height:,} positions, each stored once"
    return Verdict("positions_unique", not repeated, "error", text, {"rows": placed.height, "repeated": repeated})


def keys_repeated(readings: pl.DataFrame) -> Verdict:
    """Fewer than MAX_REPEATED of the rows repeat a key (mote_id, timestamp).

    A repeated key is a sensor or producer that sent twice. All of them are kept, the last wins in every read.
    """
    repeated = readings.height - readings.select(KEY).n_unique() if readings.height else 0
    share = _share(repeated, readings.height)
    return Verdict(
        "keys_repeated",
        share < MAX_REPEATED,
        "warning",
        f"{repeated:,} of {readings.height:,} rows ({share:.2%}) repeat a mote and timestamp",
        {"rows": readings.height, "repeated": repeated, "share": share},
    )


def ranges(readings: pl.DataFrame) -> Verdict:
    """At most MAX_OUT_OF_RANGE of the readings hold a physically impossible value."""
    impossible = int(readings.select(any_out_of_range().sum()).item() or 0)
    share = _share(impossible, readings.height)
    return Verdict(
        "ranges",
        share <= MAX_OUT_OF_RANGE,
        "warning",
        f"{impossible:,} of {readings.height:,} readings ({share:.1%}) hold a physically impossible value",
        {"rows": readings.height, "out_of_range": impossible, "share": share, "limit": MAX_OUT_OF_RANGE},
    )


def nulls(readings: pl.DataFrame) -> Verdict:
    """In every field fewer than MAX_NULLS of the values are null."""
    shares = {name: _share(readings[name].null_count(), readings.height) for name in FIELDS}
    worst = max(shares, key=lambda name: shares[name])
    return Verdict(
        "nulls",
        shares[worst] < MAX_NULLS,
        "warning",
        f"most nulls: {worst}, {shares[worst]:.2%} of {readings.height:,} readings",
        {"rows": readings.height, "limit": MAX_NULLS, **{f"{name}_nulls": share for name, share in shares.items()}},
    )


def completeness(readings: pl.DataFrame, start_ns: int, end_ns: int) -> Verdict:
    """At least MIN_COMPLETENESS of the readings a mote should send (one every EXPECTED_INTERVAL_SECONDS) are there.

    Expected are, for each mote seen between start_ns (inclusive) and end_ns (exclusive, not later than now), the
    readings of that whole time: a mote that fell silent counts as missing.
    """
    motes = readings["mote_id"].n_unique() if readings.height else 0
    seconds = max(0, end_ns - start_ns) // _SECOND_NS
    expected = motes * (seconds // EXPECTED_INTERVAL_SECONDS)
    keys = readings.select(KEY).n_unique() if readings.height else 0
    share = _share(keys, expected) if expected else 0.0
    return Verdict(
        "completeness",
        share >= MIN_COMPLETENESS,
        "warning",
        f"{keys:,} of {expected:,} expected readings ({share:.1%}) of {motes} motes in {seconds / 86_400:.1f} days",
        {"readings": keys, "expected": expected, "share": share, "motes": motes, "limit": MIN_COMPLETENESS},
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
