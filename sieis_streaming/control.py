"""The simulator's control API, for this machine: status, pause, resume, speed.

Belongs here: the server and its four routes. Not here: what they do (simulator).
"""

import contextlib
import socket
import threading
from typing import Annotated, Final

import structlog
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from msgspec import to_builtins
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from sieis_platform.errors import FatalError
from sieis_streaming.simulator import Simulator

log = structlog.get_logger(__name__)

_STOP_SECONDS: Final = 2
_MAX_FACTOR: Final = 1_000_000.0  # a day in 0.09 s


class PortTakenError(FatalError):
    """Another process listens on the port of the control API."""


class SpeedChange(BaseModel):
    """Body of POST /speed: factor over the clock while catching up, or for ever with --keep-speed."""

    factor: float = Field(gt=0, le=_MAX_FACTOR, allow_inf_nan=False)


def create_app(simulator: Simulator) -> FastAPI:
    """The routes. Every answer is the status after the request.

    A foreign page in a browser cannot steer it: for a JSON content type the browser first asks this server, which never
    agrees, and a name made to resolve to this machine comes with a Host that is refused.
    """
    app = FastAPI(title="SIEIS simulator", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    json_only = [Depends(_json_only)]

    @app.get("/status")
    def status() -> dict:
        """Position, dataset day, speed, rate, lag."""
        return to_builtins(simulator.status())

    @app.post("/pause", dependencies=json_only)
    def pause() -> dict:
        """Emit nothing until resumed."""
        simulator.pause()
        return to_builtins(simulator.status())

    @app.post("/resume", dependencies=json_only)
    def resume() -> dict:
        """Catch up, then go on."""
        simulator.resume()
        return to_builtins(simulator.status())

    @app.post("/speed", dependencies=json_only)
    def speed(change: SpeedChange) -> dict:
        """Change the speed factor."""
        simulator.set_speed(change.factor)
        return to_builtins(simulator.status())

    return app


def _json_only(content_type: Annotated[str, Header()] = "") -> None:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send Content-Type: application/json")


class ControlServer:
    """Serves the control API in a thread of its own, from `start` to `stop`."""

    def __init__(self, simulator: Simulator, port: int, host: str = "127.0.0.1") -> None:
        """`port` 0 lets the system choose (see `port` after `start`).

        On whatever `host` it listens, only requests for a local name are answered: in a container it must listen on
        all addresses to be published to this machine, and nobody else gains by it.
        """
        self.port, self.host = port, host
        config = uvicorn.Config(
            create_app(simulator),
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen and serve. Raises: PortTakenError."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
            listener.listen()
        except OSError as error:
            listener.close()
            raise PortTakenError(
                f"the simulator's control port {self.port} on {self.host} cannot be used ({error.strerror}): "
                "is another simulator running? Stop it, or set SIEIS_SIMULATOR_PORT to another port"
            ) from error
        self.port = listener.getsockname()[1]
        self._socket = listener
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, name="control")
        self._thread.start()
        log.info("control API listens", url=f"http://{self.host}:{self.port}/status")

    def stop(self) -> None:
        """End the server; a second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._server.should_exit = True
            thread.join()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()

    def __enter__(self) -> "ControlServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
