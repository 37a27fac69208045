"""The data set the simulator replays: which file, its days, and the timeline fixed by it.

Belongs here: the choice of the file, its fit with the timeline. Not here: parsing, generating (sieis_platform.sources).
"""

import datetime as dt
from pathlib import Path

import structlog

from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings
from sieis_platform.sources.chosen import recall
from sieis_platform.sources.days import DatasetDays
from sieis_platform.sources.download import readings_path
from sieis_platform.sources.generator import generate
from sieis_platform.timeline import Timeline, TimelineFile

log = structlog.get_logger(__name__)


class DatasetMismatchError(FatalError):
    """The timeline of this data directory was fixed for another data set."""


def data_file(settings: Settings, given: Path | None = None) -> Path:
    """The readings file: `given`, the setting, the file loaded last, the downloaded one, or one generated now and kept.

    A file that was asked for is not looked at here: reading it tells. Raises: GeneratorError.
    """
    asked = given or settings.data_file
    if asked is not None:
        return asked
    downloaded = readings_path(settings)
    return recall(settings) or (downloaded if downloaded.exists() else _generated(settings))


def open_dataset(settings: Settings, path: Path, today: dt.date | None = None) -> tuple[DatasetDays, Timeline]:
    """The days of `path` and the timeline of the data directory, fixed now if this is its first use.

    Raises: SourceError, TimelineError, DatasetMismatchError.
    """
    days = DatasetDays.open(path, settings.data_dir / "cache")
    profile = days.profile
    timeline = TimelineFile.of(settings).fix(settings, profile.first_day, profile.days, today)
    if (timeline.first_day, timeline.days) != (profile.first_day, profile.days):
        raise DatasetMismatchError(
            f"{path} spans {profile.first_day} to {profile.last_day}, but {settings.data_dir} was set up for readings "
            f"from {timeline.first_day} to {timeline.last_day}; give that file, or set SIEIS_DATA_DIR to a new folder"
        )
    return days, timeline


def _generated(settings: Settings) -> Path:
    path = settings.data_dir / "data" / "generated.txt.gz"
    if not path.exists():
        log.info("no readings file given or downloaded: generating one", path=str(path), motes=settings.simulator_motes)
        generate(path, path.with_name("generated.labels.csv"), motes=settings.simulator_motes)
    return path
