"""From settings to stores: the right places, and nothing touched before it is used."""

from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_archive, open_hot, open_marts


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "var", _env_file=None)  # type: ignore[call-arg]


def test_opening_makes_nothing(settings: Settings) -> None:
    hot, archive, marts = (
        open_hot(settings),
        open_archive(settings),
        open_marts(settings),
    )
    hot.ping()
    assert hot.latest().is_empty()
    assert not archive.exists()
    assert not marts.exists("hourly_aggregates")
    assert not settings.data_dir.exists()


def test_everything_lies_in_the_data_directory(settings: Settings) -> None:
    open_archive(settings).create()
    open_marts(settings).append("model", pl.DataFrame({"name": ["x"]}))
    assert {path.name for path in settings.data_dir.iterdir()} == {"archive", "marts"}


def test_the_retention_of_the_settings_holds(settings: Settings) -> None:
    hot = open_hot(settings)
    ancient = pl.DataFrame([(1, 0, 1.0, 1.0, 1.0, 1.0)], schema=READING_SCHEMA, orient="row")
    assert hot.write_readings(ancient) == (0, 1, 0)


def test_addresses_of_the_settings_win(settings: Settings, tmp_path: Path) -> None:
    keys = {"s3_access_key_id": "key", "s3_secret_access_key": SecretStr("secret")}
    moved = settings.model_copy(update={"archive_uri": str(tmp_path / "a"), "marts_uri": "s3://bucket/marts/", **keys})
    assert open_archive(moved).uri == str(tmp_path / "a")
    assert open_marts(moved).root == "s3://bucket/marts"
    assert "secret" not in repr(open_marts(moved))


@pytest.mark.parametrize(("folders", "last"), [(True, "mote_id"), (False, "day")])
def test_a_large_fleet_may_drop_the_mote_folder(settings: Settings, folders: bool, last: str) -> None:
    changed = settings.model_copy(update={"archive_mote_folders": folders})
    assert open_archive(changed).partition_columns[-1] == last
