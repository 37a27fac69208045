"""`sieis setup` on a real InfluxDB, as an operator runs it: the token left in .env, what it says, what it deletes."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from dotenv import dotenv_values

from sieis_platform.settings import Settings
from sieis_platform.stores.influx import InfluxClient
from tools.services import Instance

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
TOKEN = "SIEIS_INFLUX_TOKEN"


class Operator:
    """A folder with the .env that `python -m tools.services env --write` leaves, buckets of its own, and commands."""

    def __init__(self, influxdb: Instance, folder: Path) -> None:
        self.folder = folder
        self.name = f"t{uuid.uuid4().hex[:12]}"
        own = {"SIEIS_INFLUX_BUCKET": self.name, "SIEIS_INFLUX_HOURLY_BUCKET": f"{self.name}-hourly"}
        given = {**influxdb.settings, **own}
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
        credentials = influxdb.credentials
        self.client = InfluxClient(influxdb.address, org=credentials["org"], token=credentials["token"])

    def setup(self, *words: str, **environment: str) -> str:
        """What `sieis setup` says; it succeeds and shows no token."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("SIEIS_")}
        done = subprocess.run(
            [sys.executable, "-m", "sieis_cli", "setup", *words],
            env={**mine, **environment, "PYTHONPATH": str(ROOT)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.token not in done.stdout + done.stderr
        return done.stdout

    @property
    def token(self) -> str:
        return dotenv_values(self.folder / ".env").get(TOKEN) or "none yet"

    def days(self) -> int:
        """Days the bucket of the readings keeps."""
        (found,) = self.client.api("GET", "/buckets", params={"name": self.name})["buckets"]
        return found["retentionRules"][0]["everySeconds"] // 86_400


@pytest.fixture
def operator(influxdb: Instance, tmp_path: Path) -> Iterator[Operator]:
    made = Operator(influxdb, tmp_path)
    yield made
    made.client.close()


def test_servers_hand_out_no_token_to_work_with_and_setup_makes_the_least_one(
    operator: Operator, influxdb: Instance
) -> None:
    assert TOKEN not in influxdb.settings
    said = operator.setup()
    assert f"{TOKEN} is now in .env" in said
    assert "environment" not in said
    token = operator.token
    assert token != influxdb.settings["SIEIS_INFLUX_ADMIN_TOKEN"]
    assert "differs" not in said
    assert "is now in" not in operator.setup()
    assert operator.token == token


def test_a_token_of_the_environment_that_wins_over_the_one_in_env_is_told(operator: Operator) -> None:
    operator.setup()
    token = operator.token
    said = operator.setup(**{TOKEN: "an-older-one-with-more-rights"})
    assert operator.token == token
    assert f"the environment has another {TOKEN}" in said
    assert "an-older-one-with-more-rights" not in said


def test_a_shorter_retention_is_reported_and_comes_on_demand(operator: Operator) -> None:
    operator.setup()
    assert operator.days() == Settings.model_fields["hot_retention_days"].default == 30
    shorter = {"SIEIS_HOT_RETENTION_DAYS": "7"}
    said = operator.setup(**shorter)
    assert f"differs: bucket {operator.name} keeps its data for 30 days, the settings say 7 days" in said
    assert operator.days() == 30
    assert "differs" not in operator.setup("--shorten-retention", **shorter)
    assert operator.days() == 7
