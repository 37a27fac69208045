"""Child processes that never outlive their parent, whatever kills it, and the end of whole process trees.

Belongs here: starting, guarding and ending processes. Not here: what they run.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import psutil

from tools.services.errors import StartError, StopError

_KILL_SECONDS: Final = 10.0
_RUN_SECONDS: Final = 120.0

# Reads a pipe whose other end only the parent holds: end of file means that the parent is gone, by SIGKILL too.
# (PR_SET_PDEATHSIG would fire when the starting *thread* ends, and servers are started from a pool.)
_GUARD_SCRIPT: Final = "read -r _; kill -9 0"


class Guard:
    """A process group whose members are killed as soon as this Python process is gone, unless released before.

    It leads the group and is there before them: no moment is left in which they would be unguarded.
    """

    def __init__(self) -> None:
        self._shell = subprocess.Popen(  # noqa: S603 - a fixed script
            ["/bin/sh", "-c", _GUARD_SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # also: a Ctrl-C for the parent is none for the group
        )

    @property
    def group(self) -> int:
        """The group to start processes in."""
        return self._shell.pid

    def release(self) -> None:
        """End the guard; the group's other members live on."""
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin:
            self._shell.stdin.close()

    def __enter__(self) -> "Guard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def spawn(
    argv: Sequence[str],
    *,
    log: IO[bytes],
    cwd: Path,
    guard: Guard | None,
    extra_env: Mapping[str, str] | None = None,
    user: str | None = None,
) -> psutil.Popen:
    """Start a process, its output appended to `log`, as `user` when given (root only).

    Without a guard it leads a session of its own and outlives this process.
    """
    # Passing the environment on is not reading configuration from it.
    environment = {**os.environ, **(extra_env or {})}
    as_user = {"user": user, "group": user, "extra_groups": []} if user else {}
    return psutil.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=environment,
        start_new_session=guard is None,
        process_group=guard.group if guard else None,
        **as_user,
    )


def run(argv: Sequence[str], log: Path, *, user: str | None = None, cwd: Path | None = None) -> None:
    """Run a short command to its end, its output appended to `log`.

    Raises: StartError when it fails.
    """
    with log.open("ab") as output, Guard() as guard:
        process = spawn(argv, log=output, cwd=cwd or log.parent, guard=guard, user=user)
        try:
            code = process.wait(_RUN_SECONDS)
        except psutil.TimeoutExpired:
            code = None
        finally:
            kill(process)
    if code != 0:
        how = f"failed with code {code}" if code is not None else f"did not end within {_RUN_SECONDS:.0f} s"
        raise StartError(f"`{argv[0]}` {how} ({log}):\n{last_lines(log)}")


def tree(process: psutil.Process) -> list[psutil.Process]:
    """The process and its descendants that are still alive; empty when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return [process, *process.children(recursive=True)]
    return []


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each process that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def end(process: psutil.Process, *, stop_signal: signal.Signals, grace_seconds: float) -> None:
    """Stop a process and its descendants: the signal to the leader, then SIGKILL to whatever is left.

    Raises: StopError when a process survives even that.
    """
    family = tree(process)
    if family:
        send(family, signal.SIGCONT)  # a paused process takes no other signal
        send(family[:1], stop_signal)
        psutil.wait_procs(family[:1], timeout=grace_seconds)
    kill(process, family)


def kill(process: psutil.Process, family: Sequence[psutil.Process] = ()) -> None:
    """SIGKILL a process and its descendants (and those of `family` that are left) and wait until they are gone.

    Raises: StopError when a process survives that.
    """
    everyone = {*tree(process), *family}
    send(everyone, signal.SIGKILL)
    _, left = psutil.wait_procs([process, *everyone], timeout=_KILL_SECONDS)
    if left := [one for one in left if tree(one)]:
        pids = ", ".join(str(one.pid) for one in left)
        raise StopError(f"still there after SIGKILL: process {pids}")


def find(pid: int, created: float) -> psutil.Process | None:
    """The process of that id, if it is still the one that started at `created` (Unix seconds)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < 1 and tree(process):
            return process
    return None


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log file, indented; says so when there is none."""
    with contextlib.suppress(FileNotFoundError):
        lines = log.read_text(errors="replace").splitlines()[-count:]
        if lines:
            return "\n".join(f"    {line}" for line in lines)
    return "    (no output)"
