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

from sieis_platform.errors import SieisError

RESULTS: Final = Path(__file__).with_name("results.json")
_VERSIONS: Final = ("polars", "pyarrow", "deltalake", "duckdb", "confluent-kafka", "msgspec", "numpy")

#: In these units less is better: a value meets its floor by staying below it. "times" is how many times as dear.
_LESS_IS_BETTER: Final = frozenset({"s", "ms", "us", "µs", "seconds", "milliseconds", "MB", "GB", "bytes", "times"})

Result = dict[str, Any]


def available() -> list[str]:
    """The names of the benchmark modules; packages hold what they share."""
    modules = pkgutil.iter_modules([str(RESULTS.parent)])
    return sorted(module.name for module in modules if not module.ispkg and module.name != "__main__")


def ratio(result: Result) -> float | None:
    """How many times better than its floor a result is (below 1 it misses it); None where it has none."""
    value, floor = result["value"], result.get("floor")
    if floor is None or not value:
        return None
    return floor / value if result["unit"] in _LESS_IS_BETTER else value / floor


def measure(names: Sequence[str], unmeasured: dict[str, str]) -> Iterator[Result]:
    """The results of the named benchmarks, each with the name of its module, as they come.

    One whose servers cannot be had, or that fails half-way, is given up; `unmeasured` is told why. `load_average` is
    that of the minute before the benchmark began: above the number of cores, somebody else was at work.
    """
    for name in names:
        load = round(psutil.getloadavg()[0], 1)
        try:
            for result in importlib.import_module(f"benchmarks.{name}").run():
                yield {"benchmark": name, **result, "load_average": load}
        except SieisError as error:
            unmeasured[name] = f"{type(error).__name__}: {error}"


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
    columns = {"what": "left", "value": "right", "unit": "left", "floor": "right", "x": "right", "load": "right"}
    for column, justify in columns.items():
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
            f"{result['load_average']:g}",
            result["workload"],
            style=style,
        )
    return shown


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def main() -> None:
    """Run, show, write results.json (results of benchmarks not run now are kept).

    Exits with 1 where a floor is missed, or a benchmark could not be run.
    """
    console = Console()
    names = sys.argv[1:] or available()
    unknown = set(names) - set(available())
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(available())}")
    results: list[Result] = []
    unmeasured: dict[str, str] = {}
    with console.status("measuring ... (servers that are missing are installed first: minutes)") as status:
        for result in measure(names, unmeasured):
            results.append(result)
            status.update(f"measuring ... last: {result['benchmark']}: {result['name']}")
    console.print(table(results))
    for name, why in unmeasured.items():
        console.print(f"not measured: {name}: {why}", style="bold red", markup=False)
    _keep([result for result in results if result["benchmark"] not in unmeasured])
    missed = [result for result in results if (times := ratio(result)) is not None and times < 1]
    sys.exit(1 if missed or unmeasured else 0)


def _keep(results: Sequence[Result]) -> None:
    today = dt.datetime.now(dt.UTC).date().isoformat()
    measured = {result["benchmark"] for result in results}
    kept = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    kept = [result for result in kept if result["benchmark"] not in measured and result["benchmark"] in available()]
    everything = sorted([*kept, *({**result, "date": today} for result in results)], key=lambda r: r["benchmark"])
    RESULTS.write_text(json.dumps({"machine": machine(), "results": everything}, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
