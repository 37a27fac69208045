"""Free ports for servers that must come back on the same one.

Belongs here: choosing them. Not here: which server needs which.
"""

import contextlib
import random
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from tools.services.errors import PortTakenError
from tools.services.servers.base import HOST

# Below the range from which Linux takes outgoing connections' ports (32768 and up): otherwise such a connection could
# sit on a killed server's port, or a client that keeps trying it could connect to itself.
_RANGE: Final = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on that port of the loopback address."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def choose(names: Sequence[str], taken: Collection[int] = ()) -> dict[str, int]:
    """A free port for each name, none of `taken`.

    Raises: PortTakenError when there are not that many.
    """
    chosen: dict[str, int] = {}
    for port in random.sample(_RANGE, len(_RANGE)):
        if len(chosen) == len(names):
            break
        if port not in taken and is_free(port):
            chosen[names[len(chosen)]] = port
    if len(chosen) < len(names):
        raise PortTakenError(f"no free ports between {_RANGE.start} and {_RANGE.stop}")
    return chosen


def require_free(ports: Mapping[str, int]) -> None:
    """See to it that all are free. Raises: PortTakenError."""
    if held := [f"{port} ({name})" for name, port in ports.items() if not is_free(port)]:
        raise PortTakenError(f"another program listens on port {', '.join(held)}")
