"""Who may ask, and that the key stays a secret."""

import logging
from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest
import structlog
from fastapi.testclient import TestClient

from sieis_api.app import create_app
from sieis_api.envelope import ErrorEnvelope
from sieis_api.security import HEADERS, ExposedWithoutKeyError
from sieis_platform.settings import Settings

KEY = "correct-horse-battery"
GUARDED = [
    "/api/v1/sensors/latest",
    "/api/v1/sensors/1/latest",
    "/api/v1/sensors/readings",
    "/api/v1/motes",
    "/api/v1/analytics/aggregates",
    "/api/v1/analytics/anomalies",
    "/metrics",
]
HEALTH = "/api/v1/health"


@pytest.fixture
def keyed(installation, settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(installation.settings.data_dir, api_key=KEY, api_host="0.0.0.0")


@pytest.fixture
def keyed_client(keyed: Settings, client_for: Callable[..., TestClient]) -> Iterator[TestClient]:
    with client_for(keyed, peer="192.0.2.7", host="sieis.example.org") as client:
        yield client


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "sieis.example.org", ""])
def test_it_does_not_start_for_everyone_without_a_key(
    tmp_path, settings_of: Callable[..., Settings], host: str
) -> None:
    for key in (None, ""):
        with pytest.raises(ExposedWithoutKeyError, match=r"SIEIS_API_KEY.*SIEIS_API_HOST=127\.0\.0\.1"):
            create_app(settings_of(tmp_path, api_host=host, api_key=key))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "localhost"])
def test_it_starts_for_this_machine_without_a_key(tmp_path, settings_of: Callable[..., Settings], host: str) -> None:
    create_app(settings_of(tmp_path, api_host=host))


@pytest.mark.parametrize("path", [*GUARDED, HEALTH, "/docs", "/openapi.json", "/nowhere"])
@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("192.0.2.7", "localhost"),
        ("127.0.0.1", "evil.example.org"),
        ("127.0.0.1", "localhost.evil.example.org:8000"),
        ("127.0.0.1", "127.0.0.1.nip.io"),
        ("testclient", "localhost"),
    ],
)
def test_without_a_key_strangers_and_rebound_names_are_refused(
    installation, client_for: Callable[..., TestClient], peer: str, host: str, path: str
) -> None:
    with client_for(installation.settings, peer=peer, host=host) as client:
        answer = client.get(path)
    assert answer.status_code == HTTPStatus.FORBIDDEN
    assert ErrorEnvelope.model_validate_json(answer.content).data.code == "forbidden"


@pytest.mark.parametrize(
    ("peer", "host"),
    [("127.0.0.1", "localhost:8000"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]:8000"), ("127.0.0.1", "LOCALHOST")],
)
def test_without_a_key_this_machine_is_answered(
    installation, client_for: Callable[..., TestClient], peer: str, host: str
) -> None:
    with client_for(installation.settings, peer=peer) as client:
        assert client.get(GUARDED[0], headers={"Host": host}).status_code == HTTPStatus.OK


def test_two_host_headers_are_refused(installation, client_for: Callable[..., TestClient]) -> None:
    with client_for(installation.settings) as client:
        answer = client.get(GUARDED[0], headers=[("Host", "localhost"), ("Host", "evil.example.org")])
    assert answer.status_code == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("path", GUARDED)
def test_with_a_key_it_is_asked_for(keyed_client: TestClient, path: str) -> None:
    for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": KEY + "x"}, {"X-API-Key": "ÿ"}, {"Authorization": KEY}):
        answer = keyed_client.get(
            path, headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        )
        assert answer.status_code == HTTPStatus.UNAUTHORIZED
        assert ErrorEnvelope.model_validate_json(answer.content).data.code == "unauthorized"
        assert "WWW-Authenticate" in answer.headers
    assert keyed_client.get(path, params={"X-API-Key": KEY}).status_code == HTTPStatus.UNAUTHORIZED
    assert keyed_client.get(path, headers={"X-API-Key": KEY}).status_code == HTTPStatus.OK


def test_health_is_open_and_its_details_are_not(keyed_client: TestClient) -> None:
    open_answer = keyed_client.get(HEALTH)
    assert open_answer.status_code == HTTPStatus.OK
    assert open_answer.json()["data"] == {"status": "ok", "version": "", "components": {}}
    assert (
        keyed_client.get(HEALTH, headers={"X-API-Key": KEY}).json()["data"]["components"]["hot_store"]["status"] == "ok"
    )
    assert keyed_client.get(HEALTH, headers={"X-API-Key": "wrong"}).status_code == HTTPStatus.UNAUTHORIZED


def test_the_key_is_told_to_nobody(keyed: Settings, keyed_client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        answers = [
            keyed_client.get(path, headers={"X-API-Key": key})
            for path in (*GUARDED, HEALTH, "/nowhere")
            for key in (KEY, KEY[:-1] + "-")
        ]
        answers.append(keyed_client.get("/openapi.json"))
    told = [answer.text + str(answer.headers) for answer in answers] + [repr(keyed), repr(logs), caplog.text]
    assert not any(KEY[:-1] in text for text in told)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/sensors/latest", 200),
        ("GET", "/docs", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nowhere", 404),
        ("DELETE", "/api/v1/sensors/latest", 405),
        ("POST", "/api/v1/session", 409),
        ("GET", "/api/v1/session", 200),
        ("GET", "/api/v1/sensors/x/latest", 422),
    ],
)
def test_every_answer_has_the_security_headers(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    for name, value in HEADERS.items():
        expected = answer.headers[name] if path == "/docs" and name == "Content-Security-Policy" else value
        assert answer.headers[name] == expected
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_no_other_origin_is_let_in(client: TestClient) -> None:
    answer = client.get("/api/v1/sensors/latest", headers={"Origin": "https://evil.example.org"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    preflight = {"Origin": "https://evil.example.org", "Access-Control-Request-Method": "GET"}
    assert client.options("/api/v1/sensors/latest", headers=preflight).status_code == HTTPStatus.METHOD_NOT_ALLOWED
