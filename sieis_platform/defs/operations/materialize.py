"""Running the platform's jobs over a range of days from a program, on the installation's own Dagster instance.

Belongs here: the run and its summary. Not here: the jobs (jobs.py), how a summary is printed (sieis_cli).
"""

import datetime as dt
import time
from dataclasses import dataclass, field
from typing import Final

import dagster as dg
from dagster._core.instance.ref import InstanceRef  # the one way to give an instance a secret that no file holds

from sieis_platform.defs.archive.snapshot import Snapshot
from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.failures import step_failure
from sieis_platform.defs.operations.home import overrides, prepare_home
from sieis_platform.defs.operations.jobs import observe_archive, refresh, refresh_and_train
from sieis_platform.defs.partitions import Window, daily_partitions, reach_back, today
from sieis_platform.defs.quality.assets import build_data_docs
from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_archive
from sieis_platform.telemetry import silence

#: Dagster's own log of a run is kept with the run; on the terminal only what went wrong is of use.
_QUIET: Final = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class NothingToMaterializeError(FatalError):
    """None of the days asked for has a partition and readings."""


@dataclass(frozen=True)
class MaterializeSummary:
    """What one call did. A partition of one asset counts once; a failed check is one of severity error.

    `failures` names every failed check and step with its reason; it is empty exactly if all succeeded.
    """

    first: dt.date
    last: dt.date
    partitions_materialized: int
    checks_passed: int
    checks_warned: int
    checks_failed: int
    seconds: float
    warnings: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def materialize(
    settings: Settings, first: dt.date | None, last: dt.date | None, *, train: bool = True
) -> MaterializeSummary:
    """Observe the archive, then aggregate, check, train and score the days `first` to `last`, then make the Data Docs.

    Without `train` the model in use scores; where there is none yet, the days are aggregated only. An open bound
    reaches to the first or last day that has readings. The runs are kept in the Dagster instance of the data directory,
    where the UI shows them. A failed check or step is told in the summary, not raised.

    Raises: NothingToMaterializeError, ArchiveError (no archive yet), ArchiveUnavailableError.
    """
    silence()
    began = time.monotonic()
    window = _window(settings, first, last)
    definitions = build_definitions(settings)
    with dg.DagsterInstance.from_ref(
        InstanceRef.from_dir(str(prepare_home(settings)), overrides=overrides(settings))
    ) as instance:
        results = [
            definitions.resolve_job_def(observe_archive.name).execute_in_process(
                instance=instance, raise_on_error=False, run_config=_QUIET
            ),
            definitions.resolve_job_def((refresh_and_train if train else refresh).name).execute_in_process(
                instance=instance,
                raise_on_error=False,
                run_config=_QUIET,
                tags=window.tags(),
            ),
            definitions.resolve_job_def(build_data_docs.name).execute_in_process(
                instance=instance, raise_on_error=False, run_config=_QUIET
            ),
        ]
    return _summary(window, results, time.monotonic() - began)


def _window(settings: Settings, first: dt.date | None, last: dt.date | None) -> Window:
    days = list(Snapshot.of(open_archive(settings)).rows_by_day())
    reach_back(settings, days)
    if not days:
        raise NothingToMaterializeError("the archive has no readings; run `sieis load FILE` or `sieis consume` first")
    begin = daily_partitions(settings).start.date()
    window = Window(max(first or days[0], begin), min(last or days[-1], today()))
    if window.days < 1:
        raise NothingToMaterializeError(
            f"no partition between {first or days[0]} and {last or days[-1]}: they reach from {begin} to {today()}"
        )
    return window


def _summary(window: Window, results: list[dg.ExecuteInProcessResult], seconds: float) -> MaterializeSummary:
    partitions = passed = 0
    warnings: list[str] = []
    failed: list[str] = []
    steps: list[str] = []
    for result in results:
        for event in result.all_events:
            if event.is_step_materialization and event.partition is not None:
                partitions += 1
            elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                check = event.asset_check_evaluation_data
                text = f"{check.asset_key.to_user_string()}: {check.check_name}: {check.description or 'failed'}"
                if check.passed:
                    passed += 1
                elif check.severity is dg.AssetCheckSeverity.WARN:
                    warnings.append(text)
                else:
                    failed.append(text)
            elif event.is_step_failure:
                steps.append(f"step {event.step_key}: {step_failure(event)}")
        if not result.success and not (failed or steps):
            steps.append(f"run {result.run_id} failed; `sieis up` shows it in the Dagster UI")
    return MaterializeSummary(
        first=window.first,
        last=window.last,
        partitions_materialized=partitions,
        checks_passed=passed,
        checks_warned=len(warnings),
        checks_failed=len(failed),
        seconds=seconds,
        warnings=warnings,
        failures=[*failed, *steps],
    )
