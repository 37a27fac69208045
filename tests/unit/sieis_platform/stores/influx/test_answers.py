"""What an answer means, where a test cannot make the real server give it: too busy, overloaded, an unknown refusal."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import create_autospec

import httpx
import polars as pl
import pytest

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.reading import READING_SCHEMA
from sieis_platform.stores.hot import AGGREGATE_SCHEMA, HotStoreError, HotStoreUnavailableError, WriteOutcome
from sieis_platform.stores.influx import InfluxClient, InfluxHotStore

ROW = pl.DataFrame([(1, 1, 1.0, None, None, None)], schema=READING_SCHEMA, orient="row")
#: What nginx answers where a client speaks without TLS to a port that wants it.
NGINX = "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>"
UNREADABLE = '{"code":"invalid","message":"unable to parse: time outside range"}'


@contextmanager
def answering(
    status: int, body: str = "", *, requests: list[str] | None = None, **headers: str
) -> Iterator[InfluxHotStore]:
    """A store on a server that answers everything the same, and notes the paths of the `requests`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if requests is not None:
                requests.append(self.path)
            self.send_response_only(status)  # without a Date of its own
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    client = InfluxClient(f"http://127.0.0.1:{server.server_port}", org="o", token="t", timeout_seconds=5)
    store = InfluxHotStore(client, bucket="b", hourly_bucket="h", retention_days=None)
    try:
        yield store
    finally:
        store.close()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7.0),
        ({"Date": "Fri, 20 Feb 2026 00:00:00 GMT", "Retry_After": "Fri, 20 Feb 2026 00:00:12 GMT"}, 12.0),
        ({"Date": "Fri, 20 Feb 2026 00:00:13 GMT", "Retry_After": "Fri, 20 Feb 2026 00:00:12 GMT"}, 0.0),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "-1"}, None),
        ({}, None),
    ],
)
def test_a_busy_server_is_left_alone_as_long_as_it_asks(
    status: int, headers: dict[str, str], seconds: float | None
) -> None:
    with answering(status, '{"message": "come back"}', **headers) as store:
        with pytest.raises(HotStoreUnavailableError, match="come back") as caught:
            store.write_readings(ROW)
        assert isinstance(caught.value, RetriableError)
        assert caught.value.retry_after_seconds == seconds


def test_a_lane_of_a_large_write_sends_nothing_more_once_the_server_asked_to_be_left_alone() -> None:
    """One lane is refused while the request of the other is under way, which then has four more to send."""
    sent: list[bytes] = []

    def write(_bucket: str, body: bytes) -> httpx.Response:
        sent.append(body)
        if b"mote_id=1 " in body:
            under_way.wait(30)
            raise HotStoreUnavailableError("too busy", retry_after_seconds=2)
        under_way.set()
        deadline = time.monotonic() + 30
        while store._request_rows == 2_000 and time.monotonic() < deadline:
            time.sleep(0)  # until the refusal has arrived in the other thread
        return httpx.Response(HTTPStatus.NO_CONTENT)

    under_way = threading.Event()
    client = create_autospec(InfluxClient, spec_set=True, instance=True)
    client.write.side_effect = write
    store = InfluxHotStore(client, bucket="b", hourly_bucket="h", retention_days=None, request_rows=2_000)
    rows = pl.concat([ROW, ROW.with_columns(mote_id=pl.lit(2, pl.Int32))] * 10_000)
    with pytest.raises(HotStoreUnavailableError, match="too busy"):
        store.write_readings(rows)
    assert len(sent) == 2


def test_a_full_disk_is_told_with_what_to_do_however_long_the_answer() -> None:
    said = f"not attempting to open shard 2; {'/path' * 100}: no space left on device"
    with (
        answering(500, f'{{"message": "{said}"}}') as store,
        pytest.raises(HotStoreUnavailableError, match="is full; free space, then restart InfluxDB"),
    ):
        store.write_readings(ROW)


@pytest.mark.parametrize(
    ("status", "text"),
    [(401, "sieis setup"), (403, "sieis setup"), (404, "sieis setup"), (422, "unheard of"), (301, "301")],
)
def test_what_will_not_pass_is_fatal(status: int, text: str) -> None:
    with answering(status, '{"code": "x", "message": "unheard of"}') as store:
        with pytest.raises(HotStoreError, match=text) as caught:
            store.write_readings(ROW)
        assert isinstance(caught.value, FatalError)


@pytest.mark.parametrize(
    "body",
    [NGINX, "", "[]", '{"message": "Bad Request"}', '{"code": 400, "message": "no"}', '{"code": "", "error": 1}'],
)
def test_a_400_of_something_else_than_influxdb_says_nothing_about_a_line(body: str) -> None:
    requests: list[str] = []
    with answering(400, body, requests=requests) as store:
        with pytest.raises(HotStoreError, match="answers 400 and is not InfluxDB") as caught:
            store.write_readings(pl.concat([ROW] * 100))
        assert isinstance(caught.value, FatalError)
    assert len(requests) == 1
    assert "SIEIS_INFLUX_URL" in str(caught.value)


@pytest.mark.parametrize("body", ["too large", '{"message": "too large"}'])
def test_a_proxy_that_takes_not_even_one_row_costs_no_row(body: str) -> None:
    requests: list[str] = []
    with (
        answering(413, body, requests=requests) as store,
        pytest.raises(HotStoreError, match="answers 413 and is not InfluxDB"),
    ):
        store.write_readings(pl.concat([ROW] * 64))
    assert len(requests) == 7  # halved down to one row, and no further


@pytest.mark.parametrize(
    ("status", "body"), [(400, UNREADABLE), (413, '{"code":"request too large","message":"too large"}')]
)
def test_what_influxdb_itself_refuses_is_halved_down_to_the_rows(status: int, body: str) -> None:
    with answering(status, body) as store:
        outcome = store.write_readings(pl.concat([ROW] * 5))
        assert (outcome.written, outcome.refused) == (0, 5)


@pytest.mark.parametrize(
    ("status", "body"),
    [(400, UNREADABLE), (422, '{"code":"unprocessable entity","message":"field type conflict dropped=100"}')],
)
def test_a_large_batch_of_which_every_row_is_refused_is_no_batch_of_bad_lines(status: int, body: str) -> None:
    rows = pl.concat([ROW] * 100)
    with answering(status, body) as store:
        with pytest.raises(HotStoreError, match="refuses each of 100 rows") as caught:
            store.write_readings(rows)
        assert isinstance(caught.value, FatalError)
        aggregates = pl.DataFrame({"mote_id": range(100), "period_start": [0] * 100})
        empty = [pl.lit(None).alias(name) for name in AGGREGATE_SCHEMA.names() if name not in aggregates.columns]
        with pytest.raises(HotStoreError, match="refuses each of 100 rows"):
            store.write_aggregates("daily", aggregates.with_columns(empty))


def test_a_large_batch_beyond_the_retention_is_dropped_as_ever() -> None:
    with answering(422, '{"code":"unprocessable entity","message":"outside retention policy dropped=200"}') as store:
        assert store.write_readings(pl.concat([ROW] * 200)) == WriteOutcome(0, beyond_retention=200)


@pytest.mark.parametrize("body", ["error,reference\r\nquery ran out of memory,897\r\n", ",result,table\r\n", "<html>"])
def test_a_query_broken_off_is_tried_again(body: str) -> None:
    with answering(200, body) as store, pytest.raises(HotStoreUnavailableError, match="broke a query off"):
        store.readings(0, 1)


def test_an_error_page_of_a_proxy_is_shortened() -> None:
    with answering(502, "<p>" + "x" * 100_000) as store:
        with pytest.raises(HotStoreUnavailableError) as caught:
            store.count_readings()
        assert len(str(caught.value)) < 500
