"""How fast, and in how much memory, a readings file is parsed; run with `python -m benchmarks.parse`.

Belongs here: parsing and building the days. Not here: loading into stores.
"""

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sieis_platform.sources.days import DatasetDays
from sieis_platform.sources.generator import generate
from sieis_platform.sources.intel_lab import fingerprint, profile, read_batches

MOTES, DAYS = 54, 36  # the full Intel Lab set: 54 motes, 36 days, 2.3 M lines
LINES = 2_313_682
ROUNDS = 3  # the best counts: others work on the machine too

# VmHWM, not ru_maxrss: the latter starts with what the parent had.
_PEAK = """
import sys
from pathlib import Path
from sieis_platform.sources.intel_lab import read_batches
lines = sum(batch.lines for batch in read_batches(sys.argv[1]))
(peak,) = [row.split()[1] for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM")]
print(lines, int(peak) * 1024)
"""


def run() -> list[dict]:
    """Measure; each result has name, value, unit, workload, floor (None where none is set)."""
    with tempfile.TemporaryDirectory(prefix="sieis-bench-") as folder:
        return _run(Path(folder))


def _run(folder: Path) -> list[dict]:
    made = folder / "made.txt"
    began = time.perf_counter()
    generated = generate(made, motes=MOTES, days=DAYS)
    generating = time.perf_counter() - began
    plain = folder / "plain.txt"
    with made.open("rb") as source, plain.open("wb") as target:  # the real set's number of lines
        for number, line in enumerate(source):
            if number == LINES:
                break
            target.write(line)
    made.unlink()
    packed, variant, cut = folder / "packed.gz", folder / "variant.txt", folder / "cut.txt"
    with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    with plain.open("rb") as source, variant.open("wb") as nine, cut.open("wb") as mixed:
        for number, line in enumerate(source):
            date, clock, epoch, rest = line.split(b" ", 3)
            nine.write(b" ".join((date, clock, rest.rstrip(b"\n"), b"2026-02-19 23:59:59.1\n")))
            # 4 % of the full set lack a field
            mixed.write(line if number % 25 else b" ".join((date, clock, epoch, rest.rsplit(b" ", 2)[0])) + b"\n")
    workload = f"{LINES:,} lines, {MOTES} motes, {DAYS} days, {plain.stat().st_size >> 20} MB"

    def rate(name: str, work: Callable[[], object], of: str = workload, floor: float | None = None) -> dict:
        return {"name": name, "value": round(LINES / _best(work)), "unit": "lines/s", "workload": of, "floor": floor}

    results = [
        rate("parse, plain", lambda: _drain(plain), floor=1_500_000),
        {
            "name": "parse, plain, by processor time",
            "value": round(LINES / _processor_time(lambda: _drain(plain))),
            "unit": "lines/CPU-s",
            "workload": workload,
            "floor": None,
        },
        rate("parse, .gz", lambda: _drain(packed)),
        rate("parse, 9-field variant", lambda: _drain(variant)),
        rate("parse, 4 % of the lines cut short", lambda: _drain(cut)),
        rate("profile, plain", lambda: profile(plain)),
        rate("fingerprint, .gz", lambda: fingerprint(packed)),
        {
            "name": "generate",
            "value": round(generated.lines / generating),
            "unit": "lines/s",
            "workload": f"{generated.lines:,} lines",
            "floor": None,
        },
    ]
    began = time.perf_counter()
    DatasetDays.open(plain, folder / "cache")
    results.append(
        {
            "name": "days, first opening",
            "value": round(time.perf_counter() - began, 2),
            "unit": "s",
            "workload": workload,
            "floor": None,
        }
    )
    tenfold = folder / "tenfold.txt"
    with tenfold.open("wb") as target:
        for _ in range(10):
            with plain.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
    done = subprocess.run([sys.executable, "-c", _PEAK, str(tenfold)], capture_output=True, text=True, check=True)
    lines, peak = map(int, done.stdout.split())
    results.append(
        {
            "name": "parse, peak resident memory",
            "value": round(peak / 1e6),
            "unit": "MB",
            "workload": f"{lines:,} lines, plain",
            "floor": 500,
        }
    )
    return results


def _drain(path: Path) -> None:
    lines = sum(batch.lines for batch in read_batches(path))
    assert lines == LINES


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _processor_time(work: Callable[[], object]) -> float:
    """Of all threads: what the parse costs whoever else is on the machine."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    for result in run():
        print(json.dumps(result))
