"""The servers that tools.services can install and run, by name.

Belongs here: the list. Each server is a file beside it.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from tools.services.errors import UnknownServerError
from tools.services.servers.base import Server
from tools.services.servers.influxdb import InfluxDB
from tools.services.servers.kafka import Kafka
from tools.services.servers.minio import Minio
from tools.services.servers.postgres import Postgres
from tools.services.servers.redis import Redis
from tools.services.servers.seaweedfs import SeaweedFS
from tools.services.servers.toxiproxy import Toxiproxy

# The longest install first.
SERVERS: Final[Mapping[str, Server]] = {
    server.name: server for server in (InfluxDB(), Minio(), Kafka(), SeaweedFS(), Toxiproxy(), Redis(), Postgres())
}


def select(names: Iterable[str]) -> list[Server]:
    """The servers of these names, in the order of SERVERS, each once.

    Raises: UnknownServerError.
    """
    wanted = set(names)
    if unknown := sorted(wanted - SERVERS.keys()):
        raise UnknownServerError(f"no such server: {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    return [server for name, server in SERVERS.items() if name in wanted]
