"""The servers of `make services-up`: they outlive the command that started them and are found again by a state file.

Belongs here: that file and what up, down and status do with it. Not here: how it looks (__main__.py).

The state file holds, for each server, its ports and credentials (it is readable by its owner only) and its process.
`down` keeps data, ports and credentials, so that `up` goes on where it was; `down(delete=True)` forgets them.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import psutil

from tools.services import ports, processes
from tools.services.cache import Cache
from tools.services.errors import StateError
from tools.services.install import SayOf, install
from tools.services.instance import Instance
from tools.services.servers import SERVERS
from tools.services.servers.base import Place, Server, write_private

_STATE: Final = "state.json"


@dataclass
class Entry:
    """What the state file knows of one server."""

    home: str
    ports: dict[str, int]
    credentials: dict[str, str] = field(repr=False)
    pid: int | None = None
    created: float = 0.0


@dataclass(frozen=True)
class Status:
    """How one server is: not installed, stopped, starting (runs, does not answer) or running."""

    name: str
    state: str
    address: str = ""
    pid: int | None = None
    log: str = ""


class Background:
    """The servers of one folder; `cache` is where they are installed."""

    def __init__(self, folder: Path, cache: Cache) -> None:
        self.folder = folder
        self.cache = cache

    def up(self, servers: Sequence[Server], say: SayOf) -> None:
        """Install and start those that are not running; a failure leaves the others up.

        Raises: MissingToolError, InstallError, StartError, PortTakenError.
        """
        homes = install(servers, self.cache, say)
        with self._state() as state:
            for server in servers:
                entry = self._entry(state, server, homes[server.name].home)
                instance = self._instance(server, entry)
                if instance.pids:
                    instance.go_on()
                    say(server.name, f"running already at {instance.address}")
                    continue
                say(server.name, "starting ...")
                instance.start(partial(self._note, state, entry))
                say(server.name, f"running at {instance.address}")

    def down(self, servers: Sequence[Server], say: SayOf, *, delete: bool = False) -> None:
        """Stop those that run; with `delete` remove their data and credentials too. Raises: StopError."""
        with self._state() as state:
            for server in servers:
                if not (entry := state.get(server.name)):
                    continue
                instance = self._instance(server, entry)
                if instance.pids:
                    say(server.name, "stopping ...")
                    instance.stop()
                    say(server.name, "stopped")
                entry.pid = None
                if delete:
                    server.remove(instance.place)
                    shutil.rmtree(instance.place.folder, ignore_errors=True)
                    del state[server.name]
                    say(server.name, "data removed")
                self._save(state)

    def status(self, servers: Sequence[Server]) -> list[Status]:
        """How each is now; asks the running ones in their protocol."""
        state = self._read()
        return [self._status(server, state.get(server.name)) for server in servers]

    def settings(self, servers: Sequence[Server]) -> dict[str, str]:
        """The SIEIS_* variables of those that run; where two give the same one, the first wins."""
        state = self._read()
        merged: dict[str, str] = {}
        for server in servers:
            if (entry := state.get(server.name)) and (instance := self._instance(server, entry)).pids:
                merged = instance.settings | merged
        return merged

    def _status(self, server: Server, entry: Entry | None) -> Status:
        if not entry:
            return Status(server.name, "stopped" if server.installed(self.cache) else "not installed")
        instance = self._instance(server, entry)
        if not instance.pids:
            return Status(server.name, "stopped", log=str(instance.log))
        state = "running" if instance.is_ready() else "not answering"
        return Status(server.name, state, instance.address, entry.pid, str(instance.log))

    def _entry(self, state: dict[str, Entry], server: Server, home: Path) -> Entry:
        entry = state.get(server.name)
        if not entry:
            entry = Entry(str(home), {}, server.new_credentials())
            state[server.name] = entry
        running = self._instance(server, entry).pids
        if not running:
            entry.home = str(home)
            entry.pid = None
            # What an earlier version of the server had no need of is added.
            entry.credentials = server.new_credentials() | entry.credentials
            known = entry.ports.keys() == set(server.port_names)
            if not known or not all(ports.is_free(port) for port in entry.ports.values()):
                taken = {port for other in state.values() for port in other.ports.values()}
                entry.ports = ports.choose(server.port_names, taken)
        self._save(state)
        return entry

    def _note(self, state: dict[str, Entry], entry: Entry, process: psutil.Process) -> None:
        entry.pid, entry.created = process.pid, process.create_time()
        self._save(state)

    def _instance(self, server: Server, entry: Entry) -> Instance:
        place = Place(Path(entry.home), self.folder / server.name, entry.ports, entry.credentials)
        process = processes.find(entry.pid, entry.created) if entry.pid else None
        return Instance(server, place, guarded=False, process=process)

    @contextlib.contextmanager
    def _state(self) -> Iterator[dict[str, Entry]]:
        """The state, to be changed; one command at a time."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield self._read()

    def _read(self) -> dict[str, Entry]:
        path = self.folder / _STATE
        try:
            return {name: Entry(**entry) for name, entry in json.loads(path.read_bytes()).items() if name in SERVERS}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError) as error:
            raise StateError(f"{path} is not a state file of this version: stop its servers and remove it") from error

    def _save(self, state: dict[str, Entry]) -> None:
        new = self.folder / f"{_STATE}.new"
        write_private(new, json.dumps({name: asdict(entry) for name, entry in state.items()}, indent=1))
        new.replace(self.folder / _STATE)
