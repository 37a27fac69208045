"""Servers that come as a Debian package: nothing in the cache, the package manager keeps them.

Belongs here: seeing whether the package is there, and installing it as root. Not here: a particular server.
"""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from tools.services import toolchain
from tools.services.cache import Build, Cache, Installed, Say
from tools.services.errors import InstallError, MissingToolError
from tools.services.servers.base import Server


class DebianServer(Server):
    """A server of a Debian package."""

    package: ClassVar[str]

    @abstractmethod
    def program(self) -> Path | None:
        """The folder of the server's programs; nothing where it is not installed."""

    def installed(self, cache: Cache) -> Installed | None:
        """Whatever the machine has now; the cache only remembers how long it took and is not asked."""
        home = self.program()
        return Installed(home, 0, 0) if home else None

    def install(self, cache: Cache, say: Say) -> Installed:
        """Install the package where it is missing."""
        if found := self.installed(cache):
            return found
        if not toolchain.can_install():
            raise MissingToolError(f"{self.name} is not on this machine: install the Debian package {self.package}")
        made = cache.install(self.key, self.build, say)
        home = self.program()
        if not home:
            raise InstallError(f"the Debian package {self.package} is installed, yet its programs are not found")
        return Installed(home, made.seconds, made.size_bytes, fresh=made.fresh)

    def build(self, build: Build) -> None:
        """Let apt-get install it."""
        toolchain.apt_install([self.package], build.apt)
