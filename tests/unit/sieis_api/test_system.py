"""Health and metrics."""

import time
from collections.abc import Callable
from http import HTTPStatus

from fastapi.testclient import TestClient

from sieis_api.envelope import Envelope
from sieis_api.system.schemas import Health, HealthDownEnvelope
from sieis_platform.settings import Settings
from sieis_platform.stores.open import open_archive
from sieis_platform.stores.tiers import move_day
from tests.unit.sieis_api.conftest import archive_rows, readings

HEALTH = "/api/v1/health"


def test_a_working_installation_is_ok(client: TestClient) -> None:
    health = Envelope[Health].model_validate_json(client.get(HEALTH).content).data
    assert health.status == "ok"
    assert {name: part.status for name, part in health.components.items()} == {
        "hot_store": "ok",
        "archive": "ok",
        "hourly_aggregates": "ok",
        "daily_aggregates": "empty",
        "anomalies": "ok",
    }
    assert health.components["hot_store"].detail.startswith("5 motes")


def test_a_fresh_installation_is_ok_and_empty(
    tmp_path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    with client_for(settings_of(tmp_path / "var")) as client:
        answer = client.get(HEALTH)
    health = Envelope[Health].model_validate_json(answer.content).data
    assert (answer.status_code, health.status) == (HTTPStatus.OK, "ok")
    assert {part.status for part in health.components.values()} == {"empty"}


def test_a_broken_hot_store_is_down_with_503(
    tmp_path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    settings = settings_of(tmp_path)
    settings.hot_path.write_bytes(b"this is not a database" * 1000)
    with client_for(settings) as client:
        answer = client.get(HEALTH)
    assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    body = HealthDownEnvelope.model_validate_json(answer.content).data
    assert (body.status, body.code, body.components["hot_store"].status) == ("down", "unhealthy", "down")
    assert str(tmp_path) not in answer.text


def test_a_broken_archive_or_mart_is_degraded_with_200(
    tmp_path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    settings = settings_of(tmp_path)
    for table in (tmp_path / "archive", tmp_path / "marts" / "anomalies"):
        (table / "_delta_log").mkdir(parents=True)
        (table / "_delta_log" / "00000000000000000000.json").write_text("not a log")
    with client_for(settings) as client:
        answer = client.get(HEALTH)
    health = Envelope[Health].model_validate_json(answer.content).data
    assert (answer.status_code, health.status) == (HTTPStatus.OK, "degraded")
    down = {name for name, part in health.components.items() if part.status == "down"}
    assert down == {"archive", "anomalies"}
    assert str(tmp_path) not in answer.text


def test_moved_days_are_answered_as_before_and_without_the_setting_the_archive_is_down(
    tmp_path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    settings = settings_of(tmp_path)
    day_ns = 86_400 * 10**9
    start = time.time_ns() // day_ns * day_ns - 50 * day_ns
    archive_rows(settings, readings([1, 2], start + day_ns - 1, 100))
    old = {"start": "1970-01-01T00:00:00Z", "end": "2100-01-01T00:00:00Z", "limit": 1000}
    with client_for(settings) as client:
        before = client.get("/api/v1/sensors/readings", params=old).json()["data"]
        hour = client.get("/api/v1/sensors/readings").json()["data"]  # the last one of all readings there are
    assert before["count"] == 200
    assert hour["count"] > 0
    settings = settings.changed(archive_cold_uri=str(tmp_path / "cold"))
    archive = open_archive(settings)
    for day in archive.rows_by_day(archive.files()):
        move_day(archive, day)
    with client_for(settings) as client:
        assert client.get("/api/v1/sensors/readings", params=old).json()["data"] == before
        assert client.get("/api/v1/sensors/readings").json()["data"] == hour
        assert client.get(HEALTH).json()["data"]["components"]["archive"]["status"] == "ok"
    with client_for(settings.changed(archive_cold_uri="")) as client:
        assert client.get("/api/v1/sensors/readings", params=old).status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert client.get(HEALTH).json()["data"]["components"]["archive"]["status"] == "down"


def test_metrics_count_by_template_and_status(installation, client_for: Callable[..., TestClient]) -> None:
    with client_for(installation.settings) as client:
        for mote in (1, 2, 99):
            client.get(f"/api/v1/sensors/{mote}/latest")
        client.get("/wp-login.php")
        client.request("BREW", "/coffee")
        text = client.get("/metrics").text
    route = 'route="/api/v1/sensors/{mote_id}/latest"'
    assert f'sieis_api_requests_total{{method="GET",{route},status="200"}} 2.0' in text
    assert f'sieis_api_requests_total{{method="GET",{route},status="404"}} 1.0' in text
    assert f'sieis_api_request_seconds_count{{method="GET",{route}}} 3.0' in text
    assert 'sieis_api_requests_total{method="other",route="unmatched",status="404"} 1.0' in text
    assert "wp-login" not in text
