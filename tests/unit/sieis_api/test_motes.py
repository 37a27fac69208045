"""The list of motes and the floor plan."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sieis_api.envelope import Envelope
from sieis_api.motes.floor_plan import FloorPlan, FloorPlanError
from sieis_api.motes.schemas import Motes
from sieis_platform.settings import Settings

MOTES = "/api/v1/motes"
LAB_PLAN = Path(__file__).parents[4] / "shared" / "data" / "intel_lab" / "mote_locs.txt"


def test_the_fleet_is_listed_whether_heard_or_not_and_strays_too(client: TestClient, installation) -> None:
    answer = client.get(MOTES)
    body = Envelope[Motes].model_validate_json(answer.content).data
    assert [mote.mote_id for mote in body.motes] == [*range(1, 55), 60]
    assert {mote.mote_id for mote in body.motes if not mote.in_fleet} == {60}
    assert {mote.mote_id for mote in body.motes if mote.last_seen} == {1, 2, 3, 22, 60}
    assert answer.json()["data"]["motes"][0]["last_seen"] == installation.iso(installation.newest)


def test_a_plan_gives_positions_and_is_read_again_when_it_changes(
    tmp_path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    plan = tmp_path / "plan.txt"
    plan.write_text("1 21.5 23\n2\t24.5 20\n")
    with client_for(settings_of(tmp_path, mote_locations=plan)) as client:
        first = client.get(MOTES).json()["data"]["motes"]
        assert [(mote["x"], mote["y"]) for mote in first[:3]] == [(21.5, 23.0), (24.5, 20.0), (None, None)]
        plan.write_text("1 1 2\n")
        os.utime(plan, ns=(1, 1))
        second = client.get(MOTES).json()["data"]["motes"]
        assert [(mote["x"], mote["y"]) for mote in second[:2]] == [(1.0, 2.0), (None, None)]


def test_the_downloaded_plan_is_found(tmp_path, settings_of: Callable[..., Settings]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mote_locs.txt").write_text("7 1.5 2.5\n")
    assert FloorPlan(settings_of(tmp_path)).positions().rows() == [(7, 1.5, 2.5)]


def test_lines_that_are_no_position_are_left_out(tmp_path, settings_of: Callable[..., Settings]) -> None:
    plan = tmp_path / "plan.txt"
    plan.write_bytes(
        b"# mote x y\n\n1 2 3\nx 1 2\n4 nan 2\n5 1\n0 1 1\n99999999999 1 1\n\xff\xfe\x00\n  6   7   8  9\n1 4 5\n"
    )
    assert FloorPlan(settings_of(tmp_path, mote_locations=plan)).positions().rows() == [(1, 4.0, 5.0), (6, 7.0, 8.0)]


def test_a_plan_that_was_asked_for_and_is_not_there_stops_the_start(
    tmp_path, settings_of: Callable[..., Settings], client_for: Callable[..., TestClient]
) -> None:
    for wrong in (tmp_path / "missing.txt", tmp_path):
        with (
            pytest.raises(FloorPlanError, match="SIEIS_MOTE_LOCATIONS"),
            client_for(settings_of(tmp_path, mote_locations=wrong)),
        ):
            pass


@pytest.mark.skipif(not LAB_PLAN.exists(), reason="the shared data is not beside the repository")
def test_the_labs_own_plan(tmp_path, settings_of: Callable[..., Settings]) -> None:
    positions = FloorPlan(settings_of(tmp_path, mote_locations=LAB_PLAN)).positions()
    assert positions["mote_id"].to_list() == list(range(1, 55))
    assert positions.row(0) == (1, 21.5, 23.0)
