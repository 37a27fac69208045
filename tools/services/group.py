"""Real servers for a test: several started together, each in a folder of its own, none left when the test ends.

Belongs here: that. Not here: servers that outlive a command (background.py).
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from sieis_platform.settings import Settings
from tools.services import leftovers, ports
from tools.services.cache import Cache
from tools.services.install import install
from tools.services.instance import Instance
from tools.services.servers import select
from tools.services.servers.base import HOST, Place, Server
from tools.services.servers.kafka import Kafka, Membership
from tools.services.servers.toxiproxy import Proxy


def _default_cache() -> Path:
    return Settings().services_cache  # pyright: ignore[reportCallIssue] - every field has a default


def _ports(servers: Mapping[str, Server]) -> dict[str, dict[str, int]]:
    """Free ports for each of them, by name."""
    chosen: dict[str, dict[str, int]] = {}
    for name, server in servers.items():
        chosen[name] = ports.choose(server.port_names, {port for own in chosen.values() for port in own.values()})
    return chosen


class Services(Mapping[str, Instance]):
    """Running servers by name; a context manager that stops them and removes their data.

    with Services.start(["kafka", "influxdb"]) as services:
        services["kafka"].kill()
        services["kafka"].restart()
    """

    def __init__(self, root: Path, instances: Mapping[str, Instance], *, temporary: bool) -> None:
        self.root = root
        self._instances = dict(instances)
        self._temporary = temporary

    @classmethod
    def start(cls, names: Iterable[str], *, root: Path | None = None, cache: Path | None = None) -> "Services":
        """Start new instances (installing what is missing) and wait until each answers.

        They lie in `root` (unset: a temporary folder, removed by `close`, or, where this process
        was killed, by the next start); logs are `root/NAME/NAME.log`. Should this
        Python process die, even by SIGKILL, they die with it.

        Raises: UnknownServerError, MissingToolError, InstallError, StartError.
        """
        servers = select(names)
        homes = install(servers, Cache(cache or _default_cache()))
        leftovers.sweep()
        folder = root or Path(tempfile.mkdtemp(prefix=leftovers.PREFIX))
        chosen = _ports({server.name: server for server in servers})
        return cls._started(
            folder,
            {
                server.name: Instance(
                    server,
                    Place(homes[server.name].home, folder / server.name, chosen[server.name], server.new_credentials()),
                )
                for server in servers
            },
            temporary=root is None,
        )

    @classmethod
    def start_brokers(cls, count: int) -> "Services":
        """Start one Kafka of so many brokers, by the names kafka-1 and so on; as many copies its topics may have.

        Raises: as `start`.
        """
        alone = Kafka()
        home = install([alone], Cache(_default_cache()))[alone.name].home
        leftovers.sweep()
        folder = Path(tempfile.mkdtemp(prefix=leftovers.PREFIX))
        chosen = _ports({f"{alone.name}-{node}": alone for node in range(1, count + 1)})
        members = Membership.of({node: own["controller"] for node, own in enumerate(chosen.values(), start=1)})
        instances = {
            name: Instance(Kafka(member), Place(home, folder / name, own, alone.new_credentials()))
            for (name, own), member in zip(chosen.items(), members, strict=True)
        }
        return cls._started(folder, instances, temporary=True)

    @classmethod
    def _started(cls, folder: Path, instances: dict[str, Instance], *, temporary: bool) -> "Services":
        services = cls(folder, instances, temporary=temporary)
        if temporary:
            leftovers.claim(folder, {name: instance.place.ports for name, instance in instances.items()})
        try:
            with ThreadPoolExecutor(len(instances) or 1) as pool:
                for started in [pool.submit(instance.start) for instance in instances.values()]:
                    started.result()
        except BaseException:
            services.close()
            raise
        return services

    @property
    def settings(self) -> dict[str, str]:
        """The SIEIS_* variables of all of them; where two servers give the same one, the first in SERVERS wins."""
        merged: dict[str, str] = {}
        for instance in self._instances.values():
            merged = instance.settings | merged
        return merged

    def proxy(self, name: str) -> Proxy:
        """A proxy of the running toxiproxy before that server; clients use its `address`."""
        instance = self[name]
        own = instance.place.ports
        listen = own["proxied"] if "proxied" in own else ports.choose(["proxied"])["proxied"]
        upstream = own.get("behind", own["main"])
        return Proxy.create(self["toxiproxy"].address, name, listen=f"{HOST}:{listen}", upstream=f"{HOST}:{upstream}")

    def close(self) -> None:
        """End all and remove what they kept; a folder given as `root` keeps its logs and data. Raises: StopError."""
        with ThreadPoolExecutor(len(self._instances) or 1) as pool:
            # Data that nobody will see again need no orderly stop (SeaweedFS takes 15 s for one).
            endings = [one.kill if self._temporary else one.stop for one in self._instances.values()]
            for ended in [pool.submit(ending) for ending in endings]:
                ended.result()
        if self._temporary:
            for instance in self._instances.values():
                instance.server.remove(instance.place)
            shutil.rmtree(self.root)

    def __getitem__(self, name: str) -> Instance:
        return self._instances[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._instances)

    def __len__(self) -> int:
        return len(self._instances)

    def __enter__(self) -> "Services":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
