"""The inbox as a sensor and a job: a file put into the folder is loaded and moved to done/ or failed/.

Belongs here: when a file is taken. Not here: what becomes of it (sieis_platform.inbox).
"""

from pathlib import Path
from typing import Any, Final

import dagster as dg
import msgspec
import polars as pl

from sieis_platform.defs.archive.assets import ARCHIVE
from sieis_platform.defs.archive.assets import LINEAGE as ARCHIVE_LINEAGE
from sieis_platform.defs.archive.told import told_of
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
#: Runs for one version of a file before it is left to a person (each failed one has been alerted).
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
    before = {name: Version(*version) for name, version in _seen(context.cursor).items()}
    requests = [
        request
        for name, version in settled(now, before).items()
        if (request := _request(context.instance, name, version)) is not None
    ]
    waiting = len(now) - len(requests)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else f"{waiting} file(s) wait in {folder}" if waiting else f"{folder} is empty",
        cursor=msgspec.json.encode(now).decode(),
    )


def _seen(cursor: str | None) -> dict[str, tuple[int, int]]:
    return msgspec.json.decode(cursor, type=dict[str, tuple[int, int]]) if cursor else {}


def _request(instance: dg.DagsterInstance, name: str, version: Version) -> dg.RunRequest | None:
    """A run for this version of the file, unless one is under way or enough have failed."""
    tags = {FILE_TAG: name, _VERSION: str(version)}
    runs = instance.get_runs(dg.RunsFilter(job_name=load_inbox.name, tags={FILE_TAG: name}))
    earlier = [run for run in runs if run.tags.get(_VERSION) == str(version)]
    if any(not run.is_finished for run in runs) or len(earlier) >= _ATTEMPTS:
        return None
    return dg.RunRequest(
        run_key=f"{name}/{version}/{len(earlier)}",
        run_config={"ops": {load_inbox_file.name: {"config": {"file": name}}}},
        tags=tags,
    )


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
