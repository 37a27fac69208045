"""What the checks do alike: evaluate a suite, keep the verdict in the marts, show it as the check's result.

Belongs here: the way from verdicts to the mart `quality_results` and to Dagster. Not here: what is checked (checks).
"""

import time
from collections.abc import Iterator, Sequence
from typing import Final

import dagster as dg
import polars as pl

from sieis_platform.analysis.quality.verdict import RESULTS_KEY, Judged, Verdict, combined, results_frame
from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.metadata import kept, lineage, markdown
from sieis_platform.defs.partitions import Window
from sieis_platform.defs.stream.assets import HOT_STORE
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.marts import Marts
from sieis_platform.telemetry import silence

RESULTS: Final = dg.AssetKey("quality_results")
#: Every reading is judged by all of its columns.
RESULTS_LINEAGE: Final = lineage(
    {
        column: [(store, name) for store in (ARCHIVE, HOT_STORE) for name in READING_SCHEMA.names()]
        for column in ("passed", "rows", "unexpected", "share", "unexpected_rows")
    }
)

#: Days judged at once. 42 motes at 30 s are 3.8 M readings in 31 days: about 0.6 GB while they are evaluated.
BATCH_DAYS: Final = 31

_SEVERITIES: Final = {"error": dg.AssetCheckSeverity.ERROR, "warning": dg.AssetCheckSeverity.WARN}


class Judgement:
    """The verdicts of one run about one asset."""

    def __init__(self, asset: dg.AssetKey, window: Window, archive_version: int | None, run_id: str) -> None:
        self.asset, self.window, self.archive_version = asset, window, archive_version
        self._run_id, self._judged_at = run_id, time.time_ns()
        self._verdicts: list[tuple[Window, Verdict]] = []

    def evaluate(self, suite: str, table: pl.DataFrame, window: Window | None = None) -> list[Verdict]:
        """Evaluate a suite on a table of some days (None: all of them). Raises: ExpectationError."""
        silence()
        from sieis_platform.analysis.quality.evaluate import evaluate  # noqa: PLC0415 - takes seconds to import

        verdicts = evaluate(suite, table)
        self.add(verdicts, window)
        return verdicts

    def add(self, verdicts: Sequence[Verdict], window: Window | None = None) -> None:
        """Take in verdicts about some days (None: all of them)."""
        self._verdicts += [(window or self.window, verdict) for verdict in verdicts]

    def keep(self, marts: Marts) -> dg.AssetObservation:
        """Write the verdicts to the mart and say so; again, in the same run, changes nothing.

        Raises: MartUnavailableError.
        """
        frames = [
            results_frame(
                Judged(
                    asset=self.asset.to_user_string(),
                    first=window.first,
                    last=window.last,
                    archive_version=self.archive_version,
                    run_id=self._run_id,
                    judged_at=self._judged_at,
                ),
                [verdict],
            )
            for window, verdict in self._verdicts
        ]
        name, rows = RESULTS.to_user_string(), pl.concat(frames)
        version = marts.merge(name, rows, RESULTS_KEY)
        shown = rows.select("judged_at", "asset", "check_name", "passed", "severity", "text")
        times = (self._judged_at, self._judged_at)
        told = kept(marts.info(name).rows, shown, mart_version=version, times=times)
        return dg.AssetObservation(RESULTS, metadata={**told, **RESULTS_LINEAGE, "rows_written": rows.height})

    def results(self, settings: Settings, **metadata: dg.MetadataValue) -> Iterator[dg.AssetCheckResult]:
        """The result of each check, over all the days, with a link to the Data Docs of this installation."""
        docs = dg.MetadataValue.url(settings.data_docs_url)
        by_check: dict[str, list[Verdict]] = {}
        for _, verdict in self._verdicts:
            by_check.setdefault(verdict.check, []).append(verdict)
        for check, verdicts in by_check.items():
            verdict = combined(verdicts)
            yield dg.AssetCheckResult(
                asset_key=self.asset,
                check_name=check,
                passed=verdict.passed,
                severity=_SEVERITIES[verdict.severity],
                description=verdict.text,
                metadata={**self._about(), **metadata, **_numbers(verdict), "data_docs": docs},
            )

    def _about(self) -> dict[str, dg.MetadataValue]:
        about: dict[str, dg.MetadataValue] = {
            "first_day": dg.MetadataValue.text(self.window.first.isoformat()),
            "last_day": dg.MetadataValue.text(self.window.last.isoformat()),
        }
        if self.archive_version is not None:
            about["archive_version"] = dg.MetadataValue.int(self.archive_version)
        return about


def _numbers(verdict: Verdict) -> dict[str, dg.MetadataValue]:
    numbers: dict[str, dg.MetadataValue] = {
        "suite": dg.MetadataValue.text(verdict.suite),
        "rows": dg.MetadataValue.int(verdict.rows),
        "unexpected": dg.MetadataValue.int(verdict.unexpected),
        "share": dg.MetadataValue.float(verdict.share),
    }
    if verdict.unexpected_rows:
        numbers["unexpected_rows"] = dg.MetadataValue.md(markdown(pl.DataFrame(list(verdict.unexpected_rows))))
    return numbers
