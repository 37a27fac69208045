"""`sieis cold`: what it says of the cold table, and the way back."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sieis_cli.context import load_settings
from sieis_cli.main import app
from sieis_platform.backfill import Backfill
from sieis_platform.settings import Settings
from sieis_platform.stores.archive_errors import ColdTierError
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.stores.tiers import move_day
from tests.unit.sieis_platform.history_file import MOTES, day, write

A_DAY = 24


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Three days of history, two of them cold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIEIS_DATA_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("SIEIS_ARCHIVE_COLD_URI", str(tmp_path / "cold"))
    settings = Settings(_env_file=None)  # pyright: ignore[reportCallIssue]
    hot = open_hot(settings)
    Backfill(settings, hot, open_archive(settings)).fill(write(tmp_path / "readings.txt", A_DAY), day(3), day(1))
    hot.close()
    for number in (3, 2):
        move_day(open_archive(settings), day(number))
    return settings


def run(*args: str) -> Result:
    load_settings.cache_clear()
    return CliRunner().invoke(app, ["cold", *args])


def test_what_is_cold_comes_back_and_then_the_setting_may_go(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads(run("status", "--json").stdout)
    assert (told["days"], told["first_day"], told["last_day"]) == (2, str(day(3)), str(day(2)))
    assert (told["rows"], told["uri"]) == (2 * MOTES * A_DAY, settings.archive_cold_uri)
    assert f"2 days, {day(3)} to {day(2)}: {2 * MOTES * A_DAY} rows" in run("status").stdout
    with monkeypatch.context() as patched:
        patched.delenv("SIEIS_ARCHIVE_COLD_URI")
        assert isinstance(run("status").exception, ColdTierError)
        assert isinstance(run("return").exception, ColdTierError)
    assert f"2 days with {2 * MOTES * A_DAY} rows are back" in run("return").stdout
    assert json.loads(run("return", "--json").stdout) == {"days": 0, "rows": 0}
    monkeypatch.delenv("SIEIS_ARCHIVE_COLD_URI")
    assert "no day is cold" in run("status").stdout
    assert json.loads(run("status", "--json").stdout)["days"] == 0
    assert open_archive(Settings(data_dir=settings.data_dir)).scan_all().collect().height == 3 * MOTES * A_DAY
