"""What every server says of itself: how it is installed, configured, started, asked whether it is well, and reached.

Belongs here: that contract and what two servers share. Not here: processes and state (instance.py, native.py).
"""

import secrets
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tools.services.cache import Build, Cache, Installed, Say

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """One instance's place: the installed program, a folder of its own, its ports by name, its credentials."""

    home: Path
    folder: Path
    ports: Mapping[str, int]
    credentials: Mapping[str, str] = field(repr=False)

    @property
    def data(self) -> Path:
        """The folder of the server's data."""
        return self.folder / "data"

    @property
    def address(self) -> str:
        """host:port of the server's main port."""
        return f"{HOST}:{self.ports['main']}"


@dataclass(frozen=True)
class Launch:
    """How a server is started; `env` is added to the environment (secrets go there or into a file, never into argv)."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    user: str | None = None


class NotReadyError(Exception):
    """A server does not answer its protocol yet; the text says how it failed."""


class Server(ABC):
    """One kind of server."""

    name: ClassVar[str]
    version: ClassVar[str]
    port_names: ClassVar[Sequence[str]] = ("main",)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_seconds: ClassVar[float] = 30.0
    ready_seconds: ClassVar[float] = 90.0  # a JVM on two busy cores

    @property
    def key(self) -> str:
        """Name of the install in the cache."""
        return f"{self.name}-{self.version}"

    def installed(self, cache: Cache) -> Installed | None:
        """The install, if it is there."""
        return cache.installed(self.key)

    def install(self, cache: Cache, say: Say) -> Installed:
        """The install, made where it is missing. Raises: what Cache.install raises, MissingToolError."""
        return cache.install(self.key, self.build, say)

    @abstractmethod
    def build(self, build: Build) -> None:
        """Fill `build.directory` with the program. Raises: InstallError, MissingToolError."""

    def new_credentials(self) -> dict[str, str]:
        """Credentials of a new instance; none by default."""
        return {}

    @abstractmethod
    def prepare(self, place: Place) -> None:
        """Write the configuration; make the data where there is none yet. Called before every start."""

    @abstractmethod
    def launch(self, place: Place) -> Launch:
        """The command that runs the server in the foreground."""

    @abstractmethod
    def check(self, place: Place) -> None:
        """Ask the server something in its own protocol, with the credentials.

        Raises: NotReadyError.
        """

    def first_use(self, place: Place) -> None:  # noqa: B027 - most servers need none
        """What must be done once the server answers; does nothing when it has been done."""

    def address(self, place: Place) -> str:
        """How a client is told where the server is (host:port or a URL), without credentials."""
        return place.address

    @abstractmethod
    def settings(self, place: Place) -> dict[str, str]:
        """The SIEIS_* variables that make SIEIS use this server."""

    def remove(self, place: Place) -> None:  # noqa: B027 - most servers keep everything in the folder
        """Remove what lies outside the instance's folder."""


def new_secret() -> str:
    """A strong secret without characters that a shell, a URL or a config file would have to escape."""
    return secrets.token_hex(24)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)
