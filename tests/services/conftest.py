"""The real servers, one of each for a whole run of the tests, installed beforehand by `make test-services`."""

from collections.abc import Iterator

import pytest

from tools.services import Instance, Services


@pytest.fixture(scope="session")
def kafka() -> Iterator[Instance]:
    with Services.start(["kafka"]) as services:
        yield services["kafka"]


@pytest.fixture(scope="session")
def influxdb() -> Iterator[Instance]:
    with Services.start(["influxdb"]) as services:
        yield services["influxdb"]


@pytest.fixture(scope="session")
def minio() -> Iterator[Instance]:
    with Services.start(["minio"]) as services:
        yield services["minio"]


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[Instance]:
    with Services.start(["seaweedfs"]) as services:
        yield services["seaweedfs"]


@pytest.fixture(scope="session")
def redis() -> Iterator[Instance]:
    with Services.start(["redis"]) as services:
        yield services["redis"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Instance]:
    with Services.start(["postgres"]) as services:
        yield services["postgres"]
