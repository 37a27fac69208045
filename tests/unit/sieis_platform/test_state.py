"""The operational state: kept across processes, one position a topic, named errors."""

from pathlib import Path

import pytest

from sieis_platform.settings import Settings
from sieis_platform.state import SimulatorPosition, State, StateError, StateUnavailableError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "new" / "var", _env_file=None)


def test_the_position_is_kept_when_everything_is_opened_again(settings: Settings) -> None:
    position = SimulatorPosition(timestamp=1_772_000_000_123_456_000, mote_id=2**31 - 1, emitted=2**40)
    with State.open(settings) as state:
        assert state.simulator_position("readings") is None
        state.save_simulator_position("readings", SimulatorPosition(1, 1, 1))
        state.save_simulator_position("readings", position)
    with State.open(settings) as state:
        assert state.simulator_position("readings") == position


def test_topics_have_positions_of_their_own(settings: Settings) -> None:
    with State.open(settings) as state:
        state.save_simulator_position("a", SimulatorPosition(1, 2, 3))
        assert state.simulator_position("b") is None


def test_two_processes_write_at_once(settings: Settings) -> None:
    with State.open(settings) as one, State.open(settings) as other:
        for emitted in range(20):
            one.save_simulator_position("a", SimulatorPosition(1, 1, emitted))
            other.save_simulator_position("b", SimulatorPosition(1, 1, emitted))
        assert one.simulator_position("b") == other.simulator_position("b") == SimulatorPosition(1, 1, 19)


def test_a_foreign_file_is_named(settings: Settings) -> None:
    settings.state_path.parent.mkdir(parents=True)
    settings.state_path.write_bytes(b"not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(StateError, match=r"state\.sqlite"):
        State.open(settings)


def test_a_folder_that_cannot_be_written_is_named(settings: Settings) -> None:
    settings.state_path.mkdir(parents=True)
    with pytest.raises(StateUnavailableError, match=r"state\.sqlite"):
        State.open(settings)
