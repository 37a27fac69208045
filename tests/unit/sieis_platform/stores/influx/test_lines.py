"""Rows as line protocol. That InfluxDB reads them as meant: test_server.py and the contract tests."""

import polars as pl
import pytest

from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.hot import AGGREGATE_SCHEMA
from sieis_platform.stores.influx import lines
from sieis_platform.timeline import DAY_NS


def test_a_reading_has_its_values_the_bits_of_what_it_has_and_when_it_was_written() -> None:
    rows = pl.DataFrame(
        [
            (1, 5, 122.153, -8983.13, 0.1, 2.03397),
            (54, -6, None, float("nan"), float("-inf"), None),
            (2, 7, *[None] * 4),
        ],
        schema=READING_SCHEMA,
        orient="row",
    )
    assert lines.readings(rows, "NOW").to_list() == [
        "sensor_reading,mote_id=1 present=15,temperature=122.153,humidity=-8983.13,light=0.1,voltage=2.03397,"
        'updated_timestamp="NOW" 5',
        'sensor_reading,mote_id=54 present=4,light=-1.7976931348623157e308,updated_timestamp="NOW" -6',
        'sensor_reading,mote_id=2 present=0,updated_timestamp="NOW" 7',
    ]


def test_a_daily_aggregate_carries_its_date() -> None:
    rows = pl.DataFrame({"mote_id": [0], "period_start": [20_504 * DAY_NS], "temp_avg": [1 / 3], "record_count": [2]})
    rows = rows.select(
        (pl.col(name) if name in rows.columns else pl.lit(None).alias(name)).cast(dtype)
        for name, dtype in AGGREGATE_SCHEMA.items()
    )
    bits = 1 + (1 << lines.AGGREGATE_FIELDS.index("record_count"))
    values = f"mote_id=0 present={bits},temp_avg=0.3333333333333333,record_count=2"
    assert lines.aggregates("daily", rows).to_list() == [
        f"sensor_reading_daily_agg,date=2026-02-20,{values} 1771545600000000000"
    ]
    assert lines.aggregates("hourly", rows).to_list() == [f"sensor_reading_hourly_agg,{values} 1771545600000000000"]


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_body_is_the_lines_with_their_ends(rows: int) -> None:
    # Of several chunks, long and short: a slice of them is what a refused batch is cut into.
    batch = pl.concat([pl.Series(["a", "a line that is not kept inline", "c°"]), pl.Series(["d", "e" * 40, "f"])])
    assert lines.text(batch[1 : 1 + rows]) == "".join(f"{line}\n" for line in batch[1 : 1 + rows]).encode()
