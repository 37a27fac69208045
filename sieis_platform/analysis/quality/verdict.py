"""What evaluating the expectations of one check gives, and how it is kept: plain data.

Belongs here: the verdict and its row in the mart. Not here: what is expected (suites), who evaluates (evaluate).
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import polars as pl

Severity = Literal["error", "warning"]
Value = int | float | str | bool | None

#: Rows of one verdict that are shown and kept, of all that are unexpected.
SHOWN_ROWS: Final = 20

RESULTS_SCHEMA: Final = pl.Schema(
    {
        "date": pl.String(),
        "judged_at": pl.Int64(),
        "run_id": pl.String(),
        "asset": pl.String(),
        "check_name": pl.String(),
        "suite": pl.String(),
        "first_day": pl.String(),
        "last_day": pl.String(),
        "archive_version": pl.Int64(),
        "passed": pl.Boolean(),
        "severity": pl.String(),
        "text": pl.String(),
        "rows": pl.Int64(),
        "unexpected": pl.Int64(),
        "share": pl.Float64(),
        "unexpected_rows": pl.String(),
        "results": pl.String(),
    }
)
"""Columns of the mart `quality_results`, one row a run, check and window. `date` is the day and `judged_at` the moment
(Unix ns, UTC) it was judged; `unexpected_rows` and `results` (Great Expectations' own) are JSON."""
RESULTS_KEY: Final = ("date", "run_id", "asset", "check_name", "first_day", "last_day")


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check: whether it holds, how grave a breach is, one sentence, the numbers, what is unexpected.

    `severity` says whose fault a breach is. `error`: the platform's (rows of the wrong shape, a position stored twice):
    nothing derived may be built on it. `warning`: the building's, or one that passes: true, and to be shown.
    `rows` were judged, `unexpected` of them at most by one expectation, which is the `share` of those with a value.
    """

    check: str
    suite: str
    passed: bool
    severity: Severity
    text: str
    rows: int = 0
    unexpected: int = 0
    share: float = 0.0
    unexpected_rows: Sequence[Mapping[str, Value]] = ()
    results: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


@dataclass(frozen=True)
class Judged:
    """What verdicts are about (the asset, the days, the version of the archive), when and in which run."""

    asset: str
    first: dt.date
    last: dt.date
    archive_version: int | None
    run_id: str
    judged_at: int


def results_frame(judged: Judged, verdicts: Sequence[Verdict]) -> pl.DataFrame:
    """The verdicts as rows of the mart (RESULTS_SCHEMA)."""
    day = dt.datetime.fromtimestamp(judged.judged_at // 1_000_000_000, dt.UTC).date()
    rows = [
        {
            "date": day.isoformat(),
            "judged_at": judged.judged_at,
            "run_id": judged.run_id,
            "asset": judged.asset,
            "check_name": verdict.check,
            "suite": verdict.suite,
            "first_day": judged.first.isoformat(),
            "last_day": judged.last.isoformat(),
            "archive_version": judged.archive_version,
            "passed": verdict.passed,
            "severity": verdict.severity,
            "text": verdict.text,
            "rows": verdict.rows,
            "unexpected": verdict.unexpected,
            "share": verdict.share,
            "unexpected_rows": json.dumps(list(verdict.unexpected_rows)),
            "results": json.dumps(list(verdict.results)),
        }
        for verdict in verdicts
    ]
    return pl.DataFrame(rows, schema=RESULTS_SCHEMA)


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of a check over several windows: passed if all are, told by the worst."""
    worst = max(verdicts, key=lambda verdict: (not verdict.passed, verdict.share))
    if len(verdicts) == 1:
        return worst
    rows = [row for verdict in verdicts for row in verdict.unexpected_rows]
    return Verdict(
        check=worst.check,
        suite=worst.suite,
        passed=worst.passed,
        severity=worst.severity,
        text=worst.text,
        rows=sum(verdict.rows for verdict in verdicts),
        unexpected=sum(verdict.unexpected for verdict in verdicts),
        share=worst.share,
        unexpected_rows=rows[:SHOWN_ROWS],
    )
