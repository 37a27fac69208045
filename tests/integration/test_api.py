"""`sieis api` as it is run: granian in a process of its own, on a real port, until SIGTERM."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import polars as pl
import pytest

from sieis_api.server import AddressError, PortTakenError, check_address
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_hot

READY_SECONDS = 60  # a cold start beside other tests on two cores; a good one takes two
KEY = "correct-horse-battery"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(data_dir: Path, **given: str) -> dict[str, str]:
    """Nothing of the SIEIS settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIEIS_")}
    return {**kept, "SIEIS_DATA_DIR": str(data_dir), "SIEIS_LOG_FORMAT": "json", "SIEIS_LOG_LEVEL": "debug", **given}


@contextmanager
def running(data_dir: Path, *arguments: str, **given: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`sieis api` ready to answer, and its address."""
    port = free_port()
    command = [sys.executable, "-m", "sieis_cli", "api", "--port", str(port), *arguments]
    environ = environment(data_dir, **given)
    process = subprocess.Popen(
        command, cwd=data_dir.parent, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(process, address)
        yield process, address
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_until_ready(process: subprocess.Popen[str], address: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"sieis api ended: {process.communicate()[0]}")
        try:
            httpx.get(f"{address}/api/v1/health", trust_env=False).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.05)  # polling is the only way to await a port of another process
            continue
        return
    pytest.fail("sieis api was not ready in time")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    settings = Settings(_env_file=None, data_dir=tmp_path / "var")  # pyright: ignore[reportCallIssue]
    values = {"temperature": [22.5], "humidity": [45.3], "light": [250.0], "voltage": [2.8]}
    hot = open_hot(settings)
    hot.write_readings(pl.DataFrame({"mote_id": [17], "timestamp": [time.time_ns()], **values}, schema=READING_SCHEMA))
    hot.close()
    return settings.data_dir


def test_it_answers_over_a_real_port_and_ends_cleanly_on_sigterm(data_dir: Path) -> None:
    with running(data_dir) as (process, address):
        reading = httpx.get(f"{address}/api/v1/sensors/17/latest", trust_env=False).json()["data"]
        assert (reading["mote_id"], reading["temperature"]) == (17, 22.5)
        stranger = httpx.get(f"{address}/api/v1/motes", headers={"Host": "evil.example.org"}, trust_env=False)
        assert stranger.status_code == 403
        # A connection that is kept open must not hold up the end.
        idle = http.client.HTTPConnection(address.removeprefix("http://"))
        idle.request("GET", "/api/v1/health")
        idle.getresponse().read()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        idle.close()
    assert process.returncode == 0, output
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert events[0] == "API listens"
    assert events[-1] == "API stopped"


def test_ctrl_c_ends_it_cleanly_too(data_dir: Path) -> None:
    with running(data_dir) as (process, _):
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output


def test_with_a_key_it_asks_for_it_and_never_logs_it(data_dir: Path) -> None:
    with running(data_dir, "--host", "0.0.0.0", SIEIS_API_KEY=KEY) as (process, address):
        for key, status in ((None, 401), ("wrong", 401), (KEY, 200)):
            headers = {} if key is None else {"X-API-Key": key}
            answer = httpx.get(f"{address}/api/v1/sensors/latest", headers=headers, trust_env=False)
            assert answer.status_code == status
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert "/api/v1/sensors/latest" in output  # the log was looked at
    assert KEY not in output


def test_it_refuses_to_start_for_everyone_without_a_key(data_dir: Path) -> None:
    outcome = start(data_dir, "--host", "0.0.0.0")
    assert outcome.returncode == 1
    assert "SIEIS_API_KEY" in outcome.stderr
    assert "SIEIS_API_HOST=127.0.0.1" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_taken_port_is_named_before_anything_starts(data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = start(data_dir, "--port", str(taken.getsockname()[1]))
    assert outcome.returncode == 1
    assert "SIEIS_API_PORT" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_two_of_them_do_not_share_a_port(data_dir: Path) -> None:
    """The server would let them (SO_REUSEPORT), and clients would get answers of either."""
    with running(data_dir) as (_, address):
        outcome = start(data_dir, "--port", address.rsplit(":", 1)[1])
    assert outcome.returncode == 1
    assert "SIEIS_API_PORT" in outcome.stderr


def test_what_stops_the_start_is_said_without_a_traceback(data_dir: Path) -> None:
    missing = str(data_dir / "missing.txt")
    outcome = start(data_dir, "--port", str(free_port()), SIEIS_MOTE_LOCATIONS=missing)
    assert outcome.returncode == 1
    assert f"SIEIS_MOTE_LOCATIONS={missing}" in outcome.stderr.replace("\n", "")
    assert "Traceback" not in outcome.stderr


def start(data_dir: Path, *arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    """`sieis api` that is expected to end by itself."""
    command = [sys.executable, "-m", "sieis_cli", "api", *arguments]
    environ = environment(data_dir, **given)
    return subprocess.run(
        command, cwd=data_dir.parent, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_addresses_that_are_none_are_named() -> None:
    with pytest.raises(AddressError, match="SIEIS_API_HOST"):
        check_address("192.0.2.1", 0)  # TEST-NET-1: of no machine
    with pytest.raises(AddressError, match="SIEIS_API_HOST"):
        check_address("no such host", 0)


def test_a_port_is_free_again_after_its_server() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(PortTakenError, match="SIEIS_API_PORT"):
            check_address("127.0.0.1", port)
    assert check_address("localhost", port) in ("127.0.0.1", "::1")
