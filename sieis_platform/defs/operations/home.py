"""The folder and the environment of the Dagster instance of this installation.

Belongs here: where it is, that its configuration is there, what its processes are told. Not here: Dagster itself
(importing this loads none).
"""

import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from sieis_platform.settings import Settings

LOCATION: Final = "sieis"
_CONFIG: Final = "dagster.yaml"
_STORAGE: Final = "dagster-postgres.yaml"
_DRIVER: Final = re.compile(r"^postgres(ql)?(\+\w+)?://")
_URL_VARIABLE: Final = "SIEIS_DAGSTER_DATABASE_URL"  # as the storage part of the configuration names it


def prepare_home(settings: Settings) -> Path:
    """DAGSTER_HOME of this installation, `dagster/` in the data directory, with this version's dagster.yaml in it.

    With `dagster_database_url` that file says PostgreSQL, else nothing, which is SQLite. Whoever starts the webserver
    or the daemon gives them `environment`.
    """
    home = settings.data_dir / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    _write(home / _CONFIG, instance_config(postgres=bool(_database_url(settings))))
    return home


def prepare_workspace(settings: Settings) -> Path:
    """A workspace.yaml that points to `dagster_code`.

    Under the name that the location has everywhere: schedules are on or off by it. (Dagster's options --grpc-host and
    --grpc-port would call it by its address.)
    """
    host, _, port = settings.dagster_code.rpartition(":")
    server = {"host": host, "port": int(port), "location_name": LOCATION}
    path = prepare_home(settings) / "workspace.yaml"
    _write(path, json.dumps({"load_from": [{"grpc_server": server}]}) + "\n")  # JSON is YAML
    return path


def instance_config(*, postgres: bool) -> str:
    """The text of dagster.yaml; the address of a database is not in it, but the variable that holds it."""
    folder = files("sieis_platform.defs.operations")
    names = [_CONFIG, _STORAGE] if postgres else [_CONFIG]
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def environment(settings: Settings) -> dict[str, str]:
    """What a Dagster process of this installation needs beside the environment it is started from, secrets included.

    The address of the database may stand in `.env`, which Dagster does not read. DAGSTER_HOME is prepared.
    """
    found = {"DAGSTER_HOME": str(prepare_home(settings)), "SIEIS_DATA_DIR": str(settings.data_dir)}
    if url := _database_url(settings):
        found[_URL_VARIABLE] = url
    return found


def overrides(settings: Settings) -> dict[str, Any]:
    """What to lay over dagster.yaml in a process that was not started with `environment`."""
    url = _database_url(settings)
    return {"storage": {"postgres": {"postgres_url": url}}} if url else {}


def _database_url(settings: Settings) -> str:
    """The address with the driver that dagster-postgres is written for: with psycopg 3 its NOTIFY is a syntax error."""
    url = settings.dagster_database_url.get_secret_value() if settings.dagster_database_url is not None else ""
    return _DRIVER.sub("postgresql+psycopg2://", url)


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)  # a daemon that reads meanwhile sees the old file or the new one
