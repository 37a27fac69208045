import datetime as dt
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from sieis_ui import building, charts, theme
from sieis_ui.client import Aggregate, Anomaly, Mote, Reading
from sieis_ui.quantities import QUANTITIES, Quantity

NOW = dt.datetime(2026, 3, 5, 12, tzinfo=dt.UTC)
TEMPERATURE = QUANTITIES["temperature"]


def motes(temperatures: list[float | None], *, placed: bool = True, age: float = 5) -> pl.DataFrame:
    readings = [
        Reading(mote_id=number, timestamp=NOW, age_seconds=age, temperature=value, voltage=2.7)
        for number, value in enumerate(temperatures, 1)
    ]
    places = [Mote(mote_id=number, x=3.0 * number, y=1.0) for number in range(1, len(temperatures) + 1)]
    return building.mote_frame(readings, places if placed else ())


def plan_of(frame: pl.DataFrame, quantity: Quantity, ink: theme.Ink, known: Sequence[Mote] = ()) -> charts.Drawing:
    return charts.floor_plan(frame, building.unheard(frame, known), quantity, ink)


def kinds(drawing: charts.Drawing) -> dict[int, str]:
    return dict(drawing.rows.select("mote_id", "kind").iter_rows())


def test_impossible_missing_and_silent_are_told_apart_from_a_value():
    plan = plan_of(motes([21.0, 122.153, None]), TEMPERATURE, theme.LIGHT)
    assert kinds(plan) == {1: "value", 2: "impossible", 3: "none"}
    some_silent = pl.concat([motes([21.0]), motes([21.0], age=900).with_columns(mote_id=pl.lit(2, pl.Int64))])
    assert kinds(plan_of(some_silent, TEMPERATURE, theme.LIGHT)) == {1: "value", 2: "silent"}


def test_a_stopped_stream_shows_the_last_values():
    assert kinds(plan_of(motes([21.0, 122.153], age=900), TEMPERATURE, theme.LIGHT)) == {1: "value", 2: "impossible"}


def test_motes_of_the_plan_that_never_reported_are_drawn_as_such():
    known = [Mote(mote_id=1, x=3.0, y=1.0), Mote(mote_id=9, x=9.0, y=9.0), Mote(mote_id=10)]
    plan = plan_of(motes([21.0]), TEMPERATURE, theme.LIGHT, known)
    assert kinds(plan) == {1: "value", 9: "never"}
    assert plan.rows.filter(mote_id=9)["State"].to_list() == ["never reported"]


def test_an_impossible_value_does_not_stretch_the_colours():
    legend = [
        layer["encoding"]["color"]["scale"]["domain"]
        for layer in plan_of(motes([21.0, 23.0, 122.153]), TEMPERATURE, theme.DARK).spec["layer"]
        if "domain" in (layer["encoding"].get("color", {}).get("scale") or {})
    ]
    assert legend == [[21.0, 23.0]]


def test_the_tooltip_names_units_and_says_what_is_impossible():
    row = plan_of(motes([122.153]), TEMPERATURE, theme.LIGHT).rows.row(0, named=True)
    assert row["Temperature"] == "122.2 °C (impossible)"
    assert row["Battery"] == "2.70 V"
    assert row["State"] == "Impossible"


def test_small_changes_of_values_leave_the_specification_as_it_is():
    first = plan_of(motes([20.13, 23.91]), TEMPERATURE, theme.LIGHT)
    second = plan_of(motes([20.31, 23.77]), TEMPERATURE, theme.LIGHT)
    assert first.spec == second.spec
    assert not first.rows.equals(second.rows)


def test_without_any_place_motes_stand_in_rows_by_number_and_none_on_another():
    frame, real = charts.placed(motes([20.0] * 20, placed=False))
    assert not real
    assert frame.select("x", "y").unique().height == 20


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=lambda q: q.field)
@pytest.mark.parametrize("values", [[], [None], [21.0], [21.0, 21.0], [0.0, 1847.4]])
def test_colour_limits_enclose_the_values_and_are_never_empty(quantity: Quantity, values: list[float | None]):
    low, high = charts._domain(pl.Series(values, dtype=pl.Float64), quantity)
    assert low < high
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in values if value is not None)


def scales(spec: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    found = [layer.get("encoding", {}).get(channel, {}) for layer in spec["layer"]]
    return [encoding["scale"] for encoding in found if "scale" in encoding]


def test_time_axes_are_utc_and_say_so():
    aggregates = [Aggregate.model_validate({"mote_id": 0, "period_start": NOW, "record_count": 1, "temp_avg": 21.0})]
    day = charts.building_day(building.aggregate_frame(aggregates, TEMPERATURE), TEMPERATURE, theme.LIGHT)
    timeline = charts.anomaly_timeline(building.episodes([Anomaly(mote_id=3, timestamp=NOW, score=0.8)]), theme.LIGHT)
    for drawing in (day, timeline):
        assert {scale["type"] for scale in scales(drawing.spec, "x")} == {"utc"}
        assert "UTC" in str(drawing.spec)
    assert day.rows["Hour (UTC)"].to_list() == ["2026-03-05 12:00"]
