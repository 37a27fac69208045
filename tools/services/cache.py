"""The cache of installed servers: each in a folder that is either whole or not there, one builder at a time.

Belongs here: locks, atomic installs, running an install's commands. Not here: the recipes (servers/).

Layout: `NAME-VERSION/` installed, `building/NAME-VERSION/` being made, `locks/`, `logs/NAME-VERSION.log`. A killed
install leaves only something under `building/`, which the next one sweeps away; what was downloaded and compiled until
then lies in the build tools' own caches, so that it goes on rather than starting again.
"""

import contextlib
import fcntl
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tools.services import processes
from tools.services.errors import InstallCancelledError, InstallError

_LOOK_SECONDS: Final = 0.2
_NICENESS: Final = "15"  # a build must not slow what else runs on the machine
_RECORD: Final = "installed.json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Installed:
    """An installed server: where, how long it took to make (seconds), and its size (bytes)."""

    home: Path
    seconds: float
    size_bytes: int
    fresh: bool = False


class Build:
    """What a recipe works with: the folder to fill, and a way to run commands."""

    def __init__(self, cache: "Cache", directory: Path, log: Path) -> None:
        self.cache = cache
        self.directory = directory
        self.log = log

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        """Run a command at low priority; its output goes to the log.

        Raises: InstallError when it fails, InstallCancelledError when the cache was told to give up.
        """
        with self.log.open("ab") as log, processes.Guard() as guard:
            log.write(f"$ {' '.join(argv)}\n".encode())
            log.flush()
            process = processes.spawn(
                ["nice", "-n", _NICENESS, *argv], log=log, cwd=cwd or self.directory, guard=guard, extra_env=env
            )
            try:
                while True:
                    with contextlib.suppress(psutil.TimeoutExpired):
                        code = process.wait(_LOOK_SECONDS)
                        break
                    if self.cache.cancelled.is_set():
                        raise InstallCancelledError("the install was given up")
            finally:
                processes.end(process, stop_signal=signal.SIGTERM, grace_seconds=5)
        if code != 0:
            raise InstallError(
                f"`{' '.join(argv)}` failed with code {code}; its last lines ({self.log}):\n"
                f"{processes.last_lines(self.log)}"
            )

    def apt(self, argv: Sequence[str]) -> None:
        """Run a command of the package manager, one at a time on this machine's cache."""
        with self.cache.lock("apt", lambda _: None):
            self.run(argv)


class Cache:
    """A folder of installed servers; `cancelled`, once set, ends the installs under way."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cancelled = threading.Event()

    def installed(self, key: str) -> Installed | None:
        """The install of that key, if it is whole."""
        with contextlib.suppress(FileNotFoundError):
            record = json.loads((self.root / key / _RECORD).read_bytes())
            return Installed(self.root / key, record["seconds"], record["size_bytes"])
        return None

    def install(self, key: str, recipe: Callable[[Build], None], say: Say) -> Installed:
        """The install of that key, made by `recipe` where it is not there yet; waits for another one at it.

        Raises: InstallError, InstallCancelledError, and what the recipe raises.
        """
        if found := self.installed(key):
            return found
        with self.lock(key, say):
            if found := self.installed(key):  # made while we waited
                return found
            building = self.root / "building" / key
            _sweep(building)
            building.mkdir(parents=True)
            log = self.root / "logs" / f"{key}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.unlink(missing_ok=True)
            say(f"installing (log: {log}) ...")
            begun = time.monotonic()
            recipe(Build(self, building, log))
            record = {"seconds": round(time.monotonic() - begun, 1), "size_bytes": _size(building)}
            (building / _RECORD).write_text(json.dumps(record))
            _sweep(self.root / key)  # a folder without its record is not an install
            building.rename(self.root / key)
            return Installed(self.root / key, record["seconds"], record["size_bytes"], fresh=True)

    @contextlib.contextmanager
    def lock(self, name: str, say: Say) -> Iterator[None]:
        """Hold the lock of that name; the system frees it when its holder dies.

        Raises: InstallCancelledError when told to give up while waiting.
        """
        path = self.root / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as handle:
            waiting = False
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waiting:
                        say("waiting for another install of the same ...")
                    waiting = True
                if self.cancelled.wait(_LOOK_SECONDS):
                    raise InstallCancelledError("the install was given up")
            yield


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _sweep(folder: Path) -> None:
    """Remove a folder and all in it, read-only folders (Go's module cache) too."""
    if folder.exists():
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)
