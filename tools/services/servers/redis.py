"""Redis, the Debian package.

Belongs here: its configuration and health.
"""

import shutil
import socket
from pathlib import Path
from typing import ClassVar, Final

from tools.services.servers.base import HOST, Launch, NotReadyError, Place, new_secret, write_private
from tools.services.servers.debian import DebianServer

_ANSWER_SECONDS: Final = 3.0


class Redis(DebianServer):
    """Credentials: password. Keeps its data in an append-only file."""

    name = "redis"
    version: ClassVar[str] = "7.0"
    package: ClassVar[str] = "redis-server"

    def program(self) -> Path | None:
        """The server's folder."""
        found = shutil.which("redis-server")
        return Path(found).parent if found else None

    def new_credentials(self) -> dict[str, str]:
        """One password."""
        return {"password": new_secret()}

    def prepare(self, place: Place) -> None:
        """Write the configuration, which holds the password."""
        place.data.mkdir(exist_ok=True)
        lines = {
            "bind": HOST,
            "port": place.ports["main"],
            "dir": place.data,
            "appendonly": "yes",
            "requirepass": place.credentials["password"],
        }
        write_private(place.folder / "redis.conf", "".join(f"{key} {value}\n" for key, value in lines.items()))

    def launch(self, place: Place) -> Launch:
        """In the foreground."""
        return Launch([str(place.home / "redis-server"), str(place.folder / "redis.conf")])

    def check(self, place: Place) -> None:
        """Log in and PING."""
        if (answer := ask(place, "PING")) != "+PONG":
            raise NotReadyError(f"PING is answered by {answer}")

    def settings(self, place: Place) -> dict[str, str]:
        """Its URL with the password."""
        return {"SIEIS_REDIS_URL": f"redis://:{place.credentials['password']}@{place.address}/0"}


def ask(place: Place, command: str) -> str:
    """The first line of the answer to one inline command, after logging in.

    Raises: NotReadyError.
    """
    try:
        with socket.create_connection((HOST, place.ports["main"]), timeout=_ANSWER_SECONDS) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            stream = connection.makefile("rw", encoding="utf-8", newline="\r\n")
            for line in (f"AUTH {place.credentials['password']}", command):
                stream.write(f"{line}\r\n")
                stream.flush()
                answer = stream.readline().strip()
                if answer.startswith("$") and answer != "$-1":
                    answer = stream.readline().strip()
            return answer
    except OSError as error:
        raise NotReadyError(str(error)) from error
