"""Installations on InfluxDB, S3 and PostgreSQL, for tests of what Dagster does there.

Belongs here: making one. Not here: what is tested on it.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.instance.ref import InstanceRef

from sieis_platform.defs.operations.home import overrides, prepare_home
from sieis_platform.settings import Settings
from tests.faults.full import prepared
from tests.faults.harness import Platform
from tests.installation import Installation
from tools.services.instance import Instance
from tools.services.servers.postgres import query


def databases(postgres: Instance) -> dict[str, str]:
    """Settings of a state and a Dagster database that nobody has touched yet."""
    made: dict[str, str] = {}
    for setting in ("state_url", "dagster_database_url"):
        name = f"test_{secrets.token_hex(6)}"
        query(postgres.place, f"create database {name}")
        url = sa.make_url(postgres.settings[f"SIEIS_{setting.upper()}"]).set(database=name)
        made[setting] = url.render_as_string(hide_password=False)
    return made


def on_servers(
    stores: Sequence[Instance], postgres: Instance, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object
) -> Platform:
    """A platform with buckets, token and databases of its own; this process gets its environment too.

    Dagster's resources take secrets from the environment, as everywhere.
    """
    for name in [name for name in os.environ if name.startswith("SIEIS_")]:
        monkeypatch.delenv(name)
    own = {**prepared(stores, folder / "setup"), **databases(postgres)}
    made = Platform(folder / "var", **{**own, **settings})
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@contextlib.contextmanager
def with_dagster(settings: Settings) -> Iterator[Installation]:
    """The installation's own Dagster instance: dagster.yaml and dagster-postgres.yaml, its tables on the server."""
    home = str(prepare_home(settings))
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(home, overrides=overrides(settings))) as instance:
        yield Installation(settings, instance)
