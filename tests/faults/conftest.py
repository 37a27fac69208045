"""The brokers that drills run on. Belongs here: what several drills share as fixtures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.full import prepared
from tests.faults.harness import Platform, platform
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


@pytest.fixture(scope="session")
def influxdb() -> Iterator[Instance]:
    """A running InfluxDB."""
    with Services.start(["influxdb"]) as services:
        yield services["influxdb"]


@pytest.fixture
def full(kafka: Instance, influxdb: Instance, s3: Instance, tmp_path: Path) -> Iterator[Platform]:
    """A platform on the full setting, made ready by `sieis setup`; nothing of it runs yet."""
    with platform(tmp_path / "var", **prepared([kafka, influxdb, s3], tmp_path / "setup")) as made:
        yield made


@pytest.fixture(params=["embedded", *(pytest.param(name, marks=pytest.mark.services) for name in ("kafka", "full"))])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Settings of the embedded broker; of Kafka (that of SIEIS_KAFKA_BOOTSTRAP, else one started); of all servers."""
    if request.param == "embedded":
        return {}
    if request.param == "full":
        return prepared([request.getfixturevalue(name) for name in ("kafka", "influxdb", "s3")], tmp_path / "setup")
    given = os.environ.get("SIEIS_KAFKA_BOOTSTRAP")
    return {"kafka_bootstrap": given or request.getfixturevalue("kafka").address}
