"""The programs an install needs: which, since when, and the Debian package or the advice that brings each.

Belongs here: finding them and, as root on Debian, installing their packages. Not here: what is built with them.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.services.errors import InstallError, MissingToolError

_VERSION: Final = re.compile(r"(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Tool:
    """A program: the command that must be found, its Debian package (else the advice), its least version."""

    command: str
    advice: str
    package: str | None = None
    version_argument: str = "--version"
    least: tuple[int, int] = (0, 0)

    @property
    def path(self) -> str | None:
        """Where the program is; nothing when it is absent or too old."""
        found = shutil.which(self.command)
        if found and self.least > (0, 0):
            outcome = subprocess.run([found, self.version_argument], capture_output=True, text=True, check=False)  # noqa: S603
            numbers = _VERSION.search(outcome.stdout or outcome.stderr)
            if not numbers or (int(numbers[1]), int(numbers[2] or 0)) < self.least:
                return None
        return found

    @property
    def need(self) -> str:
        """What is missing and how to get it, in one line."""
        since = f" {self.least[0]}.{self.least[1]} or newer" if self.least > (0, 0) else ""
        package = f"Debian package {self.package}" if self.package else ""
        return f"{self.command}{since}: {'; '.join(text for text in (package, self.advice) if text)}"


GO: Final = Tool("go", "from go.dev/dl (Debian 12's own is too old)", version_argument="version", least=(1, 21))
CARGO: Final = Tool("cargo", "with rustup, from rustup.rs", least=(1, 75))
CLANG: Final = Tool("clang", "or your system's clang", "clang")
PROTOC: Final = Tool("protoc", "or your system's protobuf compiler", "protobuf-compiler")
JAVA: Final = Tool("java", "or any Java 17+", "openjdk-17-jre-headless", "-version", (17, 0))
MAVEN: Final = Tool("mvn", "or from maven.apache.org", "maven")


def require(tools: Sequence[Tool], run: "Callable[[Sequence[str]], None]") -> None:
    """See to it that all tools are there; `run` carries out the package manager's commands.

    Raises: MissingToolError naming every one that is not and cannot be installed by us.
    """
    missing = [tool for tool in tools if not tool.path]
    packages = [tool.package for tool in missing if tool.package]
    if packages and can_install():
        apt_install(packages, run)
        missing = [tool for tool in missing if not tool.path]
    if missing:
        raise MissingToolError(
            "\n".join(["programs are missing on this machine:", *(f"  {tool.need}" for tool in missing)])
        )


def can_install() -> bool:
    """Whether Debian packages can be installed here: apt-get, and root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(packages: Sequence[str], run: "Callable[[Sequence[str]], None]") -> None:
    """Install Debian packages without questions and without starting their services.

    Raises: InstallError.
    """
    # RUNLEVEL=1: a package's own service (a PostgreSQL on 5432, a Redis on 6379) is not started.
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600"]
    try:
        run([*apt, "update"])
    except InstallError:
        if not Path("/var/lib/apt/lists").is_dir():
            raise
        # One unreachable source must not stop the install of a package that another one has.
    run([*apt, "install", "--yes", "--no-install-recommends", *packages])
