"""Databases of their own on a real PostgreSQL. Belongs here: what tests of the operational state share."""

import secrets
from pathlib import Path

import sqlalchemy as sa
from pydantic import SecretStr

from sieis_platform.settings import Settings
from tools.services.instance import Instance
from tools.services.servers.postgres import query


def in_new_database(postgres: Instance, data_dir: Path) -> Settings:
    """Settings of a database that no other test has touched."""
    name = f"test_{secrets.token_hex(6)}"
    query(postgres.place, f"create database {name}")
    url = sa.make_url(postgres.settings["SIEIS_STATE_URL"]).set(database=name)
    address = SecretStr(url.render_as_string(hide_password=False))
    return Settings(data_dir=data_dir / "new" / "var", state_url=address, _env_file=None)
