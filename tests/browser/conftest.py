"""The real API on a small real store, the real dashboard, and a browser."""

import datetime as dt
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx
import polars as pl
import pytest
from playwright.sync_api import Browser, sync_playwright

from sieis_platform.reading import FIELDS
from sieis_platform.settings import Settings
from sieis_platform.stores.hot import AGGREGATE_SCHEMA
from sieis_platform.stores.open import open_hot, open_marts
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"
_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
]
HOUR_NS = 3_600_000_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def new_port() -> Callable[[], int]:
    return free_port


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a building of six motes, see `fill`."""
    directory = tmp_path_factory.mktemp("filled")
    fill(directory)
    return directory


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The data directory of an installation without readings."""
    return plan(tmp_path)


@contextmanager
def running(command: list[str], environment: dict[str, str], url: str, log: Path) -> Iterator[None]:
    """`command` as a process of its own, from the moment `url` answers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIEIS_")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=kept | environment, cwd=log.parent, stdout=output, stderr=output)
        try:
            answers(url, process, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def dagster_ui(settings: Settings, folder: Path) -> Iterator[str]:
    """Dagster's web server and daemon of an installation, as `sieis up` runs them; logs go to `folder`. The address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "SIEIS_DATA_DIR": str(settings.data_dir),
        "SIEIS_METRICS_PORT": str(free_port()),
        "PYTHONPATH": str(ROOT),
    }
    if settings.data_file is not None:
        environment["SIEIS_DATA_FILE"] = str(settings.data_file)
    command = [sys.executable, "-m", "sieis_cli", "dagster"]
    told = f"{url}/server_info"
    web = running([*command, "webserver", "--port", str(port)], environment, told, folder / "web.log")
    with web, running([*command, "daemon"], environment, told, folder / "daemon.log"):
        yield url


def answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180  # seconds where nothing else runs, minutes on a machine that is shared
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            httpx.get(url, timeout=2, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.1)  # another process' start cannot be awaited
        else:
            return
    raise AssertionError(f"{url} does not answer: {log.read_text()}")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[None]]:
    """Starts the API on a data directory: `with api(directory, port): ...`."""

    def start(directory: Path, port: int, **environment: str) -> AbstractContextManager[None]:
        settings = {
            "SIEIS_DATA_DIR": str(directory),
            "SIEIS_API_PORT": str(port),
            "SIEIS_MOTE_LOCATIONS": str(directory / "plan.txt"),
        }
        url = f"http://127.0.0.1:{port}/api/v1/health"
        command = [sys.executable, "-m", "sieis_cli", "api"]
        return running(command, settings | environment, url, tmp_path_factory.mktemp("api") / "log")

    return start


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Starts the dashboard of an API's port and gives its address; stopped at the end of the module."""
    with ExitStack() as stack:

        def start(api_port: int, **environment: str) -> str:
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "sieis_ui" / "app.py")]
            command += ["--server.port", str(port), "--server.fileWatcherType", "none"]
            settings = {
                "SIEIS_API_URL": f"http://127.0.0.1:{api_port}",
                "SIEIS_UI_REFRESH_SECONDS": "1",
                "HOME": str(tmp_path_factory.mktemp("home")),
            }
            log = tmp_path_factory.mktemp("dashboard") / "log"
            stack.enter_context(running(command, settings | environment, f"{url}/_stcore/health", log))
            return url

        yield start


def plan(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "plan.txt"
    path.write_text("1 21.5 23\n4 22.5 15\n6 19.5 12\n22 1.5 23\n23 6 24\n33 19.5 26\n")
    return directory


def fill(directory: Path) -> None:
    """A building of six motes, one of them dying, one silent; with a day of aggregates and an anomaly."""
    settings = Settings(data_dir=plan(directory))
    now = dt.datetime.now(dt.UTC)
    now_ns = int(now.timestamp() * 1e9)
    readings = pl.DataFrame(
        {
            "mote_id": [1, 4, 6, 22, 23, 33],
            # One lies ahead of the clock, so that the building is live however slow the machine is.
            "timestamp": [now_ns + HOUR_NS // 4, now_ns, now_ns, now_ns, now_ns, now_ns - 2 * HOUR_NS],
            "temperature": [20.5, 21.5, 22.5, 23.5, 122.153, 24.5],
            "humidity": [40.0, 41.0, 42.0, 43.0, -4.0, 44.0],
            "light": [100.0, 150.0, 200.0, 250.0, 10.0, None],
            "voltage": [2.7, 2.68, 2.66, 2.64, 2.05, 2.6],
        }
    )
    hot = open_hot(settings)
    hot.write_readings(readings)
    hot.close()
    first = now_ns // HOUR_NS * HOUR_NS - 23 * HOUR_NS
    statistics = {
        name: pl.lit(21.0)
        for name in AGGREGATE_SCHEMA
        if name not in ("mote_id", "period_start") and "count" not in name
    }
    aggregates = (
        pl.DataFrame({"period_start": [first + hour * HOUR_NS for hour in range(24)]})
        .with_columns(**statistics, mote_id=0, record_count=100, null_count=0, out_of_range_count=2)
        .cast(dict(AGGREGATE_SCHEMA))
        .select(*AGGREGATE_SCHEMA, date=pl.from_epoch("period_start", "ns").dt.strftime("%Y-%m-%d"))
    )
    marts = open_marts(settings)
    marts.replace("hourly_aggregates", aggregates)
    anomalies = readings.filter(mote_id=23).select(
        pl.lit(f"{now:%Y-%m-%d}").alias("date"), "mote_id", "timestamp", *FIELDS
    )
    marts.replace(
        "anomalies",
        anomalies.with_columns(
            pl.col("mote_id").cast(pl.Int32),
            pl.col(*FIELDS).cast(pl.Float32),
            score=0.81,
            threshold=0.61,
            model_name=pl.lit("sieis-anomaly"),
            model_version=pl.lit("3"),
        ),
    )
    marts.replace(
        "anomaly_model",
        pl.DataFrame(
            {
                "name": ["sieis-anomaly"],
                "version": ["3"],
                "trained_at": [now_ns - HOUR_NS],
                "rows": [1000],
                "threshold": [0.61],
                "run_id": ["0" * 32],
            }
        ),
    )
