"""Runs several processes as one: starts them, waits until they are ready, tells which died and why, leaves no orphan.

Belongs here: processes, their logs and their end. Not here: which parts SIEIS has (parts.py) or how it looks (up.py).

Written here because honcho's manager kills after 5 s (the consumer may take 10 s to flush), knows no order of
stopping, no readiness, and does not see grandchildren that left their process group.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from sieis_platform.errors import FatalError

MARKER: Final = "SIEIS_UP_RUN"
"""Variable by which every process of one run is known, however deep and in whatever process group it lives."""

_LOOK_SECONDS: Final = 0.2
_GRACE_SECONDS: Final = 15.0  # the consumer promises to flush and commit within 10 s of SIGTERM
_KILL_SECONDS: Final = 5.0
_LOG_BYTES: Final = 50_000_000  # a log that grows beyond this becomes NAME.log.1 and starts again
_LAST_LINES: Final = 15


class PartDiedError(FatalError):
    """A part ended by itself."""


class NotReadyError(FatalError):
    """A part runs but did not become ready in time."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process: its command, when it counts as ready, and when in the shutdown it is stopped.

    `ready` is asked again and again and must answer at once. Parts with a lower `start_stage` are ready before the next
    stage starts; those with a lower `stop_stage` have ended before the next stage is stopped.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_seconds: float = 180.0  # a first start on two busy cores imports everything at once
    start_stage: int = 1
    stop_stage: int = 0


@dataclass
class Running:
    """A started part."""

    part: Part
    process: subprocess.Popen[bytes]
    log: Path
    ready: bool = False

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the part's process and its descendants; pages they share are counted for each."""
        total = 0
        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(self.process.pid)
            for process in [leader, *leader.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
        return total


class Supervisor:
    """Runs `parts` as children of this process, each in a session of its own, logging to `log_dir`/NAME.log.

    `run` is a name no other run has. Not for use by several threads, but `stopping` may be set from anywhere (a signal
    handler): whatever is going on then ends early.
    """

    def __init__(self, parts: Sequence[Part], log_dir: Path, run: str) -> None:
        self._parts = parts
        self._log_dir = log_dir
        self.run = run
        self.running: list[Running] = []
        self.stopping = threading.Event()
        self.hurry = threading.Event()

    def start(self, changed: Callable[[Running], None] = lambda _: None) -> None:
        """Start every part and return when all are ready, or when `stopping` is set.

        `changed` hears of each part that became ready.
        Raises: PartDiedError, NotReadyError; what has started until then keeps running until `stop`.
        """
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for stage in sorted({part.start_stage for part in self._parts}):
            started = [self._spawn(part) for part in self._parts if part.start_stage == stage]
            self._await_ready(started, changed)

    def watch(self) -> None:
        """Return when `stopping` is set. Raises: PartDiedError."""
        while not self.stopping.wait(1.0):
            self._check()
            for part in self.running:
                _rotate_while_written(part.log)

    def stop(self) -> None:
        """End every part, stage by stage: SIGTERM, after the grace period SIGKILL; then whatever they left behind."""
        for stage in sorted({running.part.stop_stage for running in self.running}):
            self._stop_stage([running for running in self.running if running.part.stop_stage == stage])
        end_processes(survivors(self.run))

    def _spawn(self, part: Part) -> Running:
        log = self._log_dir / f"{part.name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        # Straight into the file, not through a pipe of ours: a part must outlive neither nor hang on its supervisor.
        # Passing the environment on is not reading configuration from it.
        environment = {**os.environ, **part.environment, MARKER: self.run}
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own commands
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops them in order
            )
        running = Running(part, process, log)
        self.running.append(running)
        return running

    def _await_ready(self, started: Iterable[Running], changed: Callable[[Running], None]) -> None:
        waiting = deque(started)
        begun = time.monotonic()
        while waiting and not self.stopping.is_set():
            self._check()
            for running in list(waiting):
                if running.part.ready():
                    running.ready = True
                    waiting.remove(running)
                    changed(running)
                elif time.monotonic() - begun > running.part.ready_seconds:
                    raise NotReadyError(
                        f"{running.part.name} is not ready after {running.part.ready_seconds:g} s; "
                        f"its log ({running.log}) ends:\n{last_lines(running.log)}"
                    )
            if waiting:
                self.stopping.wait(_LOOK_SECONDS)

    def _check(self) -> None:
        if self.stopping.is_set():
            return
        for running in self.running:
            code = running.process.poll()
            if code is not None:
                end = last_lines(running.log)
                raise PartDiedError(f"{running.part.name} ended {_ending(code)}; its log ({running.log}) ends:\n{end}")

    def _stop_stage(self, stage: Sequence[Running]) -> None:
        alive = [running.process for running in stage if running.process.poll() is None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        while alive and time.monotonic() < deadline and not self.hurry.is_set():
            alive = [process for process in alive if process.poll() is None]
            if alive:
                self.hurry.wait(0.05)
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def survivors(run: str) -> list[psutil.Process]:
    """Every process of this user that carries the name of the run in its environment, except this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARKER) == run:
                found.append(process)
    return found


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """SIGTERM, and SIGKILL for what is still there some seconds later."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_KILL_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=_KILL_SECONDS)


def last_lines(log: Path, count: int = _LAST_LINES) -> str:
    """The last lines of a log, indented; at most the last 20 kB are read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(f"    {line}" for line in lines[-count:]) or "    (empty)"


def _ending(code: int) -> str:
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _rotate_while_written(log: Path) -> None:
    # The part keeps the file open for appending: copying and truncating is the one way to start it anew.
    if log.stat().st_size > _LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)
