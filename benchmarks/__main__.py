"""`python -m benchmarks [NAME ...]`: runs the `run()` of every module here, or of the named ones; shows and keeps them.

Belongs here: finding, running, showing, keeping. Not here: a workload, which each module has of its own.
"""

import datetime as dt
import importlib
import json
import os
import pkgutil
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

RESULTS: Final = Path(__file__).with_name("results.json")
_VERSIONS: Final = ("polars", "pyarrow", "deltalake", "duckdb", "confluent-kafka", "msgspec", "numpy")

#: In these units less is better: a value meets its floor by staying below it.
_LESS_IS_BETTER: Final = frozenset({"s", "ms", "us", "µs", "seconds", "milliseconds", "MB", "GB", "bytes"})

Result = dict[str, Any]


def available() -> list[str]:
    """The names of the benchmark modules."""
    return sorted(module.name for module in pkgutil.iter_modules([str(RESULTS.parent)]) if module.name != "__main__")


def ratio(result: Result) -> float | None:
    """How many times better than its floor a result is (below 1 it misses it); None where it has none."""
    value, floor = result["value"], result.get("floor")
    if floor is None or not value:
        return None
    return floor / value if result["unit"] in _LESS_IS_BETTER else value / floor


def measure(names: Sequence[str]) -> Iterator[Result]:
    """The results of the named benchmarks, each with the name of its module, as they come."""
    for name in names:
        for result in importlib.import_module(f"benchmarks.{name}").run():
            yield {"benchmark": name, **result}


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _VERSIONS},
    }


def table(results: Sequence[Result]) -> Table:
    """The results as a person reads them; what misses its floor is red."""
    shown = Table(title="Benchmarks")
    for column, justify in [("what", "left"), ("value", "right"), ("unit", "left"), ("floor", "right"), ("x", "right")]:
        shown.add_column(column, justify=justify)  # pyright: ignore[reportArgumentType]
    shown.add_column("workload", overflow="fold")
    for result in results:
        times = ratio(result)
        style = "" if times is None else "green" if times >= 1 else "bold red"
        shown.add_row(
            f"{result['benchmark']}: {result['name']}",
            _number(result["value"]),
            result["unit"],
            "" if result.get("floor") is None else _number(result["floor"]),
            "" if times is None else f"{times:.2f}",
            result["workload"],
            style=style,
        )
    return shown


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def main() -> None:
    """Run, show, write results.json (results of benchmarks not run now are kept); exit 1 where a floor is missed."""
    console = Console()
    names = sys.argv[1:] or available()
    unknown = set(names) - set(available())
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(available())}")
    results: list[Result] = []
    with console.status("measuring ...") as status:
        for result in measure(names):
            results.append(result)
            status.update(f"measuring ... last: {result['benchmark']}: {result['name']}")
    console.print(table(results))
    today = dt.datetime.now(dt.UTC).date().isoformat()
    kept = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    kept = [result for result in kept if result["benchmark"] not in names and result["benchmark"] in available()]
    everything = sorted([*kept, *({**result, "date": today} for result in results)], key=lambda r: r["benchmark"])
    RESULTS.write_text(json.dumps({"machine": machine(), "results": everything}, indent=2, ensure_ascii=False) + "\n")
    missed = [result for result in results if (times := ratio(result)) is not None and times < 1]
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
