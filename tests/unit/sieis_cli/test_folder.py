"""Whose a data directory is: a demo starts over in its own only, never where something else has written."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sieis_cli.context import load_settings
from sieis_cli.demo_steps import _STATE, Demo, DemoDirectoryError
from sieis_cli.folder import FolderBusyError, claim, held, is_demos, is_held, mark_as_demo, unmark
from sieis_cli.main import app
from sieis_platform.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path / "var")


def prepare(settings: Settings) -> None:
    """As the demo does before its first step."""
    with Demo(settings, Path("readings.txt")).prepared():
        assert is_held(settings)
        assert is_demos(settings)


@pytest.mark.parametrize("name", _STATE)
def test_a_demo_removes_nothing_that_no_demo_made(settings: Settings, name: str) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / name).write_text("precious")
    with pytest.raises(DemoDirectoryError, match="SIEIS_DATA_DIR=var-demo"):
        prepare(settings)
    assert (settings.data_dir / name).read_text() == "precious"


def test_a_demo_starts_over_where_a_demo_was_and_keeps_the_readings(settings: Settings) -> None:
    readings = settings.data_dir / "data" / "readings.txt"
    readings.parent.mkdir(parents=True)
    readings.write_text("readings")
    for _ in range(3):
        prepare(settings)
        for name in _STATE:
            assert not (settings.data_dir / name).exists()
            (settings.data_dir / name).write_text("of a demo")
    assert readings.read_text() == "readings"


def test_a_demo_sees_an_up_that_only_just_starts(settings: Settings) -> None:
    prepare(settings)
    (settings.data_dir / "timeline.json").write_text("of a demo")
    with held(settings), pytest.raises(FolderBusyError, match="sieis down"):
        prepare(settings)
    assert (settings.data_dir / "timeline.json").exists()


def test_a_demo_sees_what_a_killed_up_left(settings: Settings) -> None:
    prepare(settings)
    (settings.data_dir / "up.json").write_text("{}")
    with pytest.raises(DemoDirectoryError, match="sieis down"):
        prepare(settings)


def test_a_command_that_writes_there_makes_the_folder_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIEIS_DATA_DIR", str(settings.data_dir))
    load_settings.cache_clear()
    readings = tmp_path / "readings.txt"
    readings.write_text("2004-02-28 00:00:00.5 1 1 20 40 100 2.6\n2004-02-29 00:00:00.5 2 1 20 40 100 2.6\n")
    prepare(settings)
    done = CliRunner().invoke(app, ["load", str(readings)])
    assert done.exit_code == 0, done.output
    with pytest.raises(DemoDirectoryError):
        prepare(settings)
    assert (settings.data_dir / "archive").exists()


def test_while_a_demo_runs_its_own_steps_leave_it_the_folder_and_others_are_refused(settings: Settings) -> None:
    claim(settings)  # nothing is there: nothing to do
    assert not settings.data_dir.exists()
    with held(settings):
        mark_as_demo(settings)
        claim(settings, for_demo=True)
        with pytest.raises(FolderBusyError):
            claim(settings)
        assert is_demos(settings)
        unmark(settings)  # as `up` does, whose `load` finds the folder held
        claim(settings)
    mark_as_demo(settings)
    claim(settings, for_demo=True)
    assert not is_demos(settings)
