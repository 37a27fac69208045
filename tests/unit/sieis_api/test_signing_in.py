"""Signing in with a browser: the cookie in place of the key, through the whole API."""

import datetime as dt
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http import HTTPStatus
from http.cookies import SimpleCookie
from typing import cast

import httpx
import pytest
import structlog
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sieis_api.envelope import Envelope, ErrorEnvelope
from sieis_api.security import SESSION_COOKIE, require_key
from sieis_api.sessions.schemas import Ended, Opened, Session
from sieis_platform.settings import Settings
from tools.services.instance import Instance

KEY = "correct-horse-battery"
BY_KEY = {"X-API-Key": KEY}
SESSION = "/api/v1/session"
HEALTH = "/api/v1/health"
GUARDED = ["/api/v1/sensors/latest", "/api/v1/motes", "/api/v1/analytics/anomalies", "/metrics"]
LATEST = GUARDED[0]


@pytest.fixture
def keyed(installation, settings_of: Callable[..., Settings]) -> Settings:
    return settings_of(installation.settings.data_dir, api_key=KEY)


@pytest.fixture
def browser(keyed: Settings, client_for: Callable[..., TestClient]) -> Iterator[TestClient]:
    """A client that keeps cookies, at the address of another machine."""
    with client_for(keyed, peer="192.0.2.7", host="sieis.example.org") as client:
        yield client


def sign_in(client: TestClient, **headers: str) -> httpx.Response:
    answer = client.post(SESSION, headers={**BY_KEY, **headers})
    assert answer.status_code == HTTPStatus.CREATED, answer.text
    return answer


def code_of(answer: httpx.Response) -> str:
    return ErrorEnvelope.model_validate_json(answer.content).data.code


def test_who_signs_in_needs_no_key_until_they_sign_out(browser: TestClient) -> None:
    before = Envelope[Session].model_validate_json(browser.get(SESSION).content).data
    assert before == Session(needed=True, signed_in=False, ends_at=None)
    opened = Envelope[Opened].model_validate_json(sign_in(browser).content).data
    assert abs(opened.ends_at - dt.datetime.now(dt.UTC) - dt.timedelta(hours=12)) < dt.timedelta(minutes=1)
    now = Envelope[Session].model_validate_json(browser.get(SESSION).content).data
    assert now == Session(needed=True, signed_in=True, ends_at=opened.ends_at)
    for path in GUARDED:
        assert browser.get(path).status_code == HTTPStatus.OK
    assert browser.get(HEALTH).json()["data"]["components"]

    copied = browser.cookies[SESSION_COOKIE]
    ended = browser.delete(SESSION)
    assert Envelope[Ended].model_validate_json(ended.content).data.ended == "everywhere"
    assert SESSION_COOKIE not in browser.cookies
    browser.cookies[SESSION_COOKIE] = copied
    for path in GUARDED:
        assert code_of(browser.get(path)) == "unauthorized"
    assert browser.get(HEALTH).json()["data"]["components"] == {}
    assert not browser.get(SESSION).json()["data"]["signed_in"]
    assert browser.delete(SESSION).status_code == HTTPStatus.OK


@pytest.mark.parametrize(
    ("headers", "secure"),
    [({}, False), ({"Origin": "http://sieis.example.org"}, False), ({"Origin": "https://sieis.example.org"}, True)],
)
def test_the_cookie_is_for_this_site_and_no_script(browser: TestClient, headers: dict[str, str], secure: bool) -> None:
    for answer, age in [(sign_in(browser, **headers), 12 * 3600), (browser.delete(SESSION, headers=headers), 0)]:
        cookie = SimpleCookie(answer.headers["set-cookie"])[SESSION_COOKIE]
        assert cookie["httponly"]
        assert cookie["samesite"] == "strict"
        assert cookie["path"] == "/"
        assert not cookie["domain"]
        assert bool(cookie["secure"]) is secure
        assert int(cookie["max-age"]) == age


def test_the_cookie_is_secure_where_the_server_itself_speaks_https(
    keyed: Settings, client_for: Callable[..., TestClient]
) -> None:
    with client_for(keyed) as client:
        forged = client.post(SESSION, headers={**BY_KEY, "X-Forwarded-Proto": "https", "Forwarded": "proto=https"})
        assert "Secure" not in forged.headers["set-cookie"]
        client.base_url = httpx.URL("https://localhost")
        assert "Secure" in sign_in(client).headers["set-cookie"]


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}, {"X-API-Key": "wrong"}])
def test_only_the_key_opens_a_session(browser: TestClient, headers: dict[str, str]) -> None:
    answer = browser.post(SESSION, headers=headers)
    assert (answer.status_code, code_of(answer)) == (HTTPStatus.UNAUTHORIZED, "unauthorized")
    assert "set-cookie" not in answer.headers
    for smuggled in (browser.post(SESSION, params={"X-API-Key": KEY}), browser.post(SESSION, json={"key": KEY})):
        assert smuggled.status_code == HTTPStatus.UNAUTHORIZED
    sign_in(browser)
    assert browser.post(SESSION, headers=headers).status_code == HTTPStatus.UNAUTHORIZED  # nor does a session


def test_a_wrong_key_is_refused_whatever_the_cookie(browser: TestClient) -> None:
    sign_in(browser)
    for path in (*GUARDED, HEALTH, SESSION):
        assert code_of(browser.get(path, headers={"X-API-Key": "wrong"})) == "unauthorized"
    assert code_of(browser.delete(SESSION, headers={"X-API-Key": "wrong"})) == "unauthorized"
    assert browser.get(LATEST).status_code == HTTPStatus.OK


def test_signing_in_again_ends_the_session_before(browser: TestClient) -> None:
    first = sign_in(browser).cookies[SESSION_COOKIE]
    second = sign_in(browser).cookies[SESSION_COOKIE]
    assert browser.get(LATEST).status_code == HTTPStatus.OK
    assert first != second
    browser.cookies.clear()
    assert browser.get(LATEST, headers={"Cookie": f"{SESSION_COOKIE}={first}"}).status_code == HTTPStatus.UNAUTHORIZED


def test_sessions_last_as_long_as_the_setting_says(
    installation, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    with client_for(settings_of(installation.settings.data_dir, api_key=KEY, session_hours=0.5)) as client:
        opened = sign_in(client)
    assert SimpleCookie(opened.headers["set-cookie"])[SESSION_COOKIE]["max-age"] == "1800"
    ends = dt.datetime.fromisoformat(opened.json()["data"]["ends_at"]).timestamp()
    assert abs(ends - time.time() - 1800) < 60


@pytest.mark.parametrize("hours", [0, -1, 0.01, 169, "nan"])
def test_a_session_is_neither_endless_nor_over_at_once(
    tmp_path, settings_of: Callable[..., Settings], hours: object
) -> None:
    with pytest.raises(ValueError, match="session_hours"):
        settings_of(tmp_path, session_hours=hours)


def test_without_a_key_there_is_nothing_to_sign_in_to(client: TestClient) -> None:
    assert client.get(SESSION).json()["data"] == {"needed": False, "signed_in": False, "ends_at": None}
    answer = client.post(SESSION, headers=BY_KEY)
    assert (answer.status_code, code_of(answer)) == (HTTPStatus.CONFLICT, "no_key_set")
    assert "SIEIS_API_KEY" in answer.text
    assert "set-cookie" not in answer.headers
    assert client.delete(SESSION).status_code == HTTPStatus.OK


HERE = "sieis.example.org"
OTHER_PAGES = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": f"http://{HERE}"},
    {"Sec-Fetch-Site": "nonsense"},
    {"Origin": "https://evil.example.org"},
    {"Origin": f"http://{HERE}:8501"},
    {"Origin": f"http://{HERE}.evil.example.org"},
    {"Origin": "null"},
    {"Origin": "http://["},
]
OWN_PAGES = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": f"https://{HERE}"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": f"http://{HERE}"},
    {"Origin": f"https://{HERE}"},  # a proxy before the API speaks https
    {"Origin": f"https://{HERE.upper()}"},
]


@pytest.mark.parametrize("headers", OTHER_PAGES)
def test_a_page_of_another_origin_changes_nothing_by_a_session(browser: TestClient, headers: dict[str, str]) -> None:
    sign_in(browser)
    answer = browser.delete(SESSION, headers=headers)
    assert (answer.status_code, code_of(answer)) == (HTTPStatus.FORBIDDEN, "forbidden")
    assert browser.get(LATEST, headers=headers).status_code == HTTPStatus.OK
    assert browser.get(SESSION).json()["data"]["signed_in"]
    browser.cookies[SESSION_COOKIE] = "A" * 43  # nor by one that only Redis would know, which is away
    assert browser.delete(SESSION, headers=headers).status_code == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("headers", OWN_PAGES)
def test_a_page_of_its_own_does(browser: TestClient, headers: dict[str, str]) -> None:
    sign_in(browser)
    assert browser.delete(SESSION, headers=headers).status_code == HTTPStatus.OK
    assert browser.get(LATEST).status_code == HTTPStatus.UNAUTHORIZED


def test_what_may_be_added_later_is_guarded_in_the_same_way(browser: TestClient) -> None:
    """An address that changes something, behind the dependency that all of them have."""
    app = cast(FastAPI, browser.app)
    app.add_api_route("/change", lambda: "done", methods=["POST"], dependencies=[Depends(require_key)])
    sign_in(browser)
    assert browser.post("/change").status_code == HTTPStatus.OK
    assert code_of(browser.post("/change", headers={"Origin": "https://evil.example.org"})) == "forbidden"
    assert browser.post("/change", headers={**BY_KEY, "Origin": "https://any.example.org"}).status_code == HTTPStatus.OK


def test_neither_token_nor_key_is_told(keyed: Settings, browser: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        token = sign_in(browser).cookies[SESSION_COOKIE]
        answers = [browser.get(path) for path in (*GUARDED, SESSION, HEALTH, "/nowhere", "/openapi.json", "/docs")]
        answers.append(browser.delete(SESSION, headers={"Origin": "https://evil.example.org"}))
    told = [answer.text + str(answer.headers) + str(answer.url) for answer in answers] + [repr(logs), repr(keyed)]
    told.append("".join(record.getMessage() for record in caplog.records if record.name.startswith("sieis")))
    assert not any(secret in text for text in told for secret in (token, KEY))
    assert any(line["event"] == "session opened" for line in logs)


def test_failed_attempts_are_counted_as_every_request_is(
    installation, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    settings = settings_of(installation.settings.data_dir, api_key=KEY, rate_limit_per_minute=3)
    with client_for(settings, peer="192.0.2.7") as client:
        answers = [client.post(SESSION, headers={"X-API-Key": "wrong"}).status_code for _ in range(3)]
        assert answers == [HTTPStatus.UNAUTHORIZED] * 3
        assert client.post(SESSION, headers=BY_KEY).status_code == HTTPStatus.TOO_MANY_REQUESTS


@hypothesis_settings(max_examples=50, deadline=None)
@given(cookie=st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda value: b"sieis_session=" + value)))
def test_whatever_stands_in_the_cookie_is_no_session(fuzzed: TestClient, cookie: bytes) -> None:
    cookie = re.sub(rb"[\r\n\0]", b"", cookie)
    assert fuzzed.get(LATEST, headers=[(b"Cookie", cookie)]).status_code == HTTPStatus.UNAUTHORIZED
    assert fuzzed.delete(SESSION, headers=[(b"Cookie", cookie)]).status_code == HTTPStatus.OK


@pytest.fixture(scope="module")
def fuzzed(
    installation, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> Iterator[TestClient]:
    with client_for(settings_of(installation.settings.data_dir, api_key=KEY)) as client:
        yield client


# -- several processes, and a Redis that goes away -----------------------------------------------------------------


def test_while_redis_is_away_a_session_lives_where_it_was_opened(
    installation, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    nowhere = settings_of(installation.settings.data_dir, api_key=KEY, redis_url="redis://:hunter2@127.0.0.1:1/0")
    with client_for(nowhere) as one, client_for(nowhere) as other:
        sign_in(one)
        assert one.get(LATEST).status_code == HTTPStatus.OK
        other.cookies = one.cookies
        assert code_of(other.get(LATEST)) == "unauthorized"
        assert other.get(LATEST, headers=BY_KEY).status_code == HTTPStatus.OK
        assert one.delete(SESSION).json()["data"] == {"ended": "here"}
        assert one.get(LATEST).status_code == HTTPStatus.UNAUTHORIZED


@pytest.fixture
def shared(
    installation, settings_of: Callable[..., Settings], redis: Instance, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Of processes on one Redis, which look after it more often than usual."""
    monkeypatch.setattr("sieis_api.redis_guard.PAUSE_SECONDS", 0.1)
    monkeypatch.setattr("sieis_api.cache.PAUSE_SECONDS", 0.1)
    url = redis.settings["SIEIS_REDIS_URL"]
    return settings_of(installation.settings.data_dir, api_key=KEY, redis_url=url, redis_prefix="two:")


@pytest.mark.services
@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_two_processes_share_sessions_and_get_over_a_redis_that_goes_away(
    shared: Settings, client_for: Callable[..., TestClient], redis: Instance, fault: str
) -> None:
    def status(client: TestClient, token: str) -> int:
        client.cookies.clear()
        return client.get(LATEST, headers={"Cookie": f"{SESSION_COOKIE}={token}"}).status_code

    def wait(client: TestClient, token: str, expected: HTTPStatus) -> None:
        deadline = time.monotonic() + 20
        while status(client, token) != expected:
            assert time.monotonic() < deadline
            time.sleep(0.02)  # another process cannot be awaited

    with ExitStack() as stack:
        one, other = (stack.enter_context(client_for(shared)) for _ in range(2))
        kept = sign_in(one).cookies[SESSION_COOKIE]
        one.cookies.clear()
        ended = sign_in(one).cookies[SESSION_COOKIE]
        assert [status(other, token) for token in (kept, ended)] == [HTTPStatus.OK] * 2

        (redis.kill if fault == "killed" else redis.pause)()
        try:
            # Unknown for now, on both; the key still opens everything, and a session in one process.
            assert {status(client, kept) for client in (one, other)} == {HTTPStatus.UNAUTHORIZED}
            assert other.get(LATEST, headers=BY_KEY).status_code == HTTPStatus.OK
            meanwhile = sign_in(one).cookies[SESSION_COOKIE]
            assert status(one, meanwhile) == HTTPStatus.OK
            assert status(other, meanwhile) == HTTPStatus.UNAUTHORIZED
            signed_out = one.delete(SESSION, headers={"Cookie": f"{SESSION_COOKIE}={ended}"})
            assert signed_out.json()["data"] == {"ended": "here"}
        finally:
            (redis.start if fault == "killed" else redis.resume)()

        for client in (one, other):
            wait(client, kept, HTTPStatus.OK)  # what Redis has kept is known again
            wait(client, ended, HTTPStatus.UNAUTHORIZED)  # what was ended meanwhile is ended everywhere
            wait(client, meanwhile, HTTPStatus.UNAUTHORIZED)  # what one process kept to itself is not taken over
        assert other.delete(SESSION, headers={"Cookie": f"{SESSION_COOKIE}={kept}"}).json()["data"] == {
            "ended": "everywhere"
        }
        assert status(one, kept) == HTTPStatus.UNAUTHORIZED
