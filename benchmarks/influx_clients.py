"""Fifty clients of one InfluxDB at once: the API's pool of threads against an asynchronous HTTP client, same queries.

Belongs here: that comparison, interleaved in one run (docs/decisions/016). Not here: what one query costs (influx.py).
"""

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from typing import Final

import aiohttp
import anyio
import anyio.to_thread
import numpy as np
import polars as pl

from benchmarks.common.results import Result, result
from benchmarks.stores import MOTES, building
from sieis_api.app import RECENT_AT_ONCE
from sieis_platform.reading import FIELDS
from sieis_platform.stores.influx import InfluxClient, InfluxHotStore
from sieis_platform.stores.influx.flux import Selection
from sieis_platform.stores.influx.lines import READINGS
from tools.services import Services

_CLIENTS: Final = 50
_QUESTIONS: Final = 6  # of each client, one after the other
_ROUNDS: Final = 3
_HOUR_NS: Final = 3_600 * 1_000_000_000
_SCHEMA: Final = {"_time": pl.String(), "_value": pl.Float64(), "_field": pl.String(), "mote_id": pl.Int32()}

Ask = Callable[[str], Awaitable[pl.DataFrame]]


def run() -> Iterator[Result]:
    """Answers a second and the 95th percentile of a client's wait, both ways."""
    with Services.start(["influxdb"]) as services:
        server = services["influxdb"]
        token, org, bucket = server.credentials["token"], server.credentials["org"], "many_clients"
        with closing(InfluxClient(server.address, org=org, token=token, timeout_seconds=60, compress=False)) as client:
            org_id = client.api("GET", "/orgs", params={"org": org})["orgs"][0]["id"]
            client.api("POST", "/buckets", body={"orgID": org_id, "name": bucket, "retentionRules": []})
            rows = building(days=1)
            InfluxHotStore(client, bucket=bucket, hourly_bucket=bucket, retention_days=None).write_readings(rows)
            end = int(rows["timestamp"].max()) + 1  # pyright: ignore[reportArgumentType] - Int64
            queries = [
                Selection(bucket, READINGS, FIELDS, end - _HOUR_NS, end, [mote]).all() for mote in range(1, MOTES + 1)
            ]
            ways = {
                "threads": partial(_threads, client),
                "async": partial(_asynchronous, server.address, org, token),
            }
            waits: dict[str, list[float]] = {name: [] for name in ways}
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(_ROUNDS):
                for name, way in ways.items():
                    taken, rate = asyncio.run(_measured(way, queries))
                    waits[name] += taken
                    rates[name].append(rate)
    text = f"{_CLIENTS} clients ask for the last hour of a mote, {RECENT_AT_ONCE} at once, {_ROUNDS} rounds"
    for name in ways:
        yield result(f"influx_clients_{name}", float(np.median(rates[name])), "answers/s", text, None)
        p95 = float(np.quantile(waits[name], 0.95)) * 1e3
        yield result(f"influx_clients_{name}_p95", p95, "ms", text, None)


@asynccontextmanager
async def _threads(client: InfluxClient) -> AsyncIterator[Ask]:
    """As the API asks: the store's pooled client, in one of RECENT_AT_ONCE threads."""
    limiter = anyio.CapacityLimiter(RECENT_AT_ONCE)

    async def ask(flux: str) -> pl.DataFrame:
        return await anyio.to_thread.run_sync(lambda: client.query(flux, _SCHEMA), limiter=limiter)

    yield ask


@asynccontextmanager
async def _asynchronous(address: str, org: str, token: str) -> AsyncIterator[Ask]:
    """The same requests by an asynchronous client with as many connections; a thread a core parses the answers."""
    headers = {"Authorization": f"Token {token}"}
    limiter = anyio.CapacityLimiter(os.cpu_count() or 1)
    pool = aiohttp.TCPConnector(limit=RECENT_AT_ONCE)
    async with aiohttp.ClientSession(address, headers=headers, connector=pool) as http:

        async def ask(flux: str) -> pl.DataFrame:
            body = {"query": flux, "type": "flux", "dialect": {"header": True, "annotations": []}}
            async with http.post("/api/v2/query", params={"org": org}, json=body, raise_for_status=True) as answer:
                text = await answer.read()
            return await anyio.to_thread.run_sync(_parsed, text, limiter=limiter)

        yield ask


def _parsed(text: bytes) -> pl.DataFrame:
    return pl.read_csv(io.BytesIO(text), columns=list(_SCHEMA), schema_overrides=_SCHEMA)


async def _measured(
    way: Callable[[], AbstractAsyncContextManager[Ask]], queries: list[str]
) -> tuple[list[float], float]:
    """Each client's waits in seconds, and answers a second."""
    waits: list[float] = []
    async with way() as ask:

        async def client(number: int) -> None:
            for question in range(_QUESTIONS):
                began = time.perf_counter()
                rows = await ask(queries[(number + question) % len(queries)])
                waits.append(time.perf_counter() - began)
                if rows.is_empty():
                    raise RuntimeError("InfluxDB answered with nothing: the comparison would be of empty answers")

        began = time.perf_counter()
        async with anyio.create_task_group() as clients:
            for number in range(_CLIENTS):
                clients.start_soon(client, number)
        return waits, len(waits) / (time.perf_counter() - began)
