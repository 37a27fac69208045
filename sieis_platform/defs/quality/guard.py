"""What nothing may be derived from, nor tidied away: steps that read the archive's rows judge them themselves first.

Belongs here: that judgement in a step. Not here: the expectations (analysis/quality), the checks that show their
results (checks): Dagster runs those only where they are selected, and lets them block only inside one run.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from sieis_platform.analysis.quality import tables
from sieis_platform.analysis.quality.verdict import Value
from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.partitions import Window
from sieis_platform.errors import FatalError
from sieis_platform.telemetry import silence

#: Days judged at once: 42 motes at 30 s are 3.8 M readings in 31 days, of which the keys and positions take 0.2 GB.
_BATCH_DAYS: Final = 31
#: Unexpected rows that the error names; the check shows more.
_NAMED: Final = 3


class UnsoundArchiveError(FatalError):
    """The archive holds what it must not, of the days that a step was about to read."""


def require_sound(archive: Snapshot, window: Window) -> None:
    """Judge the rows of a window as the blocking checks `schema` and `positions_unique` do, by the same suites.

    Keys and positions are read, nothing else: 0.3 s of processor time for a million rows.
    Raises: UnsoundArchiveError, ArchiveUnavailableError, ArchiveError, ExpectationError.
    """
    silence()
    from sieis_platform.analysis.quality.evaluate import evaluate  # noqa: PLC0415 - takes seconds to import

    for batch in window.batches(_BATCH_DAYS):
        schema, rows = archive.positions(batch)
        broken = [one for one in evaluate("archive_columns", tables.columns(rows, schema)) if not one.passed]
        if not broken:  # rows of another shape have no positions to look at
            broken = [one for one in evaluate("archive_positions", tables.positions(rows)) if not one.passed]
        if broken:
            told = "; ".join(f"{one.check}: {one.text}, {_rows(one.unexpected_rows)}" for one in broken)
            raise UnsoundArchiveError(
                f"the archive is unsound from {batch.first} to {batch.last} (version {archive.version}): {told}. "
                "Nothing was derived or changed; the runbook's `A check is broken` says how to put it right"
            )


def _rows(unexpected: Sequence[Mapping[str, Value]]) -> str:
    shown = [", ".join(f"{name} {value}" for name, value in row.items()) for row in unexpected[:_NAMED]]
    return " | ".join([*shown, *(["…"] if len(unexpected) > _NAMED else [])])
