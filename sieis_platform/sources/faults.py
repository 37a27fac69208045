"""Faults injected into a temperature series, each reading of which is known to be faulty.

Belongs here: the kinds of fault and what they do to values. Not here: a dying battery (motes.py), finding faults.

The kinds, their codes and sizes are those of the labelled series of de Bruijn, Nguyen, Bucur and Tei, "Benchmark
datasets for fault detection and classification in sensor data" (SENSORNETS 2016), measured on their published files.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Days before the first fault, so that models have clean days to train on.
CLEAN_DAYS: Final = 8

#: Share of the motes that get faults, and how many each, at least and at most, per 27 days behind the clean ones.
_FAULTY_SHARE: Final = 0.4
_FAULTS: Final = (2, 5)

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR


class Fault(IntEnum):
    """Kind of fault, by its code in the label files (0 is none)."""

    RANDOM = 1
    """Single readings, 30 % of those in the window, multiplied by 2.5 or 3.5."""
    MALFUNCTION = 2
    """Noise around the true value with 1.5 times the deviation of the window."""
    BIAS = 4
    """The sensor sticks at one value, 6 to 14 degC above the mean of the window."""
    DRIFT = 8
    """16 to 42 degC off, up or down, and twice as noisy."""
    POLYNOMIAL_DRIFT = 16
    """Rises by 1.5 degC a reading."""


#: Length of the window: 518 and 345 readings in the label files, at 30 s a reading.
_HOURS: Final = {
    Fault.RANDOM: 6.0,
    Fault.MALFUNCTION: 518 * 30 / _HOUR,
    Fault.BIAS: 518 * 30 / _HOUR,
    Fault.DRIFT: 345 * 30 / _HOUR,
    Fault.POLYNOMIAL_DRIFT: 345 * 30 / _HOUR,
}


@dataclass(frozen=True)
class Injected:
    """One fault: its kind and the indices of the readings it changed, ascending."""

    kind: Fault
    rows: Ints


def inject(rng: np.random.Generator, seconds: Floats, temperature: Floats, healthy_until: float) -> list[Injected]:
    """Put faults into `temperature` (degC, changed in place) taken at `seconds` since the start of the file.

    All lie after the clean days and before `healthy_until` (seconds), at most one a day.
    """
    days = np.arange(CLEAN_DAYS, int(min(healthy_until, seconds[-1] if len(seconds) else 0.0) // _DAY))
    faulty = rng.random() < _FAULTY_SHARE
    wanted = int(np.ceil(rng.integers(*_FAULTS, endpoint=True) * len(days) / 27))
    if not faulty or not len(days):
        return []
    injected = []
    for day in np.sort(rng.choice(days, min(wanted, len(days)), replace=False)).tolist():
        kind = list(Fault)[int(rng.integers(len(Fault)))]
        begin = day * _DAY + rng.uniform(0, 24 - _HOURS[kind]) * _HOUR
        rows = np.flatnonzero((seconds >= begin) & (seconds < begin + _HOURS[kind] * _HOUR))
        if kind is Fault.RANDOM:
            rows = rows[rng.random(len(rows)) < 0.3]
        if len(rows) >= 2:
            temperature[rows] = faulty_values(rng, kind, temperature[rows])
            injected.append(Injected(kind, rows))
    return injected


def faulty_values(rng: np.random.Generator, kind: Fault, true: Floats) -> Floats:
    """What a sensor with this fault reports instead of `true` (degC, two values or more)."""
    spread = max(float(true.std()), 0.25)
    match kind:
        case Fault.RANDOM:
            return true * rng.choice([2.5, 3.5], len(true))
        case Fault.MALFUNCTION:
            return true + rng.normal(0, 1.5 * spread, len(true))
        case Fault.BIAS:
            return np.full(len(true), true.mean() + rng.uniform(6, 14))
        case Fault.DRIFT:
            offset = rng.uniform(16, 42) * rng.choice([-1, 1])
            return true + offset + rng.normal(0, 2 * spread, len(true))
        case Fault.POLYNOMIAL_DRIFT:
            return true + 1.5 * np.arange(len(true))
