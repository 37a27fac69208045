"""What /docs teaches: every address explained, every answer as described."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_the_addresses_are_the_agreed_ones(document: dict[str, Any]) -> None:
    assert {path: list(methods) for path, methods in document["paths"].items()} == {
        "/api/v1/health": ["get"],
        "/api/v1/sensors/latest": ["get"],
        "/api/v1/sensors/{mote_id}/latest": ["get"],
        "/api/v1/sensors/readings": ["get"],
        "/api/v1/motes": ["get"],
        "/api/v1/analytics/aggregates": ["get"],
        "/api/v1/analytics/anomalies": ["get"],
        "/api/v1/session": ["get", "post", "delete"],
        "/data-docs/{name}": ["get"],
        "/metrics": ["get"],
    }


def test_every_address_and_parameter_is_explained(document: dict[str, Any]) -> None:
    for path, operation in operations(document):
        assert operation["summary"], path
        assert len(operation["description"]) > 60, path
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{path} {parameter['name']}"


def test_errors_are_documented_in_the_envelope(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status.startswith(("4", "5")):
                schema = answer["content"]["application/json"]["schema"]["$ref"]
                assert schema.rsplit("/", 1)[-1] in ("ErrorEnvelope", "HealthDownEnvelope"), path
        assert {"401", "403"} <= operation["responses"].keys(), path
        if operation.get("parameters"):
            assert "422" in operation["responses"], path


def test_every_example_address_in_the_text_works(client: TestClient, document: dict[str, Any]) -> None:
    examples = [
        found
        for _, operation in operations(document)
        for found in re.findall(r"`curl '?http://127\.0\.0\.1:8000([^'`]+)'?`", operation["description"])
    ]
    assert len(examples) == 9
    for address in examples:
        assert client.get(address).status_code in (200, 404), (
            address
        )  # mote 17 is in the text, not in this installation


def test_times_are_documented_as_times(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/api/v1/sensors/readings"]["get"]["parameters"]
    start = next(parameter for parameter in parameters if parameter["name"] == "start")
    assert {"type": "string", "format": "date-time"} in start["schema"]["anyOf"]


def test_the_docs_page_may_run_its_own_script_and_no_other(client: TestClient) -> None:
    answer = client.get("/docs")
    policy = answer.headers["Content-Security-Policy"]
    assert "SwaggerUIBundle" in answer.text
    assert re.search(r"script-src 'self' 'sha256-[A-Za-z0-9+/]{43}=';", policy)
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_the_docs_page_needs_no_internet(client: TestClient) -> None:
    page = client.get("/docs")
    assert "//" not in page.headers["content-security-policy"]
    assert not [address for address in re.findall(r"(?:src|href)=\"([^\"]*)\"", page.text) if "//" in address]
    files = re.findall(r"(?:src|href)=\"(/docs/[^\"]*\.(js|css))\"", page.text)
    assert len(files) == 2
    for file, media in files:
        answer = client.get(file)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith({"js": "text/javascript", "css": "text/css"}[media])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "max-age" in answer.headers["cache-control"]
        assert len(answer.content) > 100_000
    assert client.get("/docs/redoc.standalone.js").status_code == 404
