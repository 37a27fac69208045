"""The folder in which the Dagster instance of this installation lives.

Belongs here: where it is and that its configuration is there. Not here: Dagster itself (importing this loads none).
"""

import os
from importlib.resources import files
from pathlib import Path
from typing import Final

from sieis_platform.settings import Settings

_CONFIG: Final = "dagster.yaml"


def prepare_home(settings: Settings) -> Path:
    """DAGSTER_HOME of this installation, `dagster/` in the data directory, with this version's dagster.yaml in it.

    Whoever starts the webserver or the daemon gives them this folder as DAGSTER_HOME, beside the SIEIS_* variables.
    """
    home = settings.data_dir / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    text = files("sieis_platform.defs.operations").joinpath(_CONFIG).read_text(encoding="utf-8")
    config = home / _CONFIG
    if not config.exists() or config.read_text(encoding="utf-8") != text:
        draft = home / f"{_CONFIG}.{os.getpid()}.tmp"
        draft.write_text(text, encoding="utf-8")
        draft.replace(config)  # a daemon that reads meanwhile sees the old file or the new one
    return home
