"""The expectation suites: what is expected of each table, how much of it may be otherwise, and how grave a breach is.

Belongs here: expectations and their limits. Not here: how the tables are made (tables), who evaluates (evaluate).

Every expectation names the check it belongs to and what a breach is, in `meta`. Critical is what blames the platform.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

import great_expectations as gx
import numpy as np
from great_expectations.expectations.core.expect_column_pair_values_to_be_equal import ExpectColumnPairValuesToBeEqual
from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
from great_expectations.expectations.core.expect_column_values_to_not_be_null import ExpectColumnValuesToNotBeNull
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from sieis_platform.reading import FIELDS, QUANTITIES
from sieis_platform.stores.hot import SUMS

# The quality targets of the platform: below 5% nulls, below 1% duplicates, below 0.1% parse errors. Of a working mote
# 1% impossible values is already a battery at its end; 90% of the readings leaves room for radio loss, of which the lab
# had far more.
MAX_OUT_OF_RANGE: Final = 0.01
MAX_NULLS: Final = 0.05
MAX_REPEATED: Final = 0.01
MAX_DEAD: Final = 0.001
MIN_COMPLETENESS: Final = 0.90
#: A flush of the archive is at most ten minutes old by default; three of them may be missed. The hot store takes what
#: comes at once: ten minutes are twenty readings of every mote.
MAX_ARCHIVE_LAG_MINUTES: Final = 30
MAX_HOT_LAG_MINUTES: Final = 10

#: Sums over a day in two engines differ in the order of additions: by less than 1e-12 of what they add up.
MAX_SUM_DIFFERENCE: Final = 1e-9

_WARNING: Final = FailureSeverity.WARNING
_CRITICAL: Final = FailureSeverity.CRITICAL


def _at_most(share: float) -> float:
    """`mostly` of an expectation that at most `share` of the rows may break."""
    return 1 - share


def _below(share: float) -> float:
    """`mostly` of an expectation that less than `share` of the rows may break."""
    return math.nextafter(1 - share, 1)


def _meta(check: str, breach: str) -> dict[str, str]:
    return {"check": check, "breach": breach}


def _float32(limit: float) -> float:
    """A limit as the readings hold it: 1.8 V as float32 is a little less than 1.8."""
    return float(np.float32(limit))


def archive_columns() -> list[Expectation]:
    """Of `tables.columns`: every column of a reading and its lineage has its type, no key is null."""
    return [
        ExpectColumnPairValuesToBeEqual(
            column_A="found", column_B="expected", severity=_CRITICAL, meta=_meta("schema", "columns of another type")
        ),
        ExpectColumnValuesToBeBetween(
            column="null_keys", max_value=0, severity=_CRITICAL, meta=_meta("schema", "key columns with nulls")
        ),
    ]


def archive_positions() -> list[Expectation]:
    """Of `tables.positions`: no position twice."""
    return [
        ExpectColumnValuesToBeBetween(
            column="repeated",
            max_value=0,
            severity=_CRITICAL,
            meta=_meta("positions_unique", "days of a mote with rows that share a position"),
        )
    ]


def archive_readings() -> list[Expectation]:
    """Of `tables.readings`: few nulls, few impossible values."""
    expectations: list[Expectation] = []
    for name in FIELDS:
        quantity = QUANTITIES[name]
        expectations += [
            ExpectColumnValuesToBeBetween(
                column=name,
                min_value=_float32(quantity.low),
                max_value=_float32(quantity.high),
                mostly=_at_most(MAX_OUT_OF_RANGE),
                severity=_WARNING,
                meta=_meta("ranges", f"impossible {name}"),
            ),
            ExpectColumnValuesToNotBeNull(
                column=name, mostly=_below(MAX_NULLS), severity=_WARNING, meta=_meta("nulls", f"no {name}")
            ),
        ]
    return expectations


def archive_days() -> list[Expectation]:
    """Of `tables.days`: few keys twice on any day, and readings until shortly before its end, or now."""
    return [
        ExpectColumnValuesToBeBetween(
            column="repeated_share",
            max_value=MAX_REPEATED,
            strict_max=True,
            severity=_WARNING,
            meta=_meta("keys_repeated", f"days on which {MAX_REPEATED:.0%} of the rows repeat a mote and timestamp"),
        ),
        ExpectColumnValuesToBeBetween(
            column="lag_minutes",
            max_value=MAX_ARCHIVE_LAG_MINUTES,
            severity=_WARNING,
            meta=_meta("freshness", f"days whose readings end more than {MAX_ARCHIVE_LAG_MINUTES} minutes early"),
        ),
    ]


def archive_mote_days() -> list[Expectation]:
    """Of `tables.mote_days`: as many readings as expected."""
    return [
        ExpectColumnValuesToBeBetween(
            column="share",
            min_value=MIN_COMPLETENESS,
            mostly=MIN_COMPLETENESS,
            severity=_WARNING,
            meta=_meta("completeness", f"days of a mote with less than {MIN_COMPLETENESS:.0%} of its readings"),
        )
    ]


def archive_deliveries() -> list[Expectation]:
    """Of `tables.deliveries`: few records without meaning."""
    return [
        ExpectColumnValuesToBeBetween(
            column="dead_share",
            max_value=MAX_DEAD,
            strict_max=True,
            severity=_WARNING,
            meta=_meta("parse_errors", f"files or days of the stream with {MAX_DEAD:.1%} records without meaning"),
        )
    ]


def hot_store_mote_days() -> list[Expectation]:
    """Of `tables.compared`: hot store and archive hold the same readings."""
    return [
        ExpectColumnPairValuesToBeEqual(
            column_A="hot_readings",
            column_B="archive_readings",
            severity=_WARNING,
            meta=_meta("equals_archive", "days of a mote with another number of readings"),
        ),
        *(
            ExpectColumnValuesToBeBetween(
                column=f"{name}_difference",
                max_value=MAX_SUM_DIFFERENCE,
                severity=_WARNING,
                meta=_meta("equals_archive", f"days of a mote with another sum of {name.removesuffix('_sum')}"),
            )
            for name in SUMS
        ),
    ]


def hot_store_age() -> list[Expectation]:
    """Of `tables.age`: a reading that arrived shortly before the end of the days, or now."""
    return [
        ExpectColumnValuesToBeBetween(
            column="lag_minutes",
            max_value=MAX_HOT_LAG_MINUTES,
            severity=_WARNING,
            meta=_meta("freshness", f"no reading in the last {MAX_HOT_LAG_MINUTES} minutes"),
        )
    ]


def aggregates_days() -> list[Expectation]:
    """Of `tables.counted`: every archived reading is counted once for the building and once for its mote."""
    return [
        ExpectColumnPairValuesToBeEqual(
            column_A=name,
            column_B="archived",
            ignore_row_if="either_value_is_missing",  # the building of a day that is no longer whole
            severity=_CRITICAL,
            meta=_meta("counts_equal_archive", f"days on which the count of {text} differs from the archive"),
        )
        for name, text in (("building", "the building"), ("motes", "all motes"))
    ]


SUITES: Final[Mapping[str, Callable[[], list[Expectation]]]] = {
    "archive_columns": archive_columns,
    "archive_positions": archive_positions,
    "archive_readings": archive_readings,
    "archive_days": archive_days,
    "archive_mote_days": archive_mote_days,
    "archive_deliveries": archive_deliveries,
    "hot_store_mote_days": hot_store_mote_days,
    "hot_store_age": hot_store_age,
    "aggregates_days": aggregates_days,
}
"""The suites by name. Names have no dots: Great Expectations takes them for folders."""


def suite(name: str) -> gx.ExpectationSuite:
    """The suite of that name, made anew."""
    return gx.ExpectationSuite(name=name, expectations=list(SUITES[name]()))
