"""The operational state on SQLite and PostgreSQL: kept across processes, one position a topic, named errors."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sieis_platform.settings import Settings
from sieis_platform.state import SimulatorPosition, State, StateError, StateUnavailableError
from tests.databases import in_new_database
from tools.services.group import Services
from tools.services.instance import Instance
from tools.services.servers.postgres import query


@pytest.fixture(scope="module")
def postgres() -> Iterator[Instance]:
    with Services.start(["postgres"]) as services:
        yield services["postgres"]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        return Settings(data_dir=tmp_path / "new" / "var", _env_file=None)
    return in_new_database(request.getfixturevalue("postgres"), tmp_path)


@pytest.fixture
def sqlite(tmp_path: Path) -> Settings:
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


def test_a_foreign_file_is_named(sqlite: Settings) -> None:
    sqlite.state_path.parent.mkdir(parents=True)
    sqlite.state_path.write_bytes(b"not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(StateError, match=r"state\.sqlite"):
        State.open(sqlite)


def test_a_folder_that_cannot_be_written_is_named(sqlite: Settings) -> None:
    sqlite.state_path.mkdir(parents=True)
    with pytest.raises(StateUnavailableError, match=r"state\.sqlite"):
        State.open(sqlite)


@pytest.mark.parametrize("address", ["nonsense", "mysql://u:secret@h/d", "postgresql://u:secret@h:port/d", "://"])
def test_an_address_that_is_none_is_refused_without_telling_it(tmp_path: Path, address: str) -> None:
    with pytest.raises(StateError, match="SIEIS_STATE_URL") as refused:
        State.open(Settings(data_dir=tmp_path, state_url=SecretStr(address), _env_file=None))
    assert "secret" not in str(refused.value)


def test_a_server_that_is_not_there_is_unavailable_and_its_password_stays_secret(tmp_path: Path) -> None:
    address = SecretStr("postgresql://sieis:hunter2@127.0.0.1:1/sieis")
    with pytest.raises(StateUnavailableError, match=r"127\.0\.0\.1:1") as refused:
        State.open(Settings(data_dir=tmp_path, state_url=address, _env_file=None))
    assert "hunter2" not in str(refused.value)


@pytest.mark.services
def test_many_may_start_at_once_on_an_empty_server(postgres: Instance, tmp_path: Path) -> None:
    settings = in_new_database(postgres, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda _: State.open(settings), range(8)))
    for state in states:
        assert state.simulator_position("a") is None
        state.close()


@pytest.mark.services
def test_with_a_server_nothing_is_written_into_the_data_directory(postgres: Instance, tmp_path: Path) -> None:
    settings = in_new_database(postgres, tmp_path)
    with State.open(settings) as state:
        state.save_simulator_position("a", SimulatorPosition(1, 1, 1))
    assert not settings.data_dir.exists()


@pytest.mark.services
def test_the_state_outlives_a_restart_of_its_server(postgres: Instance, tmp_path: Path) -> None:
    with State.open(in_new_database(postgres, tmp_path)) as state:
        state.save_simulator_position("a", SimulatorPosition(1, 2, 3))
        postgres.kill()
        with pytest.raises(StateUnavailableError):
            state.simulator_position("a")
        postgres.start()
        assert state.simulator_position("a") == SimulatorPosition(1, 2, 3)


@pytest.mark.services
def test_a_user_without_rights_needs_a_person(postgres: Instance, tmp_path: Path) -> None:
    settings = in_new_database(postgres, tmp_path)
    user = f"nobody_{secrets.token_hex(4)}"
    query(postgres.place, f"create role {user} login password 'x'")
    assert settings.state_url is not None
    url = sa.make_url(settings.state_url.get_secret_value()).set(username=user, password="x")
    address = SecretStr(url.render_as_string(hide_password=False))
    with pytest.raises(StateError, match="permission denied"):
        State.open(settings.model_copy(update={"state_url": address}))
