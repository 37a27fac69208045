"""From settings to stores: the right places, and nothing touched before it is used."""

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.archive import Commit
from sieis_platform.stores.open import open_archive, open_hot, open_marts
from sieis_platform.stores.rewrite import Scope, replace_rows
from sieis_platform.stores.touched import touched_days
from sieis_platform.timeline import DAY_NS


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


def test_a_folder_with_a_space_a_percent_sign_and_letters_of_any_language(tmp_path: Path) -> None:
    odd = Settings(data_dir=tmp_path / "ä b 7%", _env_file=None)  # type: ignore[call-arg]
    archive, marts, hot = open_archive(odd), open_marts(odd), open_hot(odd)
    archive.create()
    readings = pl.DataFrame([(1, DAY_NS + 5, 1.0, 2.0, 3.0, 4.0)], schema=READING_SCHEMA, orient="row")
    rows = readings.with_columns(
        source=pl.lit("stream:a"), source_partition=pl.lit(0, pl.Int32), source_offset=pl.lit(0, pl.Int64)
    )
    archive.append(Commit(rows, [], {}))
    marts.append("rollup", pl.DataFrame({"date": ["2026-01-01"], "value": [1]}))
    marts.append("model", pl.DataFrame({"name": ["x"]}))
    # The whole table, the folders of a day, a mart with folders and one without: each has its own way to the files.
    assert archive.scan_all().select(READING_SCHEMA.names()).collect().equals(readings)
    assert archive.scan(DAY_NS, 2 * DAY_NS).select(READING_SCHEMA.names()).collect().equals(readings)
    assert marts.scan("rollup").filter(pl.col("date") == "2026-01-01").collect().rows() == [("2026-01-01", 1)]
    assert marts.scan("model").collect().rows() == [("x",)]
    assert marts.tables() == ["model", "rollup"]
    assert touched_days(archive, None).days == {dt.date(1970, 1, 2): 1}
    assert replace_rows(archive, Scope.day(dt.date(1970, 1, 2)), lambda held: held.clear(), reason="test")
    assert archive.scan_all().collect().is_empty()
    hot.write_readings(readings)
    hot.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ä b 7%"]
