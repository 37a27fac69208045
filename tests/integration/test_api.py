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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import polars as pl
import pytest

from sieis_api.server import AddressError, PortTakenError, check_address
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_hot
from tests.ports import free_port

READY_SECONDS = 60  # a cold start beside other tests on two cores; a good one takes two
KEY = "correct-horse-battery"


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


_SLOW = """
import asyncio, sys
from pathlib import Path
from sieis_api import server, stores
from sieis_api.app import create_app
from sieis_platform.settings import Settings
from sieis_platform.stores.sqlite import SqliteHotStore

class Slow(SqliteHotStore):
    def readings(self, *args, **kwargs):
        open(sys.argv[3]).read()  # a pipe: until the test has written
        return super().readings(*args, **kwargs)

settings = Settings(_env_file=None, data_dir=Path(sys.argv[1]), api_port=int(sys.argv[2]))
app = create_app(settings, lambda given: stores.open_stores(given)._replace(hot=Slow(given.hot_path)))
asyncio.run(server._serve(app, settings, settings.api_host))
"""


def test_a_request_under_way_is_answered_before_the_end(data_dir: Path, tmp_path: Path) -> None:
    pipe, port = tmp_path / "pipe", free_port()
    os.mkfifo(pipe)
    command = [sys.executable, "-c", _SLOW, str(data_dir), str(port), str(pipe)]
    process = subprocess.Popen(
        command, env=environment(data_dir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(process, address)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(httpx.get, f"{address}/api/v1/sensors/readings", trust_env=False, timeout=60)
            with pipe.open("w") as let_go:  # opens when the query reads from it: the request is under way
                process.terminate()
                wait_until_refused(port)
                let_go.write("go")
            assert asked.result().json()["data"]["count"] == 1
        output, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, output


def wait_until_refused(port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            return
        time.sleep(0.05)  # as in wait_until_ready
    pytest.fail("sieis api still takes connections after SIGTERM")


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


def test_a_session_is_good_on_the_real_server_and_told_to_no_log(data_dir: Path) -> None:
    latest, session = "/api/v1/sensors/latest", "/api/v1/session"
    with running(data_dir, SIEIS_API_KEY=KEY) as (process, address):
        with httpx.Client(base_url=address, trust_env=False) as browser:
            assert browser.get(latest).status_code == 401
            opened = browser.post(session, headers={"X-API-Key": KEY})
            token = browser.cookies["sieis_session"]
            statuses = [opened.status_code, browser.get(latest).status_code]
            statuses += [browser.delete(session, headers={"Origin": "http://127.0.0.1:1"}).status_code]
            statuses += [browser.delete(session).status_code, browser.get(latest).status_code]
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=30)
    assert statuses == [201, 200, 403, 200, 401]
    assert "session opened" in log
    assert token not in log + opened.text
    assert KEY not in log


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
