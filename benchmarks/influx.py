"""How fast the hot store on a real InfluxDB is: writes by batch size, live reads, a week of a mote, latest of all.

Belongs here: workloads and their floors. Needs the server of tools.services; Kafka belongs to other benchmarks.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

import polars as pl

from benchmarks.common.results import Result, milliseconds, result, seconds
from benchmarks.stores import MOTES, building
from sieis_platform.stores.influx import InfluxClient, InfluxHotStore, lines
from sieis_platform.timeline import DAY_NS
from tools.services import Services

_BATCHES: Final = (5_000, 20_000, 50_000)
_DAYS: Final = 10


def run() -> Iterator[Result]:
    """Every measurement, see benchmarks.stores; on a new InfluxDB on this machine, which shares its cores."""
    with Services.start(["influxdb"]) as services:
        server = services["influxdb"]
        token, org = server.credentials["token"], server.credentials["org"]
        operator = InfluxClient(server.address, org=org, token=token)
        with closing(operator):
            org_id = operator.api("GET", "/orgs", params={"org": org})["orgs"][0]["id"]

            def store(name: str, *, rows: int, compress: bool = True, lanes: int = 1) -> InfluxHotStore:
                operator.api("POST", "/buckets", body={"orgID": org_id, "name": name, "retentionRules": []})
                client = InfluxClient(server.address, org=org, token=token, timeout_seconds=60, compress=compress)
                return InfluxHotStore(
                    client, bucket=name, hourly_bucket=name, retention_days=None, request_rows=rows, lanes=lanes
                )

            yield from _run(store)


def _run(make: Callable[..., InfluxHotStore]) -> Iterator[Result]:
    rows = building(days=_DAYS).sort("timestamp", "mote_id")
    day = rows[: 2_880 * MOTES]
    batch = rows[:20_000]
    taken = min(seconds(lambda: lines.text(lines.readings(batch, "x"))) for _ in range(5))
    yield result("influx_render", batch.height / taken, "rows/s", "frames of 20,000 rows to line protocol", None)
    for size in _BATCHES:
        for compress in (True, False):
            name = f"influx_write_{size}{'' if compress else '_plain'}"
            with closing(make(name, rows=size, compress=compress)) as hot:
                taken = seconds(lambda hot=hot: hot.write_readings(day))
            text = f"{day.height:,} rows of {MOTES} motes in time order, requests of {size:,}, " + (
                "gzip" if compress else "not compressed"
            )
            yield result(name, day.height / taken, "rows/s", text, None)
    with closing(make("lanes", rows=20_000, compress=False, lanes=2)) as hot:
        taken = seconds(lambda: hot.write_readings(day))
    text = f"{day.height:,} rows of {MOTES} motes, requests of 20,000, two at a time, not compressed"
    yield result("influx_write_20000_two_lanes", day.height / taken, "rows/s", text, None)
    with closing(make("reads", rows=50_000, compress=False)) as hot:
        hot.write_readings(rows)
        asked = f"{MOTES} motes, {rows.height:,} rows"
        live = building(days=1, seed=1).with_columns(pl.col("timestamp") + _DAYS * DAY_NS).sort("timestamp")[:10_000]
        taken = seconds(lambda: [hot.write_readings(piece) for piece in live.iter_slices(100)])
        yield result("influx_live_write", live.height / taken, "rows/s", "100 batches of 100 rows", None)
        yield result("influx_latest", milliseconds(hot.latest, 10), "ms", asked, None)
        yield result("influx_latest_one", milliseconds(lambda: hot.latest([17]), 10), "ms", f"one mote; {asked}", None)
        end = int(rows["timestamp"].max()) + 1  # pyright: ignore[reportArgumentType] - there are rows
        week = lambda: hot.readings(end - 7 * DAY_NS, end, [17])  # noqa: E731
        yield result(
            "influx_week_of_a_mote", milliseconds(week, 5), "ms", f"20,160 readings of one mote; {asked}", None
        )
        page = lambda: hot.readings(end - _DAYS * DAY_NS, end, limit=1_000)  # noqa: E731
        yield result("influx_page", milliseconds(page, 5), "ms", f"first 1,000 readings; {asked}", None)
        yield result("influx_count", milliseconds(hot.count_readings, 5), "ms", asked, None)
