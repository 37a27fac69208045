"""toxiproxy: latency, resets and cuts on the wire between SIEIS and a server.

Belongs here: its install and start, and the calls of its API that drills need. Not here: the drills.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import httpx

from tools.services.cache import Build
from tools.services.servers.base import HOST, Launch, NotReadyError, Place, Server
from tools.services.toolchain import GO, require

_PROGRAM: Final = "github.com/Shopify/toxiproxy/v2/cmd/server"
_ANSWER_SECONDS: Final = 5.0


class Toxiproxy(Server):
    """No credentials; `main` is its API."""

    name = "toxiproxy"
    version: ClassVar[str] = "2.12.0"

    def build(self, build: Build) -> None:
        """Compile it; under a minute."""
        require([GO], build.apt)
        build.run(["go", "install", f"{_PROGRAM}@v{self.version}"], env={"GOBIN": str(build.directory)})

    def prepare(self, place: Place) -> None:
        """Nothing: it keeps no data."""

    def launch(self, place: Place) -> Launch:
        """Its API on the main port."""
        listen = ["-host", HOST, "-port", str(place.ports["main"])]
        return Launch([str(place.home / "server"), *listen])

    def check(self, place: Place) -> None:
        """Ask for its version."""
        try:
            answer = httpx.get(f"{self.address(place)}/version", timeout=_ANSWER_SECONDS)
        except httpx.HTTPError as error:
            raise NotReadyError(str(error)) from error
        if answer.status_code != 200:
            raise NotReadyError(f"/version answers {answer.status_code}")

    def address(self, place: Place) -> str:
        """Its API's URL."""
        return f"http://{place.address}"

    def settings(self, place: Place) -> dict[str, str]:
        """None: SIEIS knows nothing of it."""
        return {}


@dataclass(frozen=True)
class Proxy:
    """One proxy of a running toxiproxy: clients connect to `address` (host:port) and reach the server behind."""

    api: str
    name: str
    address: str

    @classmethod
    def create(cls, api: str, name: str, *, listen: str, upstream: str) -> "Proxy":
        """Make a proxy; addresses are host:port. Raises: httpx.HTTPError."""
        body = {"name": name, "listen": listen, "upstream": upstream, "enabled": True}
        _call("POST", f"{api}/proxies", body)
        return cls(api, name, listen)

    def cut(self) -> None:
        """Refuse connections and close those there are."""
        _call("POST", f"{self.api}/proxies/{self.name}", {"enabled": False})

    def mend(self) -> None:
        """Take connections again and remove every toxic."""
        for toxic in _call("GET", f"{self.api}/proxies/{self.name}")["toxics"]:
            _call("DELETE", f"{self.api}/proxies/{self.name}/toxics/{toxic['name']}")
        _call("POST", f"{self.api}/proxies/{self.name}", {"enabled": True})

    def spoil(self, kind: str, *, stream: str = "downstream", toxicity: float = 1.0, **attributes: int) -> None:
        """Add a toxic: `spoil("latency", latency=300, jitter=100)`, `spoil("reset_peer", timeout=50)` and so on.

        Kinds and units (milliseconds, KB/s) as in toxiproxy's README. Raises: httpx.HTTPError.
        """
        body = {"type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes}
        _call("POST", f"{self.api}/proxies/{self.name}/toxics", body)


def _call(method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
    answer = httpx.request(method, url, json=body, timeout=_ANSWER_SECONDS)
    answer.raise_for_status()
    return answer.json() if answer.content else None
