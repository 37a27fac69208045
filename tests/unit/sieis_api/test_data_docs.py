"""The Data Docs in a browser: every link works, nobody without the key sees them, and no name leads out of the site."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from sieis_platform.analysis.quality import tables
from sieis_platform.analysis.quality.docs import build
from sieis_platform.analysis.quality.evaluate import evaluate
from sieis_platform.analysis.quality.suites import SUITES
from sieis_platform.analysis.quality.verdict import Judged, results_frame
from sieis_platform.settings import Settings
from tests.unit.sieis_platform.analysis.quality.test_docs import DAY, NOW_NS

INDEX = "/data-docs/index.html"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, settings_of: Callable[..., Settings]) -> Settings:
    """An installation whose site tells of a check that is broken."""
    made = settings_of(tmp_path_factory.mktemp("docs") / "var", api_key="hunter2")
    verdicts = evaluate("hot_store_age", tables.age(0, 660 * 10**9))
    build(results_frame(Judged("hot_store", DAY, DAY, 7, "run", NOW_NS), verdicts), made.data_docs_path)
    (made.data_docs_path / "current" / "static" / "notes.txt").write_text("what else may lie there")
    return made


@pytest.fixture(scope="module")
def client(settings: Settings, client_for: Callable[..., TestClient]) -> Iterator[TestClient]:
    with client_for(settings) as opened:
        opened.headers["X-API-Key"] = "hunter2"
        yield opened


def test_from_the_first_page_every_page_of_the_site_is_reached(client: TestClient) -> None:
    found: dict[str, str] = {}
    waiting = ["/data-docs"]
    while waiting:
        address = waiting.pop()
        if address in found:
            continue
        answer = client.get(address)
        assert answer.status_code == 200, (address, answer.text)
        found[address] = answer.headers["content-type"]
        if found[address].startswith("text/html"):
            links = re.findall(r'(?:href|src)="([^"#]+)"', answer.text)
            waiting += [urljoin(answer.url.path, link) for link in links]
    pages = [address for address, media in found.items() if media == "text/html; charset=utf-8"]
    assert [address for address, media in found.items() if media == "text/css; charset=utf-8"] == [
        "/data-docs/static/styles/sieis.css"
    ]
    assert len(pages) == 1 + 1 + len(SUITES) + 1  # the address alone leads to the first page
    assert "broken: freshness" in client.get(INDEX).text


def test_a_page_may_load_its_styles_and_nothing_else(client: TestClient) -> None:
    answer = client.get(INDEX)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self' 'unsafe-inline'; ")
    assert "script-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert client.get("/data-docs/static/notes.txt").headers["content-type"] == "application/octet-stream"


def test_without_the_key_there_is_nothing_to_see(settings: Settings, client_for: Callable[..., TestClient]) -> None:
    with client_for(settings) as stranger:
        for address in ("/data-docs", "/data-docs/", INDEX, "/data-docs/none.html"):
            answer = stranger.get(address, follow_redirects=False)
            assert answer.status_code == 401
            assert answer.json()["data"]["code"] == "unauthorized"


def test_a_session_opens_it_in_a_browser(settings: Settings, client_for: Callable[..., TestClient]) -> None:
    with client_for(settings) as browser:
        opened = browser.post("/api/v1/session", headers={"X-API-Key": "hunter2"})
        assert opened.status_code == 201, opened.text
        assert browser.get(INDEX).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "none.html",
        "expectations",
        "expectations/",
        "../lock",
        "%2e%2e/lock",
        "..%2flock",
        "%2e%2e%2f%2e%2e%2fstate.sqlite",
        "expectations/..%2findex.html",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "index.html%00",
        "file:%2f%2f%2fetc%2fpasswd",
        "x" * 5_000,
    ],
)
def test_a_name_that_is_none_of_the_sites_is_not_found(client: TestClient, name: str) -> None:
    answer = client.get(f"/data-docs/{name}")
    assert answer.status_code == 404
    assert answer.json()["data"]["code"] in ("page_not_found", "not_found")


def test_before_the_first_site_it_says_what_makes_it(
    tmp_path: Path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    with client_for(settings_of(tmp_path)) as early:
        answer = early.get(INDEX)
    assert answer.status_code == 404
    assert "the asset data_docs" in answer.json()["data"]["message"]
