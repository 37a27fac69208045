"""`sieis setup` without servers: the .env it writes, and the embedded setting that needs nothing."""

import stat
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from sieis_cli.context import load_settings
from sieis_cli.main import app
from sieis_cli.setup import GENERATED, EnvFileError, keep_token, write_env_file
from sieis_platform.settings import Settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIEIS_DATA_DIR", str(tmp_path / "var"))
    load_settings.cache_clear()


def test_the_file_is_the_owners_only_and_its_settings_are_strong(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["setup", "--write-env"])
    assert done.exit_code == 0, done.output
    path = tmp_path / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = dict(line.split("=", 1) for line in path.read_text().splitlines() if not line.startswith("#"))
    assert values.pop("SIEIS_S3_ACCESS_KEY_ID") == "sieis"
    assert values.keys() == {name for names in GENERATED for name in names}
    assert len(set(values.values())) == len(GENERATED)
    assert all(len(value) >= 40 for value in values.values())
    assert not any(value in done.output for value in values.values())
    settings = Settings()
    assert isinstance(settings.api_key, SecretStr)
    assert settings.api_key.get_secret_value() == values["SIEIS_API_KEY"]
    assert settings.s3_access_key_id == "sieis"
    assert settings.s3_secret_access_key is not None
    assert settings.s3_secret_access_key.get_secret_value() == values["S3_SECRET_ACCESS_KEY"]


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("SIEIS_API_KEY=mine\n")
    with pytest.raises(EnvFileError, match="there already"):
        write_env_file(path)
    assert path.read_text() == "SIEIS_API_KEY=mine\n"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(EnvFileError):
        write_env_file(link)
    assert not (tmp_path / "nowhere").exists()


def test_the_token_takes_the_place_of_an_old_one_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nSIEIS_INFLUX_TOKEN=old\nSIEIS_FLEET_SIZE=7")
    for token in ("first", "second"):
        keep_token(path, token)
    assert path.read_text() == "# mine\nSIEIS_FLEET_SIZE=7\nSIEIS_INFLUX_TOKEN=second\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_embedded_setting_needs_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["setup"])
    assert done.exit_code == 0, done.output
    assert "embedded broker" in done.output
    assert list(tmp_path.iterdir()) == []
