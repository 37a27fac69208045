"""The inbox as a sensor and a job: a file put into the folder is loaded and moved to done/ or failed/.

Belongs here: when a file is taken. Not here: what becomes of it (sieis_platform.inbox).
"""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import dagster as dg
import msgspec
import polars as pl

from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.archive.assets import LINEAGE as ARCHIVE_LINEAGE
from sieis_platform.defs.archive.told import told_of
from sieis_platform.defs.cursors import decoded
from sieis_platform.defs.failures import dagster_failures
from sieis_platform.defs.metadata import OWNERS, columns, labels, preview_of
from sieis_platform.defs.operations.keys import INBOX
from sieis_platform.defs.resources import PlatformResource
from sieis_platform.defs.stream.assets import HOT_LINEAGE, HOT_STORE
from sieis_platform.defs.stream.hot import told_of_hot
from sieis_platform.inbox import Version, load_waiting, settled, waiting_files
from sieis_platform.settings import Settings
from sieis_platform.sources.stream import SourceError, SourceStream

_LOOK_SECONDS: Final = 30
#: Tag of a run: the name of the file that it loads.
FILE_TAG: Final = "sieis/inbox_file"
_VERSION: Final = "sieis/inbox_version"
#: Failed runs for one version of a file before it is left to a person (each has been alerted).
_ATTEMPTS: Final = 3
_HOURS: Final = 6  # the largest file so far, 2.3 M lines, takes a minute

_PREVIEW_BYTES: Final = 1_000  # a line of the reference data has 70
_SCHEMA: Final = pl.Schema({"line": pl.String()})


class LoadConfig(dg.Config):
    """Which file of the inbox to load."""

    file: str


@dg.op(
    pool="archive", description="Load one file of the inbox and move it to done/, or to failed/ with the reason beside."
)
def load_inbox_file(context: dg.OpExecutionContext, platform: PlatformResource, config: LoadConfig) -> None:
    """Load; a file without readings is no failure of the platform, but is told, and fails the run so that it alerts."""
    settings = platform.settings()
    with dagster_failures(), platform.hot() as hot:
        archive = platform.archive()
        outcome = load_waiting(settings, hot, archive, config.file)
        told = told_of(archive, archive.files()) if outcome.summary else {}
        shown = told_of_hot(hot) if outcome.summary else {}
    found: dict[str, Any] = {"file": config.file, "moved_to": dg.MetadataValue.path(str(outcome.moved_to))}
    if outcome.summary is None:
        context.log_event(dg.AssetObservation(INBOX, metadata={**found, "reason": outcome.reason}))
        raise dg.Failure(f"{config.file} was moved to {outcome.moved_to.parent}: {outcome.reason}", allow_retries=False)
    summary = outcome.summary
    loaded = {
        **found,
        "preview": _preview(outcome.moved_to),
        "dagster/row_count": summary.rows_loaded,
        "lines_read": summary.lines_read,
        "duplicates": summary.duplicates,
        "rejected": dg.MetadataValue.json(summary.rejected),
        "skipped": dg.MetadataValue.json(summary.skipped),
    }
    context.log_event(dg.AssetObservation(INBOX, metadata=loaded))
    if summary.rows_loaded:
        written = {"file": config.file, "rows_loaded": summary.rows_archive, **told, **ARCHIVE_LINEAGE}
        context.log_event(dg.AssetMaterialization(ARCHIVE, metadata=written))
        context.log_event(
            dg.AssetObservation(
                HOT_STORE,
                metadata={"file": config.file, "rows_loaded": summary.rows_hot, **shown, **HOT_LINEAGE},
            )
        )


def _preview(path: Path) -> dg.MetadataValue:
    """The first lines of a file that was loaded; where somebody has taken it away meanwhile, that."""
    try:
        with SourceStream(path) as file:
            lines = file.read(_PREVIEW_BYTES).decode(errors="replace").splitlines()
    except SourceError as error:
        return dg.MetadataValue.text(str(error))
    return preview_of(pl.DataFrame({"line": lines}, schema=_SCHEMA))


@dg.job(
    description="Load a file of the inbox into both stores (the sensor `inbox` starts it).",
    tags={"dagster/max_runtime": str(_HOURS * 3_600)},
)
def load_inbox() -> None:
    """The one step."""
    load_inbox_file()


@dg.sensor(
    name="inbox",
    job=load_inbox,
    minimum_interval_seconds=_LOOK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Loads files put into the inbox folder, once nobody writes them any more.",
)
def inbox(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult:
    """Request a load of every file that is as it was at the last look and that no run is about."""
    folder = platform.settings().inbox_location
    now = waiting_files(folder)
    before = decoded(context.cursor, dict[str, Version]) or {}
    requests: list[dg.RunRequest] = []
    left: list[str] = []
    for name, version in settled(now, before).items():
        runs = context.instance.get_runs(dg.RunsFilter(job_name=load_inbox.name, tags={FILE_TAG: name}))
        if any(not run.is_finished for run in runs):
            continue
        earlier = [run for run in runs if run.tags.get(_VERSION) == str(version)]
        if _failures(earlier) < _ATTEMPTS:
            requests.append(_request(name, version, earlier))
        else:
            left.append(name)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else _waiting(folder, len(now) - len(left), left),
        cursor=msgspec.json.encode(now).decode(),
    )


def _failures(runs: Sequence[dg.DagsterRun]) -> int:
    """How many of the `runs` (newest first) have failed since one succeeded.

    A file may come back as it was, size and time included (`rsync -t` every night): each load of it is a success.
    """
    since = takewhile(lambda run: run.status is not dg.DagsterRunStatus.SUCCESS, runs)
    return sum(run.status is dg.DagsterRunStatus.FAILURE for run in since)


def _request(name: str, version: Version, earlier: Sequence[dg.DagsterRun]) -> dg.RunRequest:
    """A run for this version of the file, after the `earlier` ones (newest first)."""
    # The newest, not how many: old runs are deleted, and a key that was used before is never run again.
    after = earlier[0].run_id if earlier else "first"
    return dg.RunRequest(
        run_key=f"{name}/{version}/{after}",
        run_config={"ops": {load_inbox_file.name: {"config": {"file": name}}}},
        tags={FILE_TAG: name, _VERSION: str(version)},
    )


def _waiting(folder: Path, waiting: int, left: Sequence[str]) -> str:
    """Why no run is requested."""
    if not waiting and not left:
        return f"{folder} is empty"
    said = [f"{waiting} file(s) wait in {folder}"] if waiting else []
    if left:
        said.append(f"{', '.join(left)} failed {_ATTEMPTS} times: see the runs, mend what is wrong, then `touch` it")
    return "; ".join(said)


def definitions(settings: Settings) -> dg.Definitions:
    """The folder as an asset, the sensor and the job."""
    return dg.Definitions(
        assets=[
            dg.AssetSpec(
                INBOX,
                description="Files of readings that someone put into the inbox folder, loaded without the stream.",
                group_name="operations",
                kinds={"file"},
                owners=OWNERS,
                tags=labels("raw", "folder"),
                metadata={"folder": dg.MetadataValue.path(str(settings.inbox_location)), **columns(_SCHEMA)},
            )
        ],
        jobs=[load_inbox],
        sensors=[inbox],
    )
