"""The brokers that drills run on. Belongs here: what several drills share as fixtures."""

import os
from collections.abc import Iterator

import pytest

from tests.faults.servers import Site
from tools.services.group import Services
from tools.services.instance import Instance


@pytest.fixture(scope="session")
def servers() -> Iterator[Services]:
    """A Kafka and an S3 server that drills may kill and restart."""
    with Services.start(["kafka", "minio"]) as services:
        yield services


@pytest.fixture
def kafka(servers: Services) -> Instance:
    """A running Kafka."""
    return servers["kafka"]


@pytest.fixture
def s3(servers: Services) -> Instance:
    """A running S3 server."""
    return servers["minio"]


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Kafka, InfluxDB and S3, each behind a wire that drills may spoil."""
    with Site.start() as made:
        yield made


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.services)])
def broker(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of the embedded broker, and of Kafka: the one of SIEIS_KAFKA_BOOTSTRAP, else one started for it."""
    if request.param == "embedded":
        return {}
    given = os.environ.get("SIEIS_KAFKA_BOOTSTRAP")
    return {"kafka_bootstrap": given or request.getfixturevalue("kafka").address}
