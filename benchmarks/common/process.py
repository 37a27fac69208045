"""`sieis` as a process of its own, as an operator runs it, and what is seen of it from outside: metrics, memory, time.

Belongs here: starting, looking, stopping. Not here: which workload.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy as np
import psutil
from pydantic import SecretStr

from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings, Sink
from tools.services import ports

_ROOT: Final = Path(__file__).parents[2]
#: Each look costs the process that is measured some milliseconds, under its interpreter lock.
_LOOK_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 30.0
_SILENT_SECONDS: Final = 120.0  # no record in so long: it will not come
_COMMAND_SECONDS: Final = 600.0
_SAMPLE: Final = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_PEAK: Final = re.compile(r"VmHWM:\s+(\d+) kB")


class BenchmarkError(FatalError):
    """A process that is measured ended, failed or stands still; the text has its last lines."""


def environment(settings: Settings) -> dict[str, str]:
    """The variables that give a process these settings, secrets among them, and none of this process' own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SIEIS_")}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        own[f"SIEIS_{name.upper()}"] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return own | {"PYTHONPATH": str(_ROOT)}


def run_command(settings: Settings, *command: str) -> dict[str, Any]:
    """Run `sieis COMMAND`; what it prints, which is JSON. Raises: BenchmarkError."""
    # In a folder without a .env.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "sieis_cli", *command],
            env=environment(settings),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
    if done.returncode:
        raise BenchmarkError(f"sieis {command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return json.loads(done.stdout)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that processes have used so far, in all."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


class Consumer:
    """`sieis consume`; a context manager that stops it."""

    def __init__(self, settings: Settings, *sinks: Sink) -> None:
        port = ports.choose(["metrics"])["metrics"]
        settings = settings.model_copy(update={"metrics_port": port, "log_format": "json"})
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "consume.log"
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)
        options = [option for sink in sinks for option in ("--sink", sink)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sieis_cli", "consume", *options],
                env=environment(settings),
                cwd=self._folder.name,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid
        self.peak_bytes = 0

    def figures(self) -> dict[tuple[str, str], float]:
        """Every metric without more labels than the store's, by (name, store); empty until it serves them."""
        return {
            (name, labels.removeprefix('sink="').removesuffix('"')): value for name, labels, value in self._samples()
        }

    def latencies(self, sink: Sink) -> np.ndarray:
        """Counts of the latency histogram's buckets, not cumulated."""
        cumulated = [
            value
            for name, labels, value in self._samples()
            if name == "sieis_end_to_end_latency_seconds_bucket" and f'sink="{sink}"' in labels
        ]
        return np.diff(cumulated, prepend=0.0)

    def wait(self, done: Callable[[dict[tuple[str, str], float]], bool]) -> dict[tuple[str, str], float]:
        """Look again and again until `done` with the figures, which are returned. Raises: BenchmarkError."""
        before, changed = {}, time.monotonic()
        while not done(now := self.figures()):
            if now != before:
                before, changed = now, time.monotonic()
            elif time.monotonic() - changed > _SILENT_SECONDS:
                raise BenchmarkError(f"sieis consume stands still\n{self._last_lines()}")
            time.sleep(_LOOK_SECONDS)
        return now

    def cpu_seconds(self) -> float:
        """Processor time it has used so far."""
        return cpu_seconds([self.pid])

    def stop(self) -> None:
        """End it as its operator would: it flushes, commits and leaves. Raises: BenchmarkError."""
        if self._process.poll() is None:
            self._process.terminate()
        code = self._process.wait(_STOP_SECONDS)
        if code:
            raise BenchmarkError(f"sieis consume ended with {code}\n{self._last_lines()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.stop()
        finally:
            self._process.kill()
            self._process.wait()
            self._http.close()
            self._folder.cleanup()

    def _samples(self) -> list[tuple[str, str, float]]:
        if self._process.poll() is not None:
            raise BenchmarkError(f"sieis consume ended with {self._process.returncode}\n{self._last_lines()}")
        self.peak_bytes = max(self.peak_bytes, _resident(self.pid))
        try:
            text = self._http.get("/metrics").text
        except httpx.TransportError:  # it is starting
            return []
        return [(name, labels, float(value)) for name, labels, value in _SAMPLE.findall(text)]

    def _last_lines(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


def _resident(pid: int) -> int:
    """The most memory it has held: the kernel's own mark, or where there is none what it holds now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists() and (mark := _PEAK.search(status.read_text())):
        return int(mark[1]) * 1024
    return psutil.Process(pid).memory_info().rss
