import datetime as dt

import pytest

from sieis_ui import building
from sieis_ui.building import Freshness
from sieis_ui.client import Aggregate, Anomaly, Mote, Reading
from sieis_ui.quantities import QUANTITIES

NOW = dt.datetime(2026, 3, 5, 12, tzinfo=dt.UTC)


def reading(mote_id: int, age: float = 10, **values: float | bool | None) -> Reading:
    sane = {"temperature": 21.0, "humidity": 40.0, "light": 100.0, "voltage": 2.7}
    return Reading.model_validate(
        {"mote_id": mote_id, "timestamp": NOW - dt.timedelta(seconds=age), "age_seconds": age} | sane | values
    )


def anomaly(mote_id: int, minutes: float, score: float = 0.7, **values: float) -> Anomaly:
    when = NOW + dt.timedelta(minutes=minutes)
    return Anomaly.model_validate({"mote_id": mote_id, "timestamp": when, "score": score, **values})


def flags_of(readings: list[Reading]) -> dict[int, list[str]]:
    frame = building.mote_frame(readings)
    return dict(zip(frame["mote_id"], frame["flags"].to_list(), strict=True))


def test_a_mote_carries_every_flag_it_has_earned():
    flags = flags_of(
        [
            reading(1),
            reading(2, temperature=122.153, voltage=2.1),
            reading(3, age=301),
            reading(4, voltage=2.29),
            reading(5, humidity=-4.0),
        ]
    )
    assert flags == {1: [], 2: ["Impossible", "Low battery"], 3: ["Silent"], 4: ["Low battery"], 5: ["Impossible"]}


def test_the_limits_of_the_plausible_are_plausible_and_a_missing_value_is_no_flag():
    readings = [
        reading(1, temperature=50.0, humidity=0.0, voltage=2.3),
        reading(2, temperature=None, humidity=None, light=None, voltage=None),
    ]
    assert flags_of(readings) == {1: [], 2: []}


def test_flagged_motes_come_first():
    frame = building.mote_frame([reading(1), reading(2), reading(3, temperature=122.153)])
    assert frame["mote_id"].to_list() == [3, 1, 2]


def test_places_are_joined_and_unknown_ones_stay_empty():
    frame = building.mote_frame([reading(1), reading(2)], [Mote(mote_id=1, x=21.5, y=23.0), Mote(mote_id=2)])
    assert frame.select("x", "y").rows() == [(21.5, 23.0), (None, None)]


def test_summary_counts_the_fleet_whether_heard_or_not_and_strangers_neither_way():
    motes = building.mote_frame([reading(1), reading(2, age=4000), reading(77, age=1, in_fleet=False)])
    known = [Mote(mote_id=number) for number in (1, 2, 3, 4)] + [Mote(mote_id=77, in_fleet=False)]
    now = building.summary(motes, known)
    assert (now.reporting, now.fleet, now.newest_age_seconds) == (1, 4, 1)


@pytest.mark.parametrize(
    ("age", "expected"),
    [(-50, Freshness.LIVE), (60, Freshness.LIVE), (61, Freshness.DELAYED), (301, Freshness.STOPPED)],
)
def test_freshness(age: float, expected: Freshness):
    assert building.freshness(age) is expected


def test_median_leaves_impossible_values_out_and_counts_them():
    motes = building.mote_frame(
        [reading(number, temperature=value) for number, value in enumerate([20, 22, 122.153, None], 1)]
    )
    found = building.median(motes, QUANTITIES["temperature"])
    assert (found.value, found.plausible, found.impossible) == (21.0, 2, 1)


def test_median_of_nothing_plausible_is_none():
    found = building.median(building.mote_frame([reading(1, temperature=122.153)]), QUANTITIES["temperature"])
    assert (found.value, found.plausible, found.impossible) == (None, 0, 1)


def test_figures_are_of_reporting_motes_and_of_all_once_the_stream_has_stopped():
    mixed = building.mote_frame([reading(1), reading(2, age=9000)])
    assert building.reporting_or_all(mixed)["mote_id"].to_list() == [1]
    stopped = building.mote_frame([reading(1, age=8000), reading(2, age=9000)])
    assert building.reporting_or_all(stopped).height == 2


def test_no_readings_make_an_empty_frame_that_every_function_takes():
    motes = building.mote_frame([])
    assert building.summary(motes).newest_age_seconds == float("inf")
    assert building.median(motes, QUANTITIES["light"]).value is None
    assert building.episodes([]).is_empty()


def test_anomalies_of_one_mote_join_to_an_episode_until_an_hour_is_quiet():
    rows = [anomaly(7, 0), anomaly(7, 30, score=0.9, temperature=122.153), anomaly(7, 91), anomaly(8, 10)]
    found = building.episodes(rows).select("mote_id", "start", "end", "count", "score", "temperature").rows()
    later = NOW + dt.timedelta(minutes=91)
    assert found == [
        (7, later, later, 1, 0.7, None),
        (7, NOW, NOW + dt.timedelta(minutes=30), 2, 0.9, 122.153),
        (8, NOW + dt.timedelta(minutes=10), NOW + dt.timedelta(minutes=10), 1, 0.7, None),
    ]


def test_the_same_anomalies_in_any_order_are_the_same_episodes():
    rows = [anomaly(7, minutes) for minutes in (0, 20, 200)] + [anomaly(9, 5)]
    assert building.episodes(rows).equals(building.episodes(rows[::-1]))


def test_aggregates_become_a_series_of_one_quantity_in_time():
    rows = [
        Aggregate.model_validate(
            {"mote_id": 0, "period_start": NOW + dt.timedelta(hours=hour), "record_count": 5, "hum_avg": 40 + hour}
        )
        for hour in (1, 0)
    ]
    frame = building.aggregate_frame(rows, QUANTITIES["humidity"])
    assert frame.select("avg", "median").rows() == [(40.0, None), (41.0, None)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (4.4, "4 s"), (119, "119 s"), (300, "5 min"), (7200, "2 h"), (864_000, "10 days")],
)
def test_durations(seconds: float, text: str):
    assert building.duration_text(seconds) == text
