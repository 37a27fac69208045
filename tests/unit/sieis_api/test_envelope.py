"""Every answer, right or wrong, in the one envelope."""

from collections.abc import Callable
from http import HTTPStatus
from unittest.mock import create_autospec

import pytest
import structlog
from fastapi.testclient import TestClient

from sieis_api.envelope import ErrorEnvelope
from sieis_api.stores import open_stores
from sieis_platform.stores.sqlite import SqliteHotStore

LATEST = "/api/v1/sensors/latest"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/api/v1", 404, "not_found"),
        ("GET", "/api/v1/motes/", 404, "not_found"),  # no redirect: it would come without the envelope
        ("GET", "/api/v1/../../etc/passwd", 404, "not_found"),
        ("POST", LATEST, 405, "method_not_allowed"),
        ("BREW", LATEST, 405, "method_not_allowed"),
        ("GET", "/api/v1/sensors/0/latest", 422, "invalid_request"),
        ("GET", "/api/v1/sensors/2147483648/latest", 422, "invalid_request"),
        ("GET", "/api/v1/sensors/1' OR '1'='1/latest", 422, "invalid_request"),
        ("GET", "/api/v1/sensors/99/latest", 404, "mote_not_found"),
    ],
)
def test_errors_come_in_the_envelope(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    body = ErrorEnvelope.model_validate_json(answer.content)
    assert body.data.code == code
    assert body.meta.request_id == answer.headers["X-Request-ID"]
    assert body.meta.elapsed_ms > 0


def test_a_wrong_parameter_is_named_and_not_repeated(client: TestClient) -> None:
    secret = "hunter2"
    answer = client.get("/api/v1/sensors/readings", params={"start": secret, "limit": secret, "strat": secret})
    problems = ErrorEnvelope.model_validate_json(answer.content).data.problems
    assert problems is not None
    assert {problem.where for problem in problems} == {"query.start", "query.limit", "query.strat"}
    assert secret not in answer.text


def test_a_window_that_ends_before_it_begins_is_refused(client: TestClient) -> None:
    for end in ("2026-02-19T00:00:00Z", "2026-02-18T00:00:00Z"):
        for path in ("sensors/readings", "analytics/aggregates", "analytics/anomalies"):
            answer = client.get(f"/api/v1/{path}", params={"start": "2026-02-19T00:00:00Z", "end": end})
            assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
            assert "start must be before end" in answer.json()["data"]["message"]


@pytest.mark.parametrize("sent", ["7", "4bf92f3577b34da6a3ce929d0e0e4736", "a.b_c-D", "x" * 64])
def test_a_sane_request_id_is_kept(client: TestClient, sent: str) -> None:
    answer = client.get(LATEST, headers={"X-Request-ID": sent})
    assert answer.headers["X-Request-ID"] == answer.json()["meta"]["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, "a b", "a;b", "<script>", "a\u00e9", '{"a":1}'])
def test_any_other_request_id_is_replaced(client: TestClient, sent: str) -> None:
    answer = client.get(LATEST, headers=[(b"X-Request-ID", sent.encode("latin-1"))])
    made = answer.headers["X-Request-ID"]
    assert made == answer.json()["meta"]["request_id"] != sent
    assert len(made) == 16


def test_two_requests_have_two_ids(client: TestClient) -> None:
    assert client.get(LATEST).headers["X-Request-ID"] != client.get(LATEST).headers["X-Request-ID"]


def test_the_unforeseen_is_500_with_an_id_to_look_up_and_nothing_of_the_inside(
    installation, client_for: Callable[..., TestClient]
) -> None:
    def stores(settings):
        hot = create_autospec(SqliteHotStore, instance=True, spec_set=True)
        hot.latest.side_effect = ZeroDivisionError("password=hunter2 in /srv/secret")
        return open_stores(settings)._replace(hot=hot)

    with client_for(installation.settings, stores=stores) as client, structlog.testing.capture_logs() as logs:
        answer = client.get(LATEST, headers={"X-Request-ID": "look-me-up"})
    assert answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    body = ErrorEnvelope.model_validate_json(answer.content)
    assert (body.data.code, body.meta.request_id) == ("internal_error", "look-me-up")
    assert not any(word in answer.text for word in ("hunter2", "/srv", "ZeroDivision", "Traceback"))
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    logged = [entry for entry in logs if entry["log_level"] == "error"]
    assert [entry["request_id"] for entry in logged] == ["look-me-up"]
    assert logged[0]["exc_info"]
