"""Hot stores on a real InfluxDB for tests: each in buckets of its own, told by the operator's token."""

import time
import uuid
from collections.abc import Callable

from sieis_platform.stores.influx import InfluxClient, InfluxHotStore
from tools.services import Instance


class Buckets:
    """Makes them on one running server."""

    def __init__(self, server: Instance) -> None:
        self.server = server
        self.operator = self.client(server.credentials["token"])
        self._org = self.operator.api("GET", "/orgs", params={"org": self.operator.org})["orgs"][0]["id"]

    def client(
        self, token: str, *, timeout_seconds: float = 30.0, compress: bool = True, url: str = ""
    ) -> InfluxClient:
        """A client with that token, by way of `url`. It compresses, as between machines, though settings would not."""
        address, org = url or self.server.address, self.server.credentials["org"]
        return InfluxClient(address, org=org, token=token, timeout_seconds=timeout_seconds, compress=compress)

    def make(self, days: int | None = None) -> str:
        """The name of a new bucket that keeps so many days (None: all)."""
        name = uuid.uuid4().hex
        rules = [] if days is None else [{"type": "expire", "everySeconds": days * 86_400}]
        self.operator.api("POST", "/buckets", body={"orgID": self._org, "name": name, "retentionRules": rules})
        return name

    def store(
        self,
        *,
        bucket_days: int | None = None,
        retention_days: int | None = None,
        hourly_retention_days: int | None = None,
        request_rows: int = 20_000,
        timeout_seconds: float = 30.0,
        compress: bool = True,
        url: str = "",
        now_ns: Callable[[], int] = time.time_ns,
    ) -> InfluxHotStore:
        """An empty hot store."""
        token = self.server.credentials["token"]
        return InfluxHotStore(
            self.client(token, timeout_seconds=timeout_seconds, compress=compress, url=url),
            bucket=self.make(bucket_days),
            hourly_bucket=self.make(bucket_days),
            retention_days=retention_days,
            hourly_retention_days=hourly_retention_days,
            request_rows=request_rows,
            now_ns=now_ns,
        )
