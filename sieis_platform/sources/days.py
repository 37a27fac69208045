"""A data set day by day: readings of one date in time order, from a file that is ordered by mote.

Belongs here: the cache of days on disk. Not here: which day is shown when (timeline.py), emitting (the simulator).
"""

import datetime as dt
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import msgspec
import polars as pl

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.sources.profiles import Profile, profiled_batches
from sieis_platform.sources.stream import SourceError, fingerprint

_DAY_NS: Final = 86_400 * 10**9
_EPOCH: Final = dt.date(1970, 1, 1)
_MANIFEST: Final = "profile.json"

#: Layout of the cache folder; a change of what is written there takes a new number, and old folders are not read.
_LAYOUT: Final = "days-1"

#: Readings held in memory between two rounds of appending to the days (28 bytes each: 56 MB).
_ROUND_ROWS: Final = 2_000_000


class DayOutsideError(SourceError):
    """A day was asked for that the data set does not span."""


class DatasetDays:
    """The days of one file, read from a cache that is built once (`open`) and found again by the file's fingerprint.

    `profile` is the file's profile; `days` are the dates of its span, ascending, without gaps (a date without readings
    is an empty day); `motes` the mote ids in it, ascending.
    """

    def __init__(self, folder: Path, profile: Profile) -> None:
        self._folder = folder
        self.profile = profile
        self.days: list[dt.date] = [profile.first_day + dt.timedelta(days=i) for i in range(profile.days)]
        self.motes: list[int] = profile.motes

    @classmethod
    def open(cls, path: Path | str, cache_dir: Path) -> Self:
        """The days of `path`: reused from `cache_dir`, else built there in one streaming pass and published atomically.

        Two processes may build at once: the first to finish wins. Raises: SourceError; EmptySourceError without a
        reading.
        """
        folder = cache_dir / f"{_LAYOUT}-{fingerprint(path)}"
        if not (folder / _MANIFEST).exists():
            cache_dir.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{_LAYOUT}-", dir=cache_dir))
            try:
                built = _build(path, draft)
                # Of what was read, should the file have changed since its fingerprint was taken.
                folder = cache_dir / f"{_LAYOUT}-{built.fingerprint}"
                _publish(draft, folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        return cls(folder, msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Profile))

    def readings(self, day: dt.date, motes: Sequence[int] | None = None) -> pl.DataFrame:
        """The readings of one dataset day (columns of READING_SCHEMA, dataset time), sorted by timestamp, then mote_id.

        `motes` narrows them to these ids. Raises: DayOutsideError.
        """
        if not self.days[0] <= day <= self.days[-1]:
            raise DayOutsideError(f"{day} is outside the data set, which spans {self.days[0]} to {self.days[-1]}")
        file = self._folder / f"{day.isoformat()}.arrow"
        if not file.exists():
            return pl.DataFrame(schema=READING_SCHEMA)
        frame = pl.read_ipc(file)
        return frame if motes is None else frame.filter(pl.col("mote_id").is_in(list(motes)))


def _build(path: Path | str, draft: Path) -> Profile:
    pending: list[pl.DataFrame] = []
    parts: dict[int, list[Path]] = defaultdict(list)

    def append() -> None:
        if not pending:
            return
        rows = pl.concat(pending).with_columns(pl.col("timestamp").floordiv(_DAY_NS).alias("day"))
        for (day,), frame in rows.partition_by("day", as_dict=True, include_key=False).items():
            part = draft / f"part-{day}-{len(parts[day])}.arrow"
            frame.write_ipc(part)
            parts[day].append(part)
        pending.clear()

    done: Profile | None = None
    for batch, profile in profiled_batches(path):
        done = profile
        if batch.readings.height:
            pending.append(batch.readings.select(READING_SCHEMA.names()))
        if sum(frame.height for frame in pending) >= _ROUND_ROWS:
            append()
    append()
    assert done is not None, "profiled_batches ends with a profile or an error"  # noqa: S101 - for the type checker
    for number, files in parts.items():
        day = _EPOCH + dt.timedelta(days=number)
        if done.first_day <= day <= done.last_day:
            frame = pl.concat([pl.read_ipc(file) for file in files])
            frame.sort("timestamp", "mote_id", maintain_order=True).write_ipc(draft / f"{day}.arrow")
        for file in files:
            file.unlink()
    (draft / _MANIFEST).write_bytes(msgspec.json.encode(done))
    return done


def _publish(draft: Path, folder: Path) -> None:
    for file in draft.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    try:
        draft.rename(folder)
    except OSError:
        if not (folder / _MANIFEST).exists():  # else another process was first, with the same days
            raise
