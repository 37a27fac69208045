"""Aggregates and anomalies out of real marts."""

from collections.abc import Callable
from http import HTTPStatus

import polars as pl
import pytest
from fastapi.testclient import TestClient

from sieis_api.analytics.schemas import Aggregates, Anomalies
from sieis_api.envelope import Envelope
from sieis_platform.settings import Settings

AGGREGATES = "/api/v1/analytics/aggregates"
ANOMALIES = "/api/v1/analytics/anomalies"
HOUR = 3_600 * 1_000_000_000
DAY = 24 * HOUR


def whole(ns: int, iso: Callable[[int], str]) -> str:
    """A full hour as the API writes it."""
    return iso(ns).replace(".000000000Z", "Z")


def test_without_a_window_the_last_day_of_hours_is_given(client: TestClient, installation) -> None:
    answer = client.get(AGGREGATES)
    body = Envelope[Aggregates].model_validate_json(answer.content).data
    newest = installation.hourly["period_start"].max()
    last = installation.hourly.filter(pl.col("period_start") > newest - DAY)
    got = [(row["mote_id"], row["period_start"]) for row in answer.json()["data"]["aggregates"]]
    assert got == [
        (mote, whole(ns, installation.iso)) for mote, ns in last.select("mote_id", "period_start").iter_rows()
    ]
    assert (body.count, body.period, body.truncated) == (3 * 24, "hourly", False)
    assert answer.json()["data"]["aggregates"][0]["temp_avg"] == 20.5


def test_the_building_is_mote_0(client: TestClient, installation) -> None:
    start = whole(installation.hourly["period_start"].min(), installation.iso)
    rows = client.get(AGGREGATES, params={"mote_id": 0, "start": start}).json()["data"]["aggregates"]
    assert {row["mote_id"] for row in rows} == {0}
    assert len(rows) == 48


def test_a_window_includes_its_start_and_excludes_its_end(client: TestClient, installation) -> None:
    first = installation.hourly["period_start"].min() + HOUR
    params = {"mote_id": 1, "start": installation.iso(first), "end": installation.iso(first + 2 * HOUR)}
    rows = client.get(AGGREGATES, params=params).json()["data"]["aggregates"]
    assert [row["period_start"] for row in rows] == [
        whole(first, installation.iso),
        whole(first + HOUR, installation.iso),
    ]


def test_of_too_many_the_newest_are_given_in_order(client: TestClient, installation) -> None:
    data = client.get(AGGREGATES, params={"limit": 4}).json()["data"]
    last = installation.hourly.tail(4)
    got = [(row["mote_id"], row["period_start"]) for row in data["aggregates"]]
    assert got == [
        (mote, whole(ns, installation.iso)) for mote, ns in last.select("mote_id", "period_start").iter_rows()
    ]
    assert data["truncated"] is True


def test_a_period_that_was_not_materialized_is_empty(client: TestClient) -> None:
    data = client.get(AGGREGATES, params={"period": "daily"}).json()["data"]
    assert data == {"count": 0, "period": "daily", "truncated": False, "aggregates": []}


def test_anomalies_come_newest_first_with_their_model(client: TestClient, installation) -> None:
    answer = client.get(ANOMALIES, params={"limit": 5})
    body = Envelope[Anomalies].model_validate_json(answer.content).data
    assert installation.answered(answer.json()["data"]["anomalies"]) == installation.put(installation.anomalies.head(5))
    assert body.truncated is True
    assert body.model is not None
    assert (body.model.name, body.model.version, body.model.threshold) == ("sieis-anomaly", "3", 0.6)
    assert answer.json()["data"]["model"]["trained_at"] == installation.iso(installation.newest)


def test_anomalies_of_one_mote_in_a_window(client: TestClient, installation) -> None:
    start = installation.newest - 10 * HOUR
    params = {"mote_id": 22, "start": installation.iso(start), "end": installation.iso(installation.newest)}
    data = client.get(ANOMALIES, params=params).json()["data"]
    mine = installation.anomalies.filter(
        pl.col("mote_id") == 22, pl.col("timestamp").is_between(start, installation.newest, closed="left")
    )
    assert installation.answered(data["anomalies"]) == installation.put(mine)
    assert data["truncated"] is False


def test_before_anything_was_derived_the_answers_are_empty(
    tmp_path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    with client_for(settings_of(tmp_path)) as client:
        assert client.get(ANOMALIES).json()["data"] == {"count": 0, "truncated": False, "model": None, "anomalies": []}
        assert client.get(AGGREGATES).json()["data"]["aggregates"] == []


@pytest.mark.parametrize("period", ["weekly", "", "hourly; DROP TABLE x", "../anomalies", "hourly_aggregates"])
def test_the_name_of_a_period_never_becomes_a_path_or_a_query(client: TestClient, period: str) -> None:
    assert client.get(AGGREGATES, params={"period": period}).status_code == HTTPStatus.UNPROCESSABLE_ENTITY
