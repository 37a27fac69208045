"""The historical load as an operator starts it. Belongs here: that. Not here: servers, floors."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common.messages import MOTES
from benchmarks.common.process import run_command
from benchmarks.common.results import seconds
from sieis_platform.settings import Settings
from sieis_platform.sources.generator import generate


def load(settings: Settings, *, days: int) -> tuple[float, dict[str, Any]]:
    """Load a file of `days` days with `sieis load`: seconds of the whole command, and its summary.

    Days within the hot store's retention: every row goes to both stores. Raises: BenchmarkError.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "readings.txt"
        generate(source, motes=MOTES, days=days, seed=1)
        summary: dict[str, Any] = {}
        taken = seconds(lambda: summary.update(run_command(settings, "load", str(source), "--json")))
    return taken, summary
