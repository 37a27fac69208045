"""Compares what `make demo` did on the shared Intel Lab file with facts computed independently (DuckDB over the file).

`python -m tools.check_demo REPORT` with SIEIS_DATA_DIR, and for a demo on servers `.env`, as the demo had them; exit 1
where a number differs.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console

from sieis_cli.context import load_settings
from sieis_cli.demo_servers import own_places
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_archive

# shared/data/README.md: facts of intel_lab/data.txt.gz.
ROWS: Final = 280_828
ROWS_BY_MOTE: Final = {1: 43_047, 4: 43_793, 6: 35_666, 22: 60_164, 23: 62_409, 33: 35_749}
DAYS: Final = 35
STUCK_AT_122: Final = 43_927
NEGATIVE_HUMIDITY: Final = 42_321
LOW_VOLTAGE: Final = 54_933
MAXIMUM_LIGHT: Final = 1847.36

Check = tuple[str, Any, Any]


def report_checks(report: Mapping[str, Any]) -> Iterator[Check]:
    """Name, found and expected of every number of the report that is known beforehand."""
    yield "lines_read", report["lines_read"], ROWS
    yield "rows_loaded", report["rows_loaded"], ROWS
    yield "rejected", report["rejected"], 0
    yield "stream_produced > 0", report["stream_produced"] > 0, True
    accounted = report["stream_archived"] + report["duplicates"] + report["dead_letters"]
    yield "stream: archived + duplicates + dead letters", accounted, report["stream_produced"]
    yield "stream_hot", report["stream_hot"], report["stream_archived"]
    yield "rows_archive", report["rows_archive"], ROWS + report["stream_archived"]
    yield "rows_hot > 0", report["rows_hot"] > 0, True
    yield "checks_failed", report["checks_failed"], 0
    yield "checks_passed > 0", report["checks_passed"] > 0, True
    yield "partitions_materialized > 0", report["partitions_materialized"] > 0, True


def archive_checks(rows: pl.LazyFrame) -> Iterator[Check]:
    """The same of the history rows in the archive."""
    history = rows.filter(pl.col("source").str.starts_with("history:")).collect()
    yield "history rows in the archive", history.height, ROWS
    yield "distinct (mote, timestamp)", history.select("mote_id", "timestamp").n_unique(), ROWS
    found = dict(history.group_by("mote_id").len().sort("mote_id").iter_rows())
    yield "rows by mote", found, ROWS_BY_MOTE
    yield "days", history.select("year", "month", "day").n_unique(), DAYS
    yield (
        "rows at 122.153 °C",
        history.filter(pl.col("temperature") == pl.lit(122.153, pl.Float32)).height,
        STUCK_AT_122,
    )
    yield "rows of humidity below 0", history.filter(pl.col("humidity") < 0).height, NEGATIVE_HUMIDITY
    low = history.filter(pl.col("voltage") < pl.lit(2.3, pl.Float32)).height
    yield "rows below 2.3 V", low, LOW_VOLTAGE
    yield "maximum light", round(float(history["light"].max() or 0), 2), MAXIMUM_LIGHT  # pyright: ignore[reportArgumentType]


def _demos(settings: Settings, profile: str) -> Settings:
    """Where the demo kept what it archived."""
    if profile == "services":
        return settings.changed(**own_places(settings))
    return settings.changed(profile="embedded", archive_uri="", archive_cold_uri="", marts_uri="")


def main() -> None:
    """Print every number that differs, and at last `N passed, N failed`."""
    console = Console(highlight=False)
    report = json.loads(Path(sys.argv[1]).read_text())
    archive = open_archive(_demos(load_settings(), report["profile"]))
    results = [*report_checks(report), *archive_checks(archive.scan_all())]
    failed = [(name, found, expected) for name, found, expected in results if found != expected]
    for name, found, expected in failed:
        console.print(f"{name}: found {found}, expected {expected}")
    console.print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
