"""What clients write: moments in time and cursors."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from sieis_api.errors import InvalidRequestError
from sieis_api.params import PageCursor, decode_cursor, parse_instant
from sieis_platform.reading import MAX_MOTE_ID

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MOMENTS = st.datetimes(
    min_value=dt.datetime(1970, 1, 2),  # noqa: DTZ001 - hypothesis wants naive bounds
    max_value=dt.datetime(2262, 4, 10),  # noqa: DTZ001 - as above
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))),
)


@given(MOMENTS)
def test_every_moment_with_a_zone_is_read_exactly(moment: dt.datetime) -> None:
    assert parse_instant(moment.isoformat()) == (moment - EPOCH) // dt.timedelta(microseconds=1) * 1000


@given(st.integers(0, 2**63 - 1))
def test_nine_digits_of_a_second_are_kept(ns: int) -> None:
    seconds, rest = divmod(ns, 1_000_000_000)
    moment = (EPOCH + dt.timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")
    assert parse_instant(f"{moment}.{rest:09d}Z") == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-02-19",
        "2026-02-19T00:00:00",  # no zone: whose midnight?
        "2026-02-19T00:00:00 01:00",  # a + that became a space on its way
        "2026-02-30T00:00:00Z",
        "2026-02-19T25:00:00Z",
        "2026-02-19T00:00:00+99:00",
        "1969-12-31T23:59:59Z",
        "2262-04-12T00:00:00Z",
        "1708300800",
        "now",
        "2026-02-19T00:00:00Z\n",
        "２026-02-19T00:00:00Z",
        "2026-02-19T00:00:00Z'; DROP TABLE readings; --",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(PydanticCustomError):
        parse_instant(text)


def test_the_refusal_says_what_to_write() -> None:
    with pytest.raises(PydanticCustomError, match="2026-02-19T23:30:00Z"):
        parse_instant("2026-02-19 23:30")


@given(st.integers(0, 2**63 - 2), st.integers(1, MAX_MOTE_ID), st.data())
def test_a_cursor_comes_back_as_it_was(timestamp: int, mote_id: int, data: st.DataObject) -> None:
    end = data.draw(st.integers(timestamp + 1, 2**63 - 1))
    assert decode_cursor(PageCursor(timestamp, mote_id).encode(end)) == ((timestamp, mote_id), end)


@given(st.text() | st.text(alphabet="ABCDabcd0123-_=", max_size=40))
def test_what_is_no_cursor_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        (timestamp, mote_id), end = decode_cursor(text)
    except InvalidRequestError:
        return
    assert 0 <= timestamp < end  # by chance it was one
    assert mote_id >= 1
