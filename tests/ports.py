"""Ports for servers that a test starts. Belongs here: choosing them."""

from tools.services import ports


def free_port() -> int:
    """A port that nobody listens on.

    Not the system's choice, which some outgoing connection may have got before the server listens.
    """
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    return list(ports.choose([str(number) for number in range(count)]).values())
