"""Whatever is written into the parameters: an answer in the envelope, and never a 500."""

import datetime as dt

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LISTS = ("/api/v1/sensors/readings", "/api/v1/analytics/aggregates", "/api/v1/analytics/anomalies")
NAMES = st.sampled_from(["mote_id", "start", "end", "limit", "cursor", "period", "strat"])
MOMENTS = st.datetimes(timezones=st.just(dt.UTC)).map(lambda moment: moment.isoformat().replace("+00:00", "Z"))
VALUES = st.one_of(
    st.text(max_size=40),
    MOMENTS,
    st.integers().map(str),
    st.integers(-2, 60).map(str),
    st.floats().map(str),
    st.sampled_from(["hourly", "daily", "null", "None", "[]", "%00", "1e3", "0x1", "9" * 5000]),
)
INJECTIONS = [
    "1 OR 1=1",
    "1; DROP TABLE readings",
    "1) UNION SELECT * FROM sqlite_master --",
    "' OR ''='",
    "1/**/OR/**/1",
    "../../etc/passwd",
    "..%2f..%2fhot.sqlite",
    "file:///etc/passwd",
    "s3://bucket/table",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "\x00",
    "1\n2",
]
# The data is only read, so that examples may share it.
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("path", LISTS)
@RELAXED
@given(params=st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_parameters(client: TestClient, path: str, params: list[tuple[str, str]]) -> None:
    answer = client.get(path, params=[(name, value.encode("utf-8", "surrogatepass")) for name, value in params])
    assert answer.status_code in (200, 422), (params, answer.text)
    assert answer.json()["meta"]["request_id"]


@pytest.mark.parametrize("path", LISTS)
@RELAXED
@given(query=st.binary(max_size=60))
def test_raw_query_strings(client: TestClient, path: str, query: bytes) -> None:
    answer = client.get(f"{path}?" + "".join(f"%{byte:02x}" for byte in query))
    assert answer.status_code in (200, 422), (query, answer.text)


@pytest.mark.parametrize("value", INJECTIONS)
def test_injection_into_any_parameter_is_refused(client: TestClient, value: str) -> None:
    for path in LISTS:
        for name in ("mote_id", "start", "end", "limit", "cursor", "period", "table", "columns"):
            answer = client.get(path, params={name: value})
            assert answer.status_code == 422, (path, name, answer.text)
            assert answer.json()["data"]["code"] == "invalid_request"


@pytest.mark.parametrize("value", ["1 OR 1=1", "1;DROP TABLE readings", "%27", "-1", "1.5", "999999999999"])
def test_injection_into_the_path_is_refused(client: TestClient, value: str) -> None:
    assert client.get(f"/api/v1/sensors/{value}/latest").status_code == 422


def test_more_motes_than_any_building_has_are_refused(client: TestClient) -> None:
    answer = client.get(LISTS[0], params={"mote_id": list(range(1, 502))})
    assert answer.status_code == 422
