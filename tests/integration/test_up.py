"""`sieis up` with every part, as an operator runs it: ready, serving, stopped, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import msgspec
import psutil
import pytest

from tests.ports import free_ports

SIEIS = [sys.executable, "-m", "sieis_cli"]
PORTS = ("API", "DASHBOARD", "DAGSTER", "MLFLOW", "SIMULATOR", "METRICS")


def _readings(path):
    """Two days of three motes, a reading every ten minutes."""
    with path.open("w") as file:
        for mote in (1, 2, 3):
            for step in range(288):
                day, minute = divmod(step * 10, 1440)
                clock = f"2004-02-{28 + day} {minute // 60:02}:{minute % 60:02}:00.5"
                file.write(f"{clock} {step} {mote} {20 + mote + step % 7} {40 + step % 5} 100 2.6\n")


class Installation:
    """A data directory with readings and ports of its own."""

    def __init__(self, folder):
        self.data_dir = folder / "var"
        _readings(folder / "readings.txt")
        self.port = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIEIS_", "DAGSTER_"))}
        self.environment = {
            **kept,
            **{f"SIEIS_{name}_PORT": str(port) for name, port in self.port.items()},
            "SIEIS_DATA_DIR": str(self.data_dir),
            "SIEIS_DATA_FILE": str(folder / "readings.txt"),
            "SIEIS_ANCHOR_DATE": "2004-03-01",  # history keeps its dates: nothing depends on the day of the test
            "COLUMNS": "200",
        }

    def start(self, *arguments):
        """`sieis up` in the foreground; a pipe of what it prints."""
        return subprocess.Popen(
            [*SIEIS, "up", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments):
        return subprocess.run(
            [*SIEIS, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=200
        )

    def processes(self):
        """Every process of this installation, by the data directory in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SIEIS_DATA_DIR") == str(self.data_dir):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def state(self):
        return msgspec.json.decode((self.data_dir / "up.json").read_bytes())


@pytest.fixture
def installation(tmp_path):
    made = Installation(tmp_path)
    yield made
    for process in made.processes():  # only what a failed test left
        process.kill()


def _until(process, text):
    """What `process` printed up to the line that contains `text`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"ended with {process.wait()} before {text!r}:\n{''.join(lines)}")


@pytest.mark.timeout(300)
def test_every_part_serves_and_sigterm_leaves_nothing(installation):
    up = installation.start("--no-load")  # the simulator fills the stores; history has its own test below
    printed = _until(up, "stops everything")
    port = installation.port
    for path in (
        f"{port['API']}/api/v1/health",
        f"{port['DASHBOARD']}/_stcore/health",
        f"{port['DAGSTER']}/server_info",
        f"{port['MLFLOW']}/health",
        f"{port['SIMULATOR']}/status",
        f"{port['METRICS']}/metrics",
    ):
        answer = httpx.get(f"http://127.0.0.1:{path}", timeout=20, trust_env=False)
        assert answer.status_code == 200, (path, answer.text)
    latest = httpx.get(f"http://127.0.0.1:{port['API']}/api/v1/sensors/latest", timeout=20, trust_env=False).json()
    assert latest["status"] == "success"

    names = {part["name"] for part in installation.state()["parts"]}
    assert names == {"broker", "consumer", "simulator", "api", "dashboard", "dagster", "daemon", "mlflow"}
    assert all(name in printed for name in names)
    assert all(f"http://127.0.0.1:{port[name]}" in printed for name in PORTS)

    assert len(installation.processes()) > len(names)
    up.send_signal(signal.SIGTERM)
    rest = up.stdout.read()
    assert up.wait() == 0, rest
    assert installation.processes() == []
    assert not (installation.data_dir / "up.json").exists()


def test_a_part_that_dies_ends_the_run_and_says_why(installation):
    up = installation.start("--no-load", "--only", "broker", "--only", "consumer")
    _until(up, "stops everything")
    (consumer,) = [part for part in installation.state()["parts"] if part["name"] == "consumer"]
    os.kill(consumer["pid"], signal.SIGKILL)
    printed = up.stdout.read()
    assert up.wait() == 1
    assert "consumer ended by SIGKILL" in printed
    assert "consumer.log" in printed
    assert installation.processes() == []


def test_detached_with_history_until_down(installation):
    started = installation.run("up", "--detach", "--only", "broker", "--only", "api")
    assert started.returncode == 0, started.stderr
    api = f"http://127.0.0.1:{installation.port['API']}"
    assert f"{api}/docs" in started.stdout
    day = {"start": "2004-02-28T00:00:00Z", "end": "2004-02-29T00:00:00Z"}
    history = httpx.get(f"{api}/api/v1/sensors/readings", params=day, timeout=20, trust_env=False).json()
    assert history["data"]["count"] == 3 * 144
    again = installation.run("up", "--no-load", "--only", "broker")
    assert again.returncode == 1
    assert "sieis down" in again.stderr
    assert installation.run("down").returncode == 0
    assert installation.processes() == []
    assert "nothing is running" in installation.run("down").stdout


def test_down_ends_what_a_killed_supervisor_left(installation):
    assert installation.run("up", "--detach", "--no-load", "--only", "broker", "--only", "consumer").returncode == 0
    os.kill(installation.state()["pid"], signal.SIGKILL)
    refused = installation.run("up", "--no-load", "--only", "broker")
    assert refused.returncode == 1
    assert "left parts running" in refused.stderr
    assert "left behind" in installation.run("down").stdout
    assert installation.processes() == []


def test_a_taken_port_is_named_before_anything_starts(installation):
    with socket.create_server(("127.0.0.1", installation.port["API"])):
        refused = installation.run("up", "--no-load", "--only", "broker", "--only", "api")
    assert refused.returncode == 1
    assert f"port {installation.port['API']} (api) is taken" in refused.stderr
    assert "SIEIS_API_PORT" in refused.stderr
    assert installation.processes() == []


def test_a_detached_start_that_fails_says_what_the_part_said(installation):
    installation.environment["SIEIS_DATA_FILE"] = "/nowhere/readings.txt"
    refused = installation.run("up", "--detach", "--no-load", "--only", "broker", "--only", "simulator")
    assert refused.returncode == 1
    assert "simulator ended with exit code" in refused.stderr
    assert "/nowhere/readings.txt" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert installation.processes() == []


def test_after_up_the_folder_is_no_longer_only_a_demos(installation):
    installation.data_dir.mkdir()
    for name in ("demo.json", "timeline.json"):
        (installation.data_dir / name).write_text("{}")
    assert installation.run("up", "--detach", "--no-load", "--only", "broker").returncode == 0
    refused = installation.run("demo")
    assert (refused.returncode, "`sieis down` stops it" in refused.stderr) == (1, True), refused.stderr
    assert installation.run("down").returncode == 0
    refused = installation.run("demo")
    assert (refused.returncode, "not only a demo's" in refused.stderr) == (1, True), refused.stderr
    assert (installation.data_dir / "timeline.json").exists()
