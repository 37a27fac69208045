"""The whole-page states without a browser: the app itself, run by Streamlit's own test runner."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

APP = Path(__file__).parents[3] / "sieis_ui" / "app.py"
Answers = dict[str, tuple[int, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], AppTest]]:
    def start(port: int) -> AppTest:
        monkeypatch.setenv("SIEIS_API_URL", f"http://127.0.0.1:{port}")
        monkeypatch.chdir(tmp_path)  # no `.env` of the one who runs the tests
        return AppTest.from_file(APP, default_timeout=30).run()

    st.cache_resource.clear()
    yield start
    st.cache_resource.clear()


@pytest.fixture
def api() -> Iterator[Callable[[Answers], int]]:
    """A server that answers paths as told: what the real API answers only when it is broken."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Answers) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0].removeprefix("/api/v1")
                status, data = answers.get(path, (503, {"code": "down", "message": "It *rests*."}))
                body = json.dumps({"status": "success" if status == 200 else "error", "data": data}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def shown(app: AppTest) -> str:
    assert not app.exception
    elements = (*app.title, *app.subheader, *app.markdown, *app.code, *app.caption, *app.warning, *app.info)
    return "\n".join(str(element.value) for element in elements)


OK = (200, {"status": "ok", "version": "1", "components": {}})
READING = {"mote_id": 3, "timestamp": "2026-03-05T12:00:00Z", "age_seconds": 5, "temperature": 21.0, "voltage": 2.7}
LATEST = (200, {"count": 1, "readings": [READING]})
MOTES = (200, {"count": 1, "motes": [{"mote_id": 3, "x": 1, "y": 2, "last_seen": None, "in_fleet": True}]})


def test_no_api_says_how_to_start_one(run: Callable[[int], AppTest]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nothing answers here
        text = shown(run(taken.getsockname()[1]))
    assert "The API is not running" in text
    assert "sieis up" in text
    assert "SIEIS_API_URL" in text


def test_an_empty_platform_says_how_to_fill_it(run: Callable[[int], AppTest], api: Callable[[Answers], int]):
    text = shown(run(api({"/health": OK, "/sensors/latest": (200, {"count": 0, "readings": []}), "/motes": MOTES})))
    assert "No readings yet" in text
    assert "make demo" in text


def test_an_api_that_wants_a_key_is_told_apart(run: Callable[[int], AppTest], api: Callable[[Answers], int]):
    refused = (401, {"code": "unauthorized", "message": "A key is needed."})
    text = shown(run(api({"/health": OK, "/sensors/latest": refused, "/motes": refused})))
    assert "does not let this dashboard in" in text
    assert "SIEIS_API_KEY" in text


def test_another_program_at_the_address_is_named_so(run: Callable[[int], AppTest], api: Callable[[Answers], int]):
    odd = (200, ["hello"])
    assert "Unexpected answer" in shown(run(api({"/health": odd, "/sensors/latest": odd, "/motes": odd})))


def test_a_platform_that_is_down_altogether_says_why_as_plain_text(
    run: Callable[[int], AppTest], api: Callable[[Answers], int]
):
    text = shown(run(api({})))
    assert "The API is in trouble" in text
    assert r"It \*rests\*" in text


@pytest.mark.parametrize(
    ("missing", "panels"),
    [("/analytics/aggregates", 1), ("/analytics/anomalies", 1), ("/sensors/latest", 2), ("/motes", 0)],
)
def test_a_failing_endpoint_takes_its_own_panels_only(
    run: Callable[[int], AppTest], api: Callable[[Answers], int], missing: str, panels: int
):
    answers: Answers = {
        "/health": OK,
        "/sensors/latest": LATEST,
        "/motes": MOTES,
        "/analytics/aggregates": (200, {"count": 0, "aggregates": []}),
        "/analytics/anomalies": (200, {"count": 0, "model": None, "anomalies": []}),
    }
    del answers[missing]
    app = run(api(answers))
    assert [str(warning.value).startswith("Not available now") for warning in app.warning] == [True] * panels
    assert sum(button.label == "Retry" for button in app.button) == panels
    assert ("motes reporting" in shown(app)) == (missing != "/sensors/latest")


def test_a_stopped_stream_is_said_and_the_last_values_stay(
    run: Callable[[int], AppTest], api: Callable[[Answers], int]
):
    old = (200, {"count": 1, "readings": [{**READING, "age_seconds": 90_000}]})
    app = run(api({"/health": OK, "/sensors/latest": old, "/motes": MOTES}))
    assert "No new readings arrive" in shown(app)
    assert app.metric[0].value == "21.0"
