"""The control API over HTTP, on a simulator that does not run."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import httpx
import polars as pl
import pytest

from sieis_cli.names import Name
from sieis_cli.parts import describe
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.settings import Settings
from sieis_platform.state import State
from sieis_platform.timeline import DAY_NS, Timeline
from sieis_streaming.control import ControlServer, PortTakenError
from sieis_streaming.simulator import Plan, Simulator

DAY = dt.date(2026, 2, 19)


class OneReading:
    days = (DAY,)
    motes = (1,)

    def readings(self, day: dt.date) -> pl.DataFrame:
        stamp = (day - dt.date(1970, 1, 1)).days * DAY_NS
        return pl.DataFrame([{"mote_id": 1, "timestamp": stamp}], schema=READING_SCHEMA)


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    settings = Settings(data_dir=tmp_path, _env_file=None)
    timeline = Timeline(mode="align", anchor=DAY, first_day=DAY, days=1)
    with State.open(settings) as state:
        yield Simulator(settings, Plan.of(settings), OneReading(), timeline, state)


@pytest.fixture
def client(simulator: Simulator) -> Iterator[httpx.Client]:
    with (
        ControlServer(simulator, 0) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as opened,
    ):
        yield opened


def test_the_status_says_where_it_is(client: httpx.Client) -> None:
    status = client.get("/status").json()
    assert status["paused"] is False
    assert status["speed"] == 100
    assert status["dataset_day"] == "2026-02-19"
    assert {"position", "emitted", "delivered", "records_per_second", "lag_seconds", "mode", "motes"} <= status.keys()


def test_sieis_up_finds_it_wherever_it_listens(simulator: Simulator, tmp_path: Path) -> None:
    with ControlServer(simulator, 0, "127.0.0.2") as server:
        settings = Settings(data_dir=tmp_path, simulator_host="127.0.0.2", simulator_port=server.port, _env_file=None)
        (part,) = describe(settings, [Name.SIMULATOR])
        assert part.part.ready()
    assert not part.part.ready()


def test_pause_resume_and_speed(client: httpx.Client) -> None:
    assert client.post("/pause", json={}).json()["paused"] is True
    assert client.get("/status").json()["paused"] is True
    assert client.post("/speed", json={"factor": 7.5}).json()["speed"] == 7.5
    resumed = client.post("/resume", json={}).json()
    assert (resumed["paused"], resumed["speed"]) == (False, 7.5)


@pytest.mark.parametrize("factor", [0, -1, 1e9, "fast", None])
def test_a_speed_that_makes_no_sense_is_refused(client: httpx.Client, factor: object) -> None:
    assert client.post("/speed", json={"factor": factor}).status_code == 422
    assert client.get("/status").json()["speed"] == 100


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
@pytest.mark.parametrize("path", ["/pause", "/speed"])
def test_what_a_foreign_page_may_send_unasked_is_refused(client: httpx.Client, path: str, content_type: str) -> None:
    answer = client.post(path, content=b'{"factor": 2}', headers={"content-type": content_type})
    assert answer.status_code in (415, 422)
    status = client.get("/status").json()
    assert (status["paused"], status["speed"]) == (False, 100)


def test_a_foreign_name_for_this_machine_is_refused(client: httpx.Client) -> None:
    assert client.get("/status", headers={"host": "rebound.example"}).status_code == 400
    assert client.post("/pause", json={}, headers={"host": "rebound.example"}).status_code == 400
    assert client.get("/status").json()["paused"] is False


def test_a_taken_port_is_named_and_free_again_after_the_stop(simulator: Simulator) -> None:
    with ControlServer(simulator, 0) as server:
        with pytest.raises(PortTakenError, match="SIEIS_SIMULATOR_PORT"):
            ControlServer(simulator, server.port).start()
        assert httpx.get(f"http://127.0.0.1:{server.port}/status").status_code == 200
    with ControlServer(simulator, server.port) as again:
        assert httpx.get(f"http://127.0.0.1:{again.port}/status").status_code == 200
