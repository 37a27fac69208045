"""Live and past readings, from a real hot store and a real archive."""

import datetime as dt
import json
from collections.abc import Callable
from http import HTTPStatus
from unittest.mock import create_autospec

import polars as pl
import pytest
from fastapi.testclient import TestClient

from sieis_api.envelope import Envelope, ErrorEnvelope
from sieis_api.sensors.schemas import LiveReading, LiveReadings, Readings
from sieis_api.stores import Stores, open_stores
from sieis_platform.settings import Settings
from sieis_platform.stores.hot import HotStoreUnavailableError
from sieis_platform.stores.sqlite import SqliteHotStore

LATEST = "/api/v1/sensors/latest"
READINGS = "/api/v1/sensors/readings"
SECOND = 1_000_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR


def test_latest_is_the_newest_reading_of_every_mote_with_its_age(client: TestClient, installation) -> None:
    answer = client.get(LATEST)
    body = Envelope[LiveReadings].model_validate_json(answer.content).data
    newest = installation.recent.sort("timestamp").group_by("mote_id").last().sort("mote_id")
    assert installation.answered(answer.json()["data"]["readings"]) == installation.put(newest)
    assert body.count == newest.height == 5
    assert [reading.in_fleet for reading in body.readings] == [True, True, True, True, False]
    made = Envelope[LiveReadings].model_validate_json(answer.content).meta.timestamp
    for reading in body.readings:
        # The age, in whole milliseconds, was taken just before the answer was stamped.
        assert (
            dt.timedelta(milliseconds=-1)
            <= made - reading.timestamp - dt.timedelta(seconds=reading.age_seconds)
            < dt.timedelta(seconds=5)
        )


def test_values_come_as_they_were_put_in(client: TestClient) -> None:
    answer = client.get("/api/v1/sensors/22/latest")
    reading = Envelope[LiveReading].model_validate_json(answer.content).data
    assert b'"temperature":122.153,' in answer.content  # float32 written as short as it is, not 122.15299987792969
    assert (reading.humidity, reading.light) == (None, 0.0)
    stray = client.get("/api/v1/sensors/60/latest").json()["data"]
    assert stray["temperature"] is None  # NaN is not JSON
    assert stray["light"] == 1847.36


def test_a_mote_that_was_never_heard_is_not_found(client: TestClient) -> None:
    answer = client.get("/api/v1/sensors/99/latest")
    assert answer.status_code == HTTPStatus.NOT_FOUND
    assert ErrorEnvelope.model_validate_json(answer.content).data.code == "mote_not_found"


def test_without_a_window_the_last_hour_of_data_is_given(client: TestClient, installation) -> None:
    answer = client.get(READINGS)
    page = Envelope[Readings].model_validate_json(answer.content).data
    hour = installation.recent.filter(pl.col("timestamp") > installation.newest - HOUR)
    assert installation.answered(answer.json()["data"]["readings"]) == installation.put(hour)
    assert (page.count, page.sources, page.next_cursor) == (hour.height, ["hot"], None)


def test_the_last_hour_of_a_silent_mote_is_its_own(client: TestClient, installation) -> None:
    data = client.get(READINGS, params={"mote_id": 22}).json()["data"]
    assert installation.answered(data["readings"]) == [(22, installation.iso(installation.newest - 26 * HOUR))]


def test_hot_store_and_archive_answer_as_one(client: TestClient, installation) -> None:
    params = {
        "start": installation.iso(installation.newest - 41 * DAY),
        "end": installation.iso(installation.newest + 1),
        "limit": 10_000,
    }
    data = client.get(READINGS, params=params).json()["data"]
    everything = pl.concat([installation.old.sort("timestamp", "mote_id"), installation.recent])
    assert installation.answered(data["readings"]) == installation.put(everything)
    assert data["sources"] == ["archive", "hot"]


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_pages_together_are_the_window(client: TestClient, installation, limit: int) -> None:
    """Three motes share every nanosecond: pages that end within one neither repeat nor skip."""
    begin = installation.newest - (10 if limit == 1 else 200) * 30 * SECOND
    params = {"start": installation.iso(begin), "end": installation.iso(installation.newest), "limit": limit}
    found, cursor = [], None
    while True:
        data = client.get(READINGS, params={**params, **({"cursor": cursor} if cursor else {})}).json()["data"]
        assert data["count"] == len(data["readings"]) <= limit
        found += installation.answered(data["readings"])
        if (cursor := data["next_cursor"]) is None:
            break
    window = installation.recent.filter(pl.col("timestamp").is_between(begin, installation.newest, closed="left"))
    assert found == installation.put(window)


def test_pages_cross_from_the_archive_into_the_hot_store(client: TestClient, installation) -> None:
    params = {"start": installation.iso(installation.newest - 41 * DAY), "mote_id": [1, 2], "limit": 150}
    first = client.get(READINGS, params=params).json()["data"]
    second = client.get(READINGS, params={**params, "cursor": first["next_cursor"]}).json()["data"]
    assert (first["sources"], second["sources"]) == (["archive"], ["archive", "hot"])
    both = installation.answered(first["readings"] + second["readings"])
    mine = pl.concat([installation.old.sort("timestamp", "mote_id"), installation.recent]).filter(
        pl.col("mote_id") <= 2
    )
    assert both == installation.put(mine.head(300))


def test_a_default_window_stays_the_same_from_page_to_page(client: TestClient, installation) -> None:
    first = client.get(READINGS, params={"limit": 300}).json()["data"]
    second = client.get(READINGS, params={"limit": 300, "cursor": first["next_cursor"]}).json()["data"]
    hour = installation.recent.filter(pl.col("timestamp") > installation.newest - HOUR)
    assert installation.answered(first["readings"] + second["readings"]) == installation.put(hour)
    assert second["next_cursor"] is None


def test_a_timestamp_of_an_answer_can_be_asked_with(client: TestClient, installation) -> None:
    text = client.get(LATEST).json()["data"]["readings"][0]["timestamp"]
    data = client.get(READINGS, params={"start": text, "mote_id": 1}).json()["data"]
    assert installation.answered(data["readings"]) == [(1, text)]


def test_a_cursor_belongs_to_its_window(client: TestClient, installation) -> None:
    params = {"end": installation.iso(installation.newest), "limit": 5}
    cursor = client.get(READINGS, params=params).json()["data"]["next_cursor"]
    for other in ({"end": installation.iso(installation.newest - 1)}, {"start": installation.iso(installation.newest)}):
        answer = client.get(READINGS, params={"cursor": cursor, "limit": 5, **other})
        assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        assert answer.json()["data"]["problems"][0]["where"] == "query.cursor"


def test_an_empty_installation_answers_with_nothing(
    tmp_path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    with client_for(settings_of(tmp_path / "var")) as client:
        assert client.get(LATEST).json()["data"] == {"count": 0, "readings": []}
        assert client.get(READINGS).json()["data"] == {"count": 0, "readings": [], "next_cursor": None, "sources": []}
        assert client.get("/api/v1/sensors/1/latest").status_code == HTTPStatus.NOT_FOUND
    assert not (tmp_path / "var").exists()  # looking creates nothing


@pytest.fixture
def deaf_hot_store() -> Callable[[Settings], Stores]:
    """Stores whose hot store does not answer; the archive is the real one."""

    def stores(settings: Settings) -> Stores:
        hot = create_autospec(SqliteHotStore, instance=True, spec_set=True)
        for method in (hot.latest, hot.readings, hot.ping):
            method.side_effect = HotStoreUnavailableError(f"{settings.hot_path} is locked")
        return open_stores(settings)._replace(hot=hot)

    return stores


def test_a_hot_store_that_does_not_answer_is_503_and_says_when_to_come_back(
    installation, deaf_hot_store, client_for: Callable[..., TestClient]
) -> None:
    with client_for(installation.settings, stores=deaf_hot_store) as client:
        answer = client.get(LATEST)
        assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert int(answer.headers["Retry-After"]) > 0
        assert ErrorEnvelope.model_validate_json(answer.content).data.code == "unavailable"
        assert str(installation.settings.data_dir) not in answer.text


def test_the_archive_stands_in_for_a_hot_store_that_does_not_answer(
    installation, deaf_hot_store, client_for: Callable[..., TestClient]
) -> None:
    with client_for(installation.settings, stores=deaf_hot_store) as client:
        data = client.get(READINGS, params={"mote_id": 1}).json()["data"]
    archived = installation.recent.filter(
        pl.col("timestamp") < installation.newest - 600 * SECOND, pl.col("mote_id") == 1
    )
    newest = archived["timestamp"].max()
    assert installation.answered(data["readings"]) == installation.put(
        archived.filter(pl.col("timestamp") > newest - HOUR)
    )
    assert data["sources"] == ["archive"]


def test_a_hot_store_that_a_person_must_repair_is_503_without_a_promise(
    tmp_path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    settings = settings_of(tmp_path)
    settings.hot_path.write_bytes(b"this is not a database" * 1000)
    with client_for(settings) as client:
        answer = client.get(LATEST)
    assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    assert "Retry-After" not in answer.headers
    assert ErrorEnvelope.model_validate_json(answer.content).data.code == "store_broken"
    assert str(tmp_path) not in answer.text


def test_a_full_page_is_valid_json(client: TestClient) -> None:
    answer = client.get(READINGS, params={"start": "1970-01-01T00:00:00Z", "limit": 10_000})
    data = json.loads(answer.content)["data"]
    assert data["count"] == len(data["readings"]) > 700
