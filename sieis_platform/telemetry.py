"""The one place that tells the libraries of the platform not to report home, nor to say or keep what nobody asked for.

Belongs here: switches that those libraries read from the environment and nowhere else. Not here: our own settings.
"""

import os
from typing import Final

SWITCHES: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "true",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Else a copy of this project's lock file lies in every model.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
}


def silence() -> None:
    """Set the switches for this process and those it starts; to be called before the libraries are imported.

    MLflow decides at import. A value that the operator has set stays. Nor may the environment change later: deltalake's
    threads read it meanwhile (C's getenv, which knows no lock), and such a process ended now and then.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
