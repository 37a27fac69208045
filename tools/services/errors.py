"""What can go wrong with the servers of tools.services, each with what to do about it.

Belongs here: the named errors. Not here: errors of the product (they lie beside what raises them).
"""

from sieis_platform.errors import FatalError


class MissingToolError(FatalError):
    """A program that an install needs is not on this machine; the text names it and how to get it."""


class InstallError(FatalError):
    """A command of an install failed; the text has its last lines and the log file."""


class InstallCancelledError(FatalError):
    """An install was given up because the process that asked for it is ending."""


class UnknownServerError(FatalError):
    """A name that is none of the servers."""


class StartError(FatalError):
    """A server ended while starting, or did not answer its protocol in time; the text has its last log lines."""


class StopError(FatalError):
    """Processes of a server are still there although they were killed."""


class PortTakenError(FatalError):
    """The port a server must come back on belongs to somebody else by now."""


class StateError(FatalError):
    """The state file of `up` cannot be read."""


class EngineError(FatalError):
    """Docker refused a command; the text has its last lines."""
