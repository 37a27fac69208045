"""One measurement as it is kept, and the clocks. Belongs here: that. Not here: any workload."""

import time
from collections.abc import Callable

import numpy as np

Result = dict[str, str | float | None]
"""{"name", "value", "unit", "workload", "floor"}; a floor of None is no promise."""


def result(name: str, value: float, unit: str, workload: str, floor: float | None = None) -> Result:
    """A measurement, rounded to what it is good for."""
    return {"name": name, "value": round(value, 2), "unit": unit, "workload": workload, "floor": floor}


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def milliseconds(work: Callable[[], object], rounds: int = 20) -> float:
    """Median of `rounds`."""
    return 1000 * float(np.median([seconds(work) for _ in range(rounds)]))
