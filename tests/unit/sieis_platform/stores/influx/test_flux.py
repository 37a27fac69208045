"""What gets into a query, and what never does. What InfluxDB makes of it: test_server.py."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sieis_platform.stores.influx.flux import MAX_NS, MIN_NS, FluxError, Instant, OneOf, Selection, predicate, render


@given(st.text(max_size=30))
def test_a_text_is_one_literal_whatever_is_in_it(text: str) -> None:
    rendered = render("{x}", x=text)
    assert re.fullmatch(r'"(?:[A-Za-z0-9_.-]|\\x[0-9a-f]{2})*"', rendered)
    literal = rendered[1:-1].encode()
    assert re.sub(rb"\\x(..)", lambda match: bytes.fromhex(match[1].decode()), literal).decode() == text


@given(st.integers())
def test_instants_are_clipped_to_what_influxdb_knows(ns: int) -> None:
    found = re.fullmatch(r"time\(v: (-?\d+)\)", render("{t}", t=Instant(ns)))
    assert found is not None
    assert int(found[1]) == min(max(ns, MIN_NS), MAX_NS)


def test_a_value_is_not_rendered_again() -> None:
    assert render("{a} {b}", a="{b}", b=1) == r'"\x7bb\x7d" 1'


@pytest.mark.parametrize(
    "value",
    [
        True,
        1.5,
        None,
        2**63,
        OneOf("mote_id", ()),
        OneOf("mote_id", ("1",)),
        OneOf("mote_id", (1, '1" or true')),
        OneOf("mote_id", (True,)),
        OneOf("_field", ("temperature", "x")),
        OneOf("_measurement", ('sensor_reading" or "1" == "1',)),
        OneOf("r) => true) //", ("temperature",)),
    ],
)
def test_what_is_not_in_the_allow_list_is_refused(value: object) -> None:
    with pytest.raises(FluxError):
        render("{x}", x=value)  # type: ignore[arg-type]


def test_motes_that_are_no_numbers_never_reach_a_query() -> None:
    asked = Selection("b", "sensor_reading", ("light",), 0, 1, ['1" or true'])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="invalid literal"):
        asked.all()


def test_a_delete_names_a_known_measurement_and_a_number() -> None:
    assert predicate("sensor_reading_daily_agg", 7) == '_measurement="sensor_reading_daily_agg" AND mote_id="7"'
    assert predicate("sensor_reading") == '_measurement="sensor_reading"'
    with pytest.raises(FluxError, match="not a measurement"):
        predicate('sensor_reading" OR _measurement="x')
    with pytest.raises(ValueError, match="invalid literal"):
        predicate("sensor_reading", '1" OR "1')  # pyright: ignore[reportArgumentType]
