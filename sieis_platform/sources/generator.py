"""A made-up building in the Intel Lab file format: any number of motes and days, the same bytes for the same arguments.

Belongs here: files, missing readings, the order of lines. Not here: what a mote measures (motes.py), what is injected
(faults.py).
"""

import csv
import datetime as dt
import gzip
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from sieis_platform.errors import FatalError
from sieis_platform.reading import EXPECTED_INTERVAL_SECONDS
from sieis_platform.sources.faults import Fault, inject
from sieis_platform.sources.motes import Building, Mote

DEFAULT_FIRST_DAY: Final = dt.date(2004, 2, 28)
DEFAULT_SEED: Final = 2004
LABEL_COLUMNS: Final = ("mote_id", "timestamp", "fault", "start", "end")

#: The epoch counter of the real motes falls back by 12.7 days of epochs and counts them again; it has 16 bits.
_EPOCH_RESET: Final = 36_576
_EPOCH_BITS: Final = 16

_DAY_SECONDS: Final = 86_400

Floats = npt.NDArray[np.float64]


class GeneratorError(FatalError):
    """The file cannot be generated as asked."""


@dataclass(frozen=True)
class Generated:
    """What was written: lines, faulty readings by kind, and the motes whose batteries died within the file."""

    path: Path
    labels_path: Path | None
    lines: int
    motes: int
    days: int
    first_day: dt.date
    faults: dict[str, int] = field(default_factory=dict)
    plateau_motes: list[int] = field(default_factory=list)


def generate(
    path: Path | str,
    labels_path: Path | str | None = None,
    *,
    motes: int = 42,
    days: int = 35,
    seed: int = DEFAULT_SEED,
    first_day: dt.date = DEFAULT_FIRST_DAY,
    progress: Callable[[int, int], None] | None = None,
) -> Generated:
    """Write a data set of `motes` motes and `days` days from `first_day` on (gzip when `path` ends in .gz).

    Lines are ordered by mote, then time, as in the real file: `date time epoch mote temperature humidity light
    voltage`. About 30 % of the readings are missing. The first 8 days hold neither injected faults nor dying batteries.
    A mote's lines do not depend on how many motes there are. `labels_path` gets a CSV with one row per faulty reading:
    mote_id, timestamp (as in the file, date and time joined by a space), fault (code of `Fault`), start and end of the
    fault. The plateau of a dead battery is no injected fault and has no label. Both files appear only when they are
    whole. `progress` is called with motes done and motes in all. Memory: one mote at a time.

    Raises: GeneratorError for numbers without meaning, or where a file cannot be written.
    """
    if motes < 1 or days < 1 or seed < 0:
        raise GeneratorError(
            f"motes={motes}, days={days}, seed={seed}: give at least one mote, one day, a seed of 0 or more"
        )
    if not 1678 <= first_day.year <= first_day.year + days // 365 < 2261:
        raise GeneratorError(f"{days} days from {first_day} leave the years 1678 to 2261 that the format can say")
    path = Path(path)
    labels = Path(labels_path) if labels_path is not None else None
    building = Building.of(days, first_day, seed)
    lines, faults, plateau = 0, Counter[str](), list[int]()
    try:
        with ExitStack() as stack:
            data = stack.enter_context(_new_file(path))
            label_file = stack.enter_context(_new_file(labels)) if labels is not None else None
            if label_file is not None:
                label_file.write((",".join(LABEL_COLUMNS) + "\n").encode())
            for mote_id in range(1, motes + 1):
                frame, label_rows, died = _mote_lines(building, mote_id)
                frame.write_csv(data, include_header=False, separator=" ", quote_style="never")
                if label_file is not None:
                    label_file.write(_csv(label_rows))
                lines += frame.height
                faults.update(Fault(row[2]).name.lower() for row in label_rows)
                plateau += [mote_id] * died
                if progress is not None:
                    progress(mote_id, motes)
    except OSError as error:
        raise GeneratorError(
            f"cannot write {error.filename or path} ({error.strerror}); check the folder and its room"
        ) from error
    return Generated(path, labels, lines, motes, days, first_day, dict(faults), plateau)


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only when the block ends well."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("wb") as raw:
            if path.suffix == ".gz":
                # No name and time in the header: the same content is the same bytes. Level 1: text of numbers gains
                # little more.
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=1) as packed:
                    yield cast("BinaryIO", packed)
            else:
                yield raw
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _mote_lines(building: Building, mote_id: int) -> tuple[pl.DataFrame, list[tuple[int, str, int, str, str]], bool]:
    """The lines of one mote as a frame of eight columns, the rows of its labels, and whether its battery died."""
    rng = np.random.default_rng([building.seed, mote_id])
    mote = Mote.of(building, mote_id, rng)
    index = np.flatnonzero(mote.present(rng, building.days * _DAY_SECONDS // EXPECTED_INTERVAL_SECONDS))
    # A mote sends somewhat after the tick; never so late that two readings change places.
    micros = (index * EXPECTED_INTERVAL_SECONDS * 1_000_000) + rng.integers(0, 20_000_000, len(index))
    seconds = micros / 1e6
    values = mote.values(rng, seconds)
    injected = inject(rng, seconds, values["temperature"], mote.healthy_until)

    epoch = index.copy()
    reset = int(rng.integers(_EPOCH_RESET, 2 * _EPOCH_RESET))  # some motes reset after 12.7 to 25.4 days
    if rng.random() < 0.6:
        epoch[index >= reset] -= _EPOCH_RESET
    date, time = _stamps(building.first_day, micros)
    frame = pl.DataFrame(
        {
            "date": date,
            "time": time,
            "epoch": epoch % 2**_EPOCH_BITS,
            "mote": np.full(len(index), mote_id),
            **{name: six_digits(column) for name, column in values.items()},
        }
    )
    rows = []
    for fault in injected:
        start, end = (f"{date[int(i)]} {time[int(i)]}" for i in (fault.rows[0], fault.rows[-1]))
        stamps = [f"{date[i]} {time[i]}" for i in fault.rows.tolist()]
        rows += [(mote_id, stamp, int(fault.kind), start, end) for stamp in stamps]
    return frame, rows, mote.died


def _csv(rows: list[tuple[int, str, int, str, str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _stamps(first_day: dt.date, micros: npt.NDArray[np.int64]) -> tuple[pl.Series, pl.Series]:
    """Date and time texts; the fraction has no trailing zeros, as in the real file."""
    days = micros // (_DAY_SECONDS * 1_000_000)
    dates = pl.Series([(first_day + dt.timedelta(days=i)).isoformat() for i in range(int(days.max(initial=0)) + 1)])
    clock = pl.Series([f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in range(_DAY_SECONDS)])
    fraction = pl.Series("fraction", micros % 1_000_000).cast(pl.String).str.zfill(6)
    point = ("." + fraction).str.strip_chars_end("0").str.strip_chars_end(".")
    return dates.gather(days), clock.gather(micros // 1_000_000 % _DAY_SECONDS) + point


def six_digits(values: Floats) -> Floats:
    """Rounded to six significant digits, as the real file prints them."""
    whole = np.floor(np.log10(np.maximum(np.abs(values), 1e-3)))
    scale = 10.0 ** (5 - whole)
    return np.round(values * scale) / scale
