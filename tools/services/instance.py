"""One running server: started, asked whether it is well, paused, killed, restarted with its data, stopped.

Belongs here: one instance's life. Not here: several together (group.py), or outliving a command (background.py).
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tools.services import ports, processes
from tools.services.errors import StartError
from tools.services.servers.base import NotReadyError, Place, Server

_LOOK_SECONDS: Final = 0.1


@dataclass
class Instance:
    """A server in its place. `process` is nothing while it is stopped or killed."""

    server: Server
    place: Place = field(repr=False)
    guarded: bool = True
    process: psutil.Process | None = None
    _guard: processes.Guard | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The server's name."""
        return self.server.name

    @property
    def address(self) -> str:
        """How a client is told where it is: host:port (Kafka, Redis, PostgreSQL) or a URL; no credentials in it."""
        return self.server.address(self.place)

    @property
    def host_port(self) -> str:
        """host:port of its main port."""
        return self.place.address

    @property
    def credentials(self) -> dict[str, str]:
        """Made for this instance; which there are stands in the server's class."""
        return dict(self.place.credentials)

    @property
    def settings(self) -> dict[str, str]:
        """The SIEIS_* variables that make SIEIS use it; secrets among them."""
        return self.server.settings(self.place)

    @property
    def log(self) -> Path:
        """The file of its output, of all its starts."""
        return self.place.folder / f"{self.name}.log"

    @property
    def pids(self) -> list[int]:
        """Its processes that are alive."""
        return [one.pid for one in processes.tree(self.process)] if self.process else []

    def start(self, spawned: Callable[[psutil.Process], None] = lambda _process: None) -> None:
        """Start it on its ports with its data and wait until it answers its protocol.

        `spawned` is told the process as soon as there is one, before the first wait: whoever is to find it again must
        know it even if this process is killed meanwhile. Raises: StartError, PortTakenError.
        """
        if self.pids:
            raise StartError(f"{self.name} is running already")
        ports.require_free({name: self.place.ports[name] for name in self.server.port_names if name != "proxied"})
        self.place.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.server.prepare(self.place)
        launch = self.server.launch(self.place)
        self.process = None
        try:
            self._guard = processes.Guard() if self.guarded else None
            with self.log.open("ab") as log:
                self.process = processes.spawn(
                    launch.argv,
                    log=log,
                    cwd=self.place.folder,
                    guard=self._guard,
                    extra_env=launch.env,
                    user=launch.user,
                )
            spawned(self.process)
            self.go_on()
        except BaseException:
            self.kill()
            raise

    def go_on(self) -> None:
        """Wait until it answers, and do what its first use takes; also where another process has started it.

        Raises: StartError.
        """
        self.wait_ready()
        self.server.first_use(self.place)

    def wait_ready(self, seconds: float | None = None) -> None:
        """Wait until it answers its protocol. Raises: StartError when it ends, or takes longer than `seconds`."""
        allowed = self.server.ready_seconds if seconds is None else seconds
        deadline = time.monotonic() + allowed
        while True:
            if not self.pids:
                raise StartError(f"{self.name} ended while starting ({self.log}):\n{processes.last_lines(self.log)}")
            try:
                self.server.check(self.place)
                return
            except NotReadyError as error:
                if time.monotonic() > deadline:
                    lines = processes.last_lines(self.log)
                    raise StartError(
                        f"{self.name} did not answer within {allowed:.0f} s: {error} ({self.log}):\n{lines}"
                    ) from error
            time.sleep(_LOOK_SECONDS)

    def is_ready(self) -> bool:
        """Whether it answers its protocol now (a paused server takes seconds to be known as silent)."""
        if not self.pids:
            return False
        try:
            self.server.check(self.place)
        except NotReadyError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL it and its children, as a power cut would. Raises: StopError."""
        if self.process:
            processes.kill(self.process)
        self._release()
        self.process = None

    def stop(self) -> None:
        """Stop it as its operator would; kills what does not stop in time. Raises: StopError."""
        if self.process:
            processes.end(self.process, stop_signal=self.server.stop_signal, grace_seconds=self.server.stop_seconds)
        self._release()
        self.process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        if self.process:
            processes.send(processes.tree(self.process), signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        if self.process:
            processes.send(processes.tree(self.process), signal.SIGCONT)

    def restart(self) -> None:
        """Stop it if it runs; start it on the same ports with the same data and credentials.

        Raises: StartError, PortTakenError, StopError.
        """
        self.stop()
        self.start()

    def _release(self) -> None:
        if self._guard:
            self._guard.release()
            self._guard = None
