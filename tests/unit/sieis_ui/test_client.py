"""The client against real sockets: the answers of a small server, and ports where nothing or something else listens."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from sieis_ui.client import (
    ApiAnswerError,
    ApiClient,
    ApiRefusedError,
    ApiUnauthorisedError,
    ApiUnreachableError,
)
from sieis_ui.config import UiSettings


class Api(BaseHTTPRequestHandler):
    """Answers every request with `answer`, to send what the real API sends only when something is broken."""

    answer: ClassVar[tuple[int, bytes]] = (200, b"")
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("X-API-Key")))
        status, body = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Api.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def client_of(server: ThreadingHTTPServer, key: str | None = None) -> ApiClient:
    return ApiClient(UiSettings.model_validate({"api_url": f"http://127.0.0.1:{server.server_port}", "api_key": key}))


def answer(status: int, data: Any, outcome: str = "success") -> None:
    Api.answer = (status, json.dumps({"status": outcome, "data": data, "meta": {}}).encode())


def test_a_closed_port_is_unreachable_and_the_address_is_named(server: ThreadingHTTPServer):
    server.server_close()
    with client_of(server) as client, pytest.raises(ApiUnreachableError, match=str(server.server_port)):
        client.latest()


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_unauthorised_and_never_in_the_text(server: ThreadingHTTPServer, status: int):
    answer(status, {"code": "unauthorized", "message": "no"}, "error")
    with client_of(server, key="s3cret") as client:
        with pytest.raises(ApiUnauthorisedError) as caught:
            client.latest()
        assert "s3cret" not in str(caught.value) + repr(client)
    assert Api.seen == [("/api/v1/sensors/latest", "s3cret")]


def test_without_a_key_none_is_sent(server: ThreadingHTTPServer):
    answer(200, {"count": 0, "readings": []})
    with client_of(server) as client:
        assert client.latest() == ()
    assert Api.seen == [("/api/v1/sensors/latest", None)]


def test_an_error_of_the_api_keeps_its_message_and_code(server: ThreadingHTTPServer):
    answer(503, {"code": "hot_store_unavailable", "message": "The hot store is locked."}, "error")
    with client_of(server) as client, pytest.raises(ApiRefusedError, match=r"locked.*hot_store_unavailable"):
        client.latest()


def test_health_of_a_platform_that_is_down_is_still_an_account_of_it(server: ThreadingHTTPServer):
    down = {"status": "down", "version": "1", "components": {"hot_store": {"status": "down", "detail": "locked"}}}
    answer(503, {"code": "unavailable", "message": "down", **down}, "error")
    with client_of(server) as client:
        assert client.health().components["hot_store"].detail == "locked"


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"3", b'{"status": "success"}', b'{"data": {}}', b'{"data": {"readings": 5}}', b"\xff"]
)
def test_what_is_not_the_api_is_recognised(server: ThreadingHTTPServer, body: bytes):
    Api.answer = (200, body)
    with client_of(server) as client, pytest.raises(ApiAnswerError):
        client.latest()


def test_another_shape_names_the_field(server: ThreadingHTTPServer):
    answer(200, {"readings": [{"mote_id": "x", "timestamp": "2026-03-05T12:00:00Z", "age_seconds": 1}]})
    with client_of(server) as client, pytest.raises(ApiAnswerError, match="mote_id"):
        client.latest()


def test_an_error_without_an_envelope_is_not_the_api(server: ThreadingHTTPServer):
    Api.answer = (502, b"Bad gateway")
    with client_of(server) as client, pytest.raises(ApiAnswerError, match="502"):
        client.motes()


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8000", ""])
def test_an_address_that_is_none_is_refused_at_the_edge(url: str):
    with pytest.raises(ValueError, match="api_url"):
        UiSettings(api_url=url)
