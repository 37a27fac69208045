"""Serving the app with granian, in this process, until SIGTERM or Ctrl-C.

Belongs here: the server, its port and its end. Not here: the app (app.py).
"""

import asyncio
import errno
import signal
import socket
from typing import Final

import structlog
from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server
from starlette.types import Receive, Scope, Send

from sieis_api.app import create_app
from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings

log = structlog.get_logger(__name__)

# The server's own lines go to our log pipe; it must not install handlers of its own (`incremental` leaves those alone).
_LOGGING: Final = {
    "incremental": True,
    "formatters": {},
    "handlers": {},
    "loggers": {"_granian": {"propagate": True}, "granian.access": {"level": "ERROR"}},
}


class PortTakenError(FatalError):
    """Something else listens where the API would."""


class AddressError(FatalError):
    """The API cannot listen at the address it was given."""


class ServerError(FatalError):
    """The server ended by itself."""


def check_address(host: str, port: int) -> str:
    """The IP address of `host`, on which `port` is free at this moment.

    Granian shares ports (SO_REUSEPORT): without this look two APIs would take turns answering on one.
    Raises: PortTakenError, AddressError.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise AddressError(f"{host} is not an address ({error.strerror}); set SIEIS_API_HOST") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(address)
        except OSError as error:
            raise _explained(error, host, port) from None
    return str(address[0])


def serve(settings: Settings) -> None:
    """Serve the API until SIGTERM or SIGINT; requests under way are finished.

    Raises: PortTakenError, AddressError, ExposedWithoutKeyError, FloorPlanError, ServerError.
    """
    app = create_app(settings)
    address = check_address(settings.api_host, settings.api_port)
    asyncio.run(_serve(app, settings, address))


async def _serve(app: FastAPI, settings: Settings, address: str) -> None:
    # The lifespan is run here, not by the server, which would swallow its errors into a traceback and exit code 0.
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"] = dict(state or {})
            await app(scope, receive, send)

        server = Server(
            with_state,
            address=address,
            port=settings.api_port,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            websockets=False,
            log_level=LogLevels.error,
            log_dictconfig=_LOGGING,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        log.info("API listens", address=settings.api_url, docs=f"{settings.api_url}/docs")
        await server.serve()
        if not server.interrupt_signal:
            raise ServerError("the API server ended by itself; the lines above say why")
    log.info("API stopped")


def _explained(error: OSError, host: str, port: int) -> FatalError:
    if error.errno == errno.EADDRINUSE:
        return PortTakenError(
            f"port {port} on {host} is taken: stop what listens there, or set SIEIS_API_PORT to another"
        )
    if error.errno == errno.EACCES:
        return AddressError(f"port {port} may not be opened by this user; set SIEIS_API_PORT to one above 1023")
    return AddressError(f"{host} is not an address of this machine ({error.strerror}); set SIEIS_API_HOST")
