"""What it takes to fill history by Dagster's asset `historical_readings`: 35 days in one run, and the same again.

Belongs here: this workload. Not here: `sieis load` (services_stream, stores), what is derived of the days (rollups).
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import dagster as dg
from dagster._core.instance.ref import InstanceRef  # as defs/operations/materialize.py

from benchmarks.common.results import Result, result, seconds
from sieis_platform.defs.archive.historical import HISTORY
from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.home import overrides, prepare_home
from sieis_platform.defs.partitions import Window
from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings
from sieis_platform.sources.generator import generate
from sieis_platform.sources.intel_lab import profile
from sieis_platform.stores.open import open_archive
from sieis_platform.telemetry import silence
from sieis_platform.timeline import TimelineFile

#: The real file (its 35 days are what the floor is promised for), where it lies beside the checkout.
_REAL: Final = Path(__file__).parents[2] / "shared" / "data" / "intel_lab" / "data.txt.gz"
_DAYS: Final = 35
#: So many of the generator's motes write 2.3 M lines in these days, as many as the published set has; the file above
#: may be a part of it.
_MOTES: Final = 35
#: A person waits for it in the UI.
_MOST_SECONDS: Final = 60.0


class BackfillFailedError(FatalError):
    """The run that was to be measured did not do what it is measured for."""


def run() -> Iterator[Result]:
    """Every measurement: {"name", "value", "unit", "workload", "floor"}; a floor of None is no promise."""
    silence()
    with tempfile.TemporaryDirectory(prefix="sieis-bench-") as folder:
        if _REAL.exists():
            yield from _filled("the real file", _REAL, Path(folder) / "real")
        made = Path(folder) / "made.txt.gz"
        generate(made, motes=_MOTES, days=_DAYS)
        yield from _filled(f"{_MOTES} made-up motes", made, Path(folder) / "made")


def _filled(name: str, file: Path, data_dir: Path) -> Iterator[Result]:
    """All days of history from `file`, by one run; then the same run again, which finds nothing missing."""
    settings = Settings(data_dir=data_dir, data_file=file)  # pyright: ignore[reportCallIssue] - every field has a default
    facts = profile(file)
    history = TimelineFile.of(settings).fix(settings, facts.first_day, facts.days).history_days
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.from_ref(
        InstanceRef.from_dir(str(prepare_home(settings)), overrides=overrides(settings))
    ) as instance:

        def fill() -> None:
            done = job.execute_in_process(
                instance=instance,
                asset_selection=[HISTORY],
                tags=Window(history[0], history[-1]).tags(),
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                raise_on_error=False,
            )
            if not done.success or len(instance.get_materialized_partitions(HISTORY)) != len(history):
                raise BackfillFailedError(f"the backfill of {name} failed: {done.run_id}")

        first = seconds(fill)
        archive = open_archive(settings)
        rows = sum(archive.rows_by_day(archive.files()).values())
        workload = (
            f"{facts.lines:,} lines, {rows:,} readings, {len(history)} days in one run into archive and hot store "
            f"({settings.hot_retention_days} days of it)"
        )
        yield result(f"backfill of {name}", first, "s", workload, floor=_MOST_SECONDS)
        yield result(f"backfill of {name}, again", seconds(fill), "s", f"{workload}: nothing is missing")
