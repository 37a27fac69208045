"""HTTP to one InfluxDB: pooled connections, the token's header, gzip, and its errors as ours.

Belongs here: requests. Not here: line protocol, Flux, what the hot store is.
"""

import gzip
import io
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import httpx
import polars as pl
import structlog

from sieis_platform.stores.hot import HotStoreError, HotStoreUnavailableError
from sieis_platform.stores.influx import answers

log = structlog.get_logger(__name__)

#: The API answers at most 40 requests at once (its thread pool); a few more for the consumer and Dagster.
_CONNECTIONS: Final = 48
#: Line protocol shrinks to a fifth (178 to 37 bytes a row) for about 1 µs a row.
_GZIP_LEVEL: Final = 1
_CONNECT_SECONDS: Final = 3.0


class InfluxClient:
    """One InfluxDB at `url`; may be used from several threads. Connects at the first request, not before."""

    def __init__(self, url: str, *, org: str, token: str, timeout_seconds: float = 10.0, compress: bool = True) -> None:
        self._compress = compress
        self.address = url.rstrip("/")
        self.org = org
        self._http = httpx.Client(
            base_url=self.address,
            headers={"Authorization": f"Token {token}"},
            timeout=httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds)),
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            trust_env=False,
        )

    def __repr__(self) -> str:
        return f"InfluxClient({self.address!r}, org={self.org!r})"

    def write(self, bucket: str, body: bytes) -> httpx.Response:
        """Send line protocol (ns); the answer where it is 204, 400, 413 or 422, which the caller judges.

        Raises: HotStoreUnavailableError, HotStoreError.
        """
        return self._send(
            "POST",
            "/api/v2/write",
            expected=(
                HTTPStatus.NO_CONTENT,
                HTTPStatus.BAD_REQUEST,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                HTTPStatus.UNPROCESSABLE_ENTITY,
            ),
            params={"org": self.org, "bucket": bucket, "precision": "ns"},
            content=gzip.compress(body, _GZIP_LEVEL, mtime=0) if self._compress else body,
            headers={
                "Content-Type": "text/plain; charset=utf-8",
                **({"Content-Encoding": "gzip"} if self._compress else {}),
            },
        )

    def query(self, flux: str, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """The columns of `schema` from the table that `flux` yields; empty where it yields none.

        Raises: HotStoreUnavailableError, HotStoreError.
        """
        answer = self._send(
            "POST",
            "/api/v2/query",
            expected=(HTTPStatus.OK,),
            params={"org": self.org},
            json={"query": flux, "type": "flux", "dialect": {"header": True, "annotations": []}},
        )
        return _parse(self.address, answer.content, schema)

    def delete(self, bucket: str, body: Mapping[str, str]) -> None:
        """Delete what `body` (start, stop, predicate) says. Raises: HotStoreUnavailableError, HotStoreError."""
        params = {"org": self.org, "bucket": bucket}
        self._send("POST", "/api/v2/delete", expected=(HTTPStatus.NO_CONTENT,), params=params, json=body)

    def api(
        self, method: str, path: str, *, body: object = None, params: Mapping[str, str | int] | None = None
    ) -> dict[str, Any]:
        """Call the management API (`path` under /api/v2); empty where it has nothing to say.

        Raises: HotStoreUnavailableError, HotStoreError.
        """
        done = (HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT)
        answer = self._send(method, f"/api/v2{path}", expected=done, params=params, json=body)
        return answer.json() if answer.content else {}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, *, expected: tuple[HTTPStatus, ...], **request: Any) -> httpx.Response:
        if self._http.is_closed:
            raise HotStoreError(f"the hot store at {self.address} has been closed")
        try:
            answer = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise HotStoreUnavailableError(f"InfluxDB at {self.address} does not answer ({kind}: {error})") from error
        if answer.status_code not in expected:
            raise answers.error(self.address, answer)
        return answer


def _parse(address: str, text: bytes, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    if not text.strip():
        return pl.DataFrame(schema=schema)
    header = text.split(b"\n", 1)[0].decode(errors="replace").strip().split(",")
    # A query that fails after its first rows were sent answers 200 and ends with a table `error,reference`.
    if b"error,reference" in text or not set(schema) <= set(header):
        raise HotStoreUnavailableError(f"InfluxDB at {address} broke a query off ({_shown(text)})")
    try:
        return pl.read_csv(io.BytesIO(text), columns=list(schema), schema_overrides=schema)
    except pl.exceptions.ComputeError:
        return _mixed(address, text, schema)


def _mixed(address: str, text: bytes, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The rows that fit `schema` where some do not: somebody else has written a field with another type.

    Then there are several tables, each with a header.
    """
    try:
        frame = pl.read_csv(io.BytesIO(text), columns=list(schema), infer_schema=False)
    except pl.exceptions.ComputeError as error:
        raise HotStoreUnavailableError(f"InfluxDB at {address} broke a query off ({error})") from error
    fitting = frame.with_columns(pl.col(name).cast(dtype, strict=False) for name, dtype in schema.items()).drop_nulls()
    headers = text.count(b"\n,result,")
    if foreign := frame.height - fitting.height - headers:
        log.warning("values of another type in InfluxDB are left out", values=foreign)
    return fitting


def _shown(text: bytes) -> str:
    return " ".join(text[:200].decode(errors="replace").split())
