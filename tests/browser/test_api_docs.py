"""The API in a browser: /docs without the internet, signing in there, and what the cookie is then good for."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

pytestmark = pytest.mark.slow

KEY = "correct-horse-battery"
LATEST = "/api/v1/sensors/latest"
SESSION = "/api/v1/session"
STATUS = "([method, url, headers]) => fetch(url, {method, headers}).then(answer => answer.status)"
FROM_ELSEWHERE = """([method, url, mode]) => fetch(url, {method, mode, credentials: 'include'})
    .then(answer => answer.type, () => 'refused')"""


@pytest.fixture(scope="module")
def address(
    api: Callable[..., AbstractContextManager[None]], filled: Path, new_port: Callable[[], int]
) -> Iterator[str]:
    port = new_port()
    with api(filled, port, SIEIS_API_KEY=KEY):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as context:
        yield context


@pytest.fixture
def docs(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    complaints: list[str] = []
    elsewhere: list[str] = []
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: elsewhere.append(asked.url) if not asked.url.startswith(address) else None)
    page.goto(f"{address}/docs")
    expect(page.get_by_text("Whether the platform answers")).to_be_visible(timeout=30_000)
    assert not complaints
    assert [url for url in elsewhere if not url.startswith("data:")] == []
    return page


def status(page: Page, method: str, url: str, **headers: str) -> int:
    return page.evaluate(STATUS, [method, url, headers])


def test_signing_in_on_the_docs_page_opens_every_link(docs: Page, context: BrowserContext, address: str) -> None:
    assert status(docs, "GET", LATEST) == 401
    docs.get_by_role("button", name="Authorize").first.click()
    docs.get_by_role("textbox").first.fill(KEY)
    docs.get_by_label("Apply credentials").first.click()
    docs.get_by_role("button", name="Close").first.click()
    docs.get_by_text("Sign in: a cookie instead of the key").click()
    with docs.expect_response(f"{address}{SESSION}") as opened:
        docs.get_by_role("button", name="Execute").click()
    assert opened.value.status == 201

    (cookie,) = context.cookies()
    assert cookie.get("httpOnly")
    assert cookie.get("sameSite") == "Strict"
    assert docs.evaluate("document.cookie") == ""
    assert status(docs, "GET", LATEST) == 200

    link = context.new_page()  # an address typed in, with no header of ours
    answer = link.goto(f"{address}{LATEST}")
    assert answer is not None
    assert answer.status == 200
    assert status(docs, "GET", LATEST, **{"X-API-Key": "wrong"}) == 401
    assert status(docs, "DELETE", SESSION) == 200
    assert not context.cookies()
    assert status(docs, "GET", LATEST) == 401


def test_a_page_of_another_port_neither_reads_nor_signs_out(
    docs: Page, context: BrowserContext, address: str, new_port: Callable[[], int]
) -> None:
    """It is the same site to the browser, which sends the cookie along: SameSite does not help here."""
    assert status(docs, "POST", SESSION, **{"X-API-Key": KEY}) == 201
    other = context.new_page()
    elsewhere = f"http://127.0.0.1:{new_port()}/"
    other.route(elsewhere, lambda route: route.fulfill(body="<title>other</title>", content_type="text/html"))
    other.goto(elsewhere)
    for method, url in [("GET", LATEST), ("POST", SESSION), ("DELETE", SESSION)]:
        for mode in ("cors", "no-cors"):
            assert other.evaluate(FROM_ELSEWHERE, [method, address + url, mode]) in ("refused", "opaque")
    assert status(docs, "GET", LATEST) == 200
