"""The servers that outlive their command: known from the moment they run, also with a state of an earlier version.

Belongs here: the state file and processes. Not here: real servers (tests/services/test_services.py).
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tools.services import processes
from tools.services.background import Background, Entry
from tools.services.cache import Cache, Installed, Say
from tools.services.ports import choose
from tools.services.servers.base import Launch, NotReadyError, Place
from tools.services.servers.kafka import Kafka
from tools.services.servers.redis import Redis

ROOT = Path(__file__).resolve().parents[3]

_UP = """
import sys
from tests.unit.tools.test_services_background import Deaf, background
background(sys.argv[1]).up([Deaf()], lambda name, text: None)
"""


class Deaf(Redis):
    """Runs and answers nobody; says when it is asked."""

    def install(self, cache: Cache, say: Say) -> Installed:
        del cache, say
        return Installed(Path(sys.executable).parent, seconds=0, size_bytes=0)

    def launch(self, place: Place) -> Launch:
        del place
        return Launch([sys.executable, "-c", "import signal; signal.pause()"])

    def check(self, place: Place) -> None:
        del place
        print("asked", flush=True)  # noqa: T201 - what the test waits for
        raise NotReadyError("it is deaf")


class Woken(Deaf):
    """The same one, answering by now."""

    def __init__(self) -> None:
        self.used: list[Place] = []

    def check(self, place: Place) -> None:
        del place

    def first_use(self, place: Place) -> None:
        self.used.append(place)


def background(folder: str | Path) -> Background:
    return Background(Path(folder) / "services", Cache(Path(folder) / "cache"))


@pytest.fixture
def half_started(tmp_path: Path) -> Iterator[psutil.Process]:
    """A server whose `up` was killed while it waited for the first answer."""
    up = subprocess.Popen([sys.executable, "-c", _UP, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with up:
        assert up.stdout is not None
        assert up.stdout.readline() == "asked\n"
        (server,) = psutil.Process(up.pid).children()
        up.kill()
    yield server
    background(tmp_path).down([Woken()], lambda _name, _text: None)
    processes.kill(server)


def test_a_server_whose_up_was_killed_is_known_and_is_stopped(half_started: psutil.Process, tmp_path: Path) -> None:
    (status,) = background(tmp_path).status([Deaf()])
    assert (status.state, status.pid) == ("not answering", half_started.pid)
    background(tmp_path).down([Deaf()], lambda _name, _text: None)
    assert not processes.tree(half_started)
    (status,) = background(tmp_path).status([Woken()])
    assert status.state == "stopped"


def test_the_next_up_goes_on_with_it_and_starts_no_second_one_on_its_data(
    half_started: psutil.Process, tmp_path: Path
) -> None:
    server, said = Woken(), []
    background(tmp_path).up([server], lambda _name, text: said.append(text))
    (status,) = background(tmp_path).status([server])
    assert (status.state, status.pid) == ("running", half_started.pid)
    assert said == [f"running already at {status.address}"]
    assert len(server.used) == 1, "what is done at the first use may not have been done"


def test_ports_and_secrets_that_a_server_needs_only_now_are_added_and_the_others_kept(tmp_path: Path) -> None:
    background = Background(tmp_path, Cache(tmp_path / "cache"))
    state = {"kafka": Entry("elsewhere", choose(["main", "controller"]), {"password": "kept"})}
    entry = background._entry(state, Kafka(), tmp_path / "home")
    assert entry.ports.keys() == set(Kafka.port_names)
    assert entry.credentials["password"] == "kept"
    assert entry.credentials["key_password"]
    ports = dict(entry.ports)
    assert background._entry(background._read(), Kafka(), tmp_path / "home").ports == ports, "and then they stay"
