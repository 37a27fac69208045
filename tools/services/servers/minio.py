"""MinIO, built from its Go module.

Belongs here: its install and start. Its repository is archived: SIEIS keeps to plain S3 (see seaweedfs.py).
"""

from typing import ClassVar, Final

from tools.services.cache import Build
from tools.services.servers.base import Launch, Place
from tools.services.servers.s3_server import S3Server
from tools.services.toolchain import GO, require

_MODULE: Final = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"


class Minio(S3Server):
    """One server on one folder."""

    name = "minio"
    version: ClassVar[str] = "20260212"

    def build(self, build: Build) -> None:
        """Compile minio; about 2 minutes on two cores."""
        require([GO], build.apt)
        build.run(["go", "install", _MODULE], env={"GOBIN": str(build.directory)})

    def prepare(self, place: Place) -> None:
        """Make the folder."""
        place.data.mkdir(exist_ok=True)

    def launch(self, place: Place) -> Launch:
        """Without the browser console, which would take a port of its own; without a look for newer versions."""
        env = {
            "MINIO_ROOT_USER": place.credentials["access_key"],
            "MINIO_ROOT_PASSWORD": place.credentials["secret_key"],
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }
        return Launch([str(place.home / "minio"), "server", str(place.data), "--address", place.address], env)
