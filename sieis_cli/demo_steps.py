"""What `sieis demo` does, step by step, on the real parts; each step adds its figures to the report.

Belongs here: the order of the steps and where each figure comes from. Not here: the command and how the report looks.
"""

import contextlib
import dataclasses
import datetime as dt
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import polars as pl
from pydantic import SecretStr

from sieis_cli.demo_figures import Figures
from sieis_cli.folder import held, is_demos, mark_as_demo
from sieis_cli.load import load_file
from sieis_cli.names import Name
from sieis_cli.parts import describe
from sieis_cli.supervisor import Supervisor, last_lines
from sieis_platform.analysis.ledger import Account, audit_archive
from sieis_platform.errors import FatalError
from sieis_platform.settings import Profile, Settings
from sieis_platform.stores.open import open_archive, open_hot
from sieis_platform.timeline import TimelineFile
from sieis_streaming.metrics import latency_quantile

STREAM_RECORDS: Final = 20_000
"""Readings the demo streams at most: five seconds at the embedded broker's pace."""

_FLUSH_SECONDS: Final = 2  # the demo waits for the archive; in earnest a flush comes every 30 s
_STREAM_SECONDS: Final = 90.0  # longest wait for both stores to have taken what was produced
_LOOK_SECONDS: Final = 0.1
_ASSIGNED: Final = "sieis_assigned_partitions"
PLACES_FILE: Final = "demo.env"
"""Where a demo on servers leaves, in its data directory, the settings by which its places are found."""

# What a platform keeps in its data directory, less the readings themselves and what is only a copy of them.
_STATE: Final = (
    *("archive", "marts", "dagster", "data_docs", "mlflow", "rejects", "logs"),
    *("timeline.json", "partitions.json", "loaded.json", "broker.json", "broker.past.json"),
    *(f"{store}.sqlite{suffix}" for store in ("hot", "state") for suffix in ("", "-wal", "-shm")),
    PLACES_FILE,
)


class DemoDirectoryError(FatalError):
    """The data directory holds a platform that no demo made."""


class DemoError(FatalError):
    """A step of the demo did not come out as it must."""


@dataclass
class DemoReport:
    """The figures of one demo; counts are of rows or records, latencies of the hot store."""

    profile: Profile = "embedded"
    data_file: str = ""
    data_dir: str = ""
    lines_read: int = 0
    rows_loaded: int = 0
    rejected: int = 0
    load_rows_per_second: int = 0
    rows_archive: int = 0
    rows_hot: int = 0
    stream_produced: int = 0
    stream_archived: int = 0
    stream_hot: int = 0
    stream_records_per_second: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    lost: int = 0
    e2e_latency_p50_ms: float = 0.0
    e2e_latency_p99_ms: float = 0.0
    partitions_materialized: int = 0
    checks_passed: int = 0
    checks_warned: int = 0
    checks_failed: int = 0
    warnings: list[str] = field(default_factory=list)
    anomalies: int = 0
    motes_live: int = 0
    model: str = ""
    seconds: float = 0.0
    step_seconds: dict[str, float] = field(default_factory=dict)


class Demo:
    """One run of the demo on an empty data directory, or one that an earlier demo made (which starts over).

    On the services profile the servers of the settings are used, in places of the demo's own (demo_servers.py); else
    everything is in the data directory, whatever servers the settings name.
    """

    def __init__(self, settings: Settings, data: Path) -> None:
        """Raises: DemoServersError where the demo can have no names of its own on the servers."""
        # The stream replays the whole of yesterday, so that there is as much of it at one past midnight as at noon.
        anchor = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
        profile: Profile = settings.profile or "embedded"
        self._real = settings
        #: What makes the installation the demo's: whoever is given these sees what it did.
        self._places: dict[str, Any] = {
            "profile": profile,
            "data_dir": settings.data_dir,
            "anchor_date": anchor,
            # No real files are taken in, real consumers asked, people told; no runs are carried out elsewhere.
            "inbox_dir": settings.data_dir / "inbox",
            "archive_cold_uri": "",
            "metrics_urls": "",
            "alert_urls": SecretStr(""),
            "dagster_code": "",
        }
        if profile == "services":
            from sieis_cli.demo_servers import own_places

            self._places |= own_places(settings)
        else:
            self._places |= {"archive_uri": "", "marts_uri": ""}  # folders elsewhere are not the demo's either
        self._while_running: dict[str, Any] = {
            "api_port": free_port(),
            "metrics_port": free_port(),
            "simulator_port": free_port(),
            "archive_flush_seconds": float(_FLUSH_SECONDS),
        }
        self._settings = settings.changed(**self._places, **self._while_running)
        self._data = data
        self.report = DemoReport(profile=profile, data_file=str(data), data_dir=str(settings.data_dir))

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long a step took."""
        began = time.monotonic()
        yield
        self.report.step_seconds[step] = round(time.monotonic() - began, 2)
        self.report.seconds = round(sum(self.report.step_seconds.values()), 2)

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Start over where an earlier demo was, and hold folder and places on the servers, if any, until the end.

        Raises: DemoDirectoryError where something else was; FolderBusyError; as demo_servers.started_over.
        """
        with contextlib.ExitStack() as until_end:
            until_end.enter_context(held(self._settings))
            self._start_over()
            if self._settings.profile == "services":
                from sieis_cli.demo_servers import started_over

                token = until_end.enter_context(started_over(self._real, self._settings))
                self._places["influx_token"] = SecretStr(token)
                self._settings = self._settings.changed(influx_token=SecretStr(token))
                self._write_places()
            yield

    def _start_over(self) -> None:
        folder = self._settings.data_dir
        if (folder / "up.json").exists():
            raise DemoDirectoryError(
                f"an earlier `sieis up` on {folder} was killed; end what it left with `sieis down`"
            )
        found = [name for name in _STATE if (folder / name).exists()]
        if found and not is_demos(self._settings):
            raise DemoDirectoryError(
                f"{folder} holds {found[0]}, which is not only a demo's (`sieis up` and other commands may have "
                "written to it), and a demo starts over. Give it one of its own, SIEIS_DATA_DIR=var-demo make demo, "
                f"or remove {folder} yourself if nobody needs what is in it"
            )
        # First, and never away: a demo killed in between starts over.
        mark_as_demo(self._settings)
        for name in _STATE:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def load(self) -> None:
        """History into both stores."""
        summary = load_file(self._settings, self._data)
        self.report.lines_read = summary.lines_read
        self.report.rows_loaded = summary.rows_loaded
        self.report.rejected = sum(summary.rejected.values())
        self.report.load_rows_per_second = round(summary.rows_loaded / summary.seconds)

    def stream(self) -> None:
        """A day of readings through the broker into both stores."""
        with self._running(Name.BROKER, Name.CONSUMER):
            # Joining a group takes seconds; counted as latency they would say nothing of the readings' way.
            self._until("a member of both consumer groups", lambda now, sink: now.value(_ASSIGNED, sink=sink) > 0)
            produced = self._simulate()
            figures = self._until(f"{produced:,} records in both stores", lambda now, sink: now.taken(sink) >= produced)
        report = self.report
        report.stream_produced = produced
        report.stream_hot = int(figures.value("sieis_records_written_total", sink="hot"))
        counts = figures.buckets("sieis_end_to_end_latency_seconds", sink="hot")
        report.e2e_latency_p50_ms = round(latency_quantile(counts, 0.5) * 1e3, 1)
        report.e2e_latency_p99_ms = round(latency_quantile(counts, 0.99) * 1e3, 1)

    def verify(self) -> None:
        """Every position accounted for; the counts of rows come from the stores themselves."""
        archive = open_archive(self._settings)
        result = audit_archive(archive)
        if result.findings:
            raise DemoError("\n".join(["the archive and its ledger disagree:", *result.findings]))
        streamed = [account for account in result.accounts if account.source.startswith("stream:")]
        report = self.report
        report.stream_archived = _total(streamed, "stored")
        report.duplicates = _total(result.accounts, "duplicates")
        report.dead_letters = _total(streamed, "dead")
        report.lost = _total(streamed, "lost")
        report.rows_archive = archive.scan_all().select(pl.len()).collect().item()
        hot = open_hot(self._settings)
        try:
            report.rows_hot = hot.count_readings()
        finally:
            hot.close()

    def derive(self) -> None:
        """Aggregates, checks, model and scores, by the real jobs on the real Dagster instance."""
        # In a process of its own, as anybody would: Dagster's resources take secrets from their process's environment.
        summary = self._sieis("materialize", "--json", may_fail=True)
        report = self.report
        report.partitions_materialized = summary["partitions_materialized"]
        report.checks_passed = summary["checks_passed"]
        report.checks_warned = summary["checks_warned"]
        report.checks_failed = summary["checks_failed"]
        report.warnings = summary["warnings"]
        if summary["failures"]:
            raise DemoError("\n".join(["Dagster's runs did not succeed:", *summary["failures"]]))

    def query(self) -> None:
        """Ask the API what a person would look at first."""
        with (
            self._running(Name.API),
            httpx.Client(base_url=self._settings.api_url, trust_env=False, timeout=30) as client,
        ):
            if self._settings.api_key is not None:
                client.headers["X-API-Key"] = self._settings.api_key.get_secret_value()
            health = _data(client.get("/api/v1/health"))
            if health["status"] != "ok":
                raise DemoError(f"the API is not well: {health}")
            self.report.motes_live = _data(client.get("/api/v1/sensors/latest"))["count"]
            mote = _data(client.get("/api/v1/sensors/latest"))["readings"][0]["mote_id"]
            _data(client.get(f"/api/v1/sensors/{mote}/latest"))
            _data(client.get("/api/v1/sensors/readings", params={"mote_id": mote, "limit": 10}))
            anomalies = _data(
                client.get("/api/v1/analytics/anomalies", params={"start": self._first_day(), "limit": 10_000})
            )
            self.report.anomalies = anomalies["count"]
            model = anomalies["model"]
            self.report.model = f"{model['name']} version {model['version']}" if model else ""

    # -- means ---------------------------------------------------------------------------------------------------
    def _first_day(self) -> str:
        timeline = TimelineFile.of(self._settings).read()
        assert timeline is not None  # noqa: S101 - the load fixed it
        return f"{timeline.history_days[0]}T00:00:00Z"

    @contextlib.contextmanager
    def _running(self, *names: Name) -> Iterator[None]:
        described = describe(self._settings, names)
        parts = [
            dataclasses.replace(one.part, environment={**one.part.environment, **self._environment()})
            for one in described
        ]
        supervisor = Supervisor(parts, self._settings.data_dir / "logs", secrets.token_hex(8))
        try:
            supervisor.start()
            yield
        finally:
            supervisor.stop()

    def _environment(self) -> dict[str, str]:
        return {**_variables(self._places | self._while_running), "SIEIS_LOG_LEVEL": "warning"}

    def _write_places(self) -> None:
        """For whoever wants to look at what the demo did; it holds secrets."""
        path = self._settings.data_dir / PLACES_FILE
        path.unlink(missing_ok=True)  # a file that is there would keep its mode
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.writelines(f"export {name}={shlex.quote(text)}\n" for name, text in _variables(self._places).items())

    def _sieis(self, *arguments: str, may_fail: bool = False) -> dict[str, Any]:
        """What a command of ours prints as JSON; with `may_fail` also where it ends with exit code 1 after that."""
        command = [sys.executable, "-m", "sieis_cli", *arguments]
        done = subprocess.run(  # noqa: S603 - our own command
            command, env={**os.environ, **self._environment()}, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode and not (may_fail and done.stdout):
            raise DemoError(f"`sieis {arguments[0]}` ended with exit code {done.returncode}, see above")
        return json.loads(done.stdout)

    def _simulate(self) -> int:
        anchor = self._settings.anchor_date
        assert anchor is not None  # noqa: S101 - set above
        # A stretch that lies wholly in the past goes out as fast as the embedded broker is given records.
        options = {
            "data": self._data,
            "from": anchor,
            "until": anchor + dt.timedelta(days=1),
            "max-records": STREAM_RECORDS,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        summary = self._sieis("simulate", "--json", *words)
        self.report.stream_records_per_second = round(summary["records_per_second"])
        return int(summary["records"])

    def _until(self, what: str, holds: Callable[[Figures, str], bool]) -> Figures:
        """The consumer's figures once `holds` for both stores."""
        deadline = time.monotonic() + _STREAM_SECONDS
        while True:
            figures = Figures.of(self._settings.consumer_metrics[0])
            if all(holds(figures, sink) for sink in ("hot", "archive")):
                return figures
            if time.monotonic() > deadline:
                log = self._settings.data_dir / "logs" / f"{Name.CONSUMER}.log"
                taken = ", ".join(f"{sink} {figures.taken(sink):,.0f}" for sink in ("hot", "archive"))
                raise DemoError(f"not within {_STREAM_SECONDS:g} s: {what} ({taken}); its log ends:\n{last_lines(log)}")
            time.sleep(_LOOK_SECONDS)


def free_port() -> int:
    """A port nothing listens on; the demo must not collide with an installation that is up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """The environment that gives these settings; with its secrets."""
    return {f"SIEIS_{name.upper()}": _text(value) for name, value in settings.items()}


def _text(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _total(accounts: list[Account], fate: str) -> int:
    return sum(getattr(account, fate) for account in accounts)


def _data(answer: httpx.Response) -> Mapping[str, Any]:
    body = answer.json()
    if answer.status_code != httpx.codes.OK:
        raise DemoError(f"GET {answer.url.path} answered {answer.status_code}: {body}")
    return body["data"]
