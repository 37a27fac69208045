"""The one place that tells the libraries of the platform not to report home.

Belongs here: switches that those libraries read from the environment and nowhere else. Not here: our own settings.
"""

import os
from typing import Final

SWITCHES: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "true",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
}


def silence() -> None:
    """Switch usage reports off in this process and those it starts; to be called before the libraries are imported.

    MLflow decides at import. A value that the operator has set stays.
    """
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
