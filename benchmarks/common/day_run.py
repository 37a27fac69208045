"""`python -m benchmarks.common.day_run FOLDER JOB`: today's partition as Dagster runs it, in this process of its own.

Belongs here: one run of a job over today, and what it takes of the processor beyond the imports. Not here: the stores.
"""

import gc
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Final

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from sieis_platform.defs.assembly import build_definitions
from sieis_platform.defs.operations.home import prepare_home
from sieis_platform.defs.partitions import Window, today
from sieis_platform.settings import Settings
from sieis_platform.telemetry import silence

#: What a run imports on its way: seconds, the same however much is stored, in which growth would not be seen.
_WHEN_IT_GETS_THERE: Final = (
    "sieis_platform.analysis.quality.evaluate",
    "mlflow.sklearn",
    "mlflow.artifacts",
    "mlflow.genai",
    "mlflow.store.tracking.sqlalchemy_store",
    "sklearn.ensemble",
    "skops.io",
    "obstore.store",
)
_QUIET: Final = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def main(folder: str, job: str) -> None:
    """Print {"seconds": processor time of the run, all threads}; ends with 1 where a step failed."""
    silence()
    for name in _WHEN_IT_GETS_THERE:
        importlib.import_module(name)
    # A third of a second of a collector's pass over all modules would fall into one run and not into the next.
    gc.collect()
    gc.freeze()
    settings = Settings(data_dir=Path(folder))  # pyright: ignore[reportCallIssue] - every field has a default
    began = time.process_time()
    definitions = build_definitions(settings)
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(prepare_home(settings)))) as instance:
        done = definitions.resolve_job_def(job).execute_in_process(
            instance=instance, tags=Window(today(), today()).tags(), run_config=_QUIET, raise_on_error=False
        )
    print(json.dumps({"seconds": time.process_time() - began}))
    sys.exit(0 if done.success else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
