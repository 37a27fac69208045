"""A sensor that keeps failing is told, by ticks that Dagster's own daemon code makes of the real definitions."""

import datetime as dt
import logging
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import execute_sensor_iteration

from sieis_platform.settings import Settings
from sieis_platform.state import State

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation with its own inbox."""
    return Settings(data_dir=tmp_path / "var", inbox_dir=tmp_path / "inbox")


@pytest.fixture
def workspace(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceProcessContext]:
    """Its definitions in a code server, as the daemon loads them."""
    monkeypatch.setenv("SIEIS_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("SIEIS_INBOX_DIR", str(settings.inbox_dir))
    target = ModuleTarget("sieis_platform.definitions", None, str(Path.cwd()), "sieis")
    with (
        dg.instance_for_test() as instance,
        create_test_daemon_workspace_context(target, instance) as made,
    ):
        yield made


class Daemon:
    """The daemon's look at all sensors, a minute and a second after the last."""

    def __init__(self, workspace: WorkspaceProcessContext) -> None:
        self._workspace, self._now = workspace, dt.datetime.now(dt.UTC)

    def look(self) -> None:
        self._now += dt.timedelta(seconds=61)
        with freeze_time(self._now):
            list(execute_sensor_iteration(self._workspace, logging.getLogger("daemon"), None, None))


def alerts(settings: Settings) -> list[tuple[str, str]]:
    """Level and title of what was kept, oldest first."""
    if not settings.state_path.exists():
        return []
    with State.open(settings) as state:
        return [(one.alert.level, one.alert.title) for one in reversed(state.recent_alerts(100))]


def test_a_sensor_that_keeps_failing_is_one_alert_and_its_recovery_another(
    settings: Settings, workspace: WorkspaceProcessContext
) -> None:
    daemon = Daemon(workspace)
    settings.inbox_location.write_text("a file where the folder should be")
    daemon.look()
    daemon.look()
    assert alerts(settings) == []  # it may be over at the next look
    for _ in range(3):
        daemon.look()
    failing = ("failure", "The sensor inbox keeps failing")
    assert alerts(settings) == [failing]
    with State.open(settings) as state:
        (stored,) = state.recent_alerts(1)
    assert str(settings.inbox_location) in stored.alert.text
    assert "Traceback" not in stored.alert.text
    settings.inbox_location.unlink()
    settings.inbox_location.mkdir()
    daemon.look()
    daemon.look()
    assert alerts(settings) == [failing, ("success", "inbox works again")]
