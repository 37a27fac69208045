"""How a long-running command is told to stop.

Belongs here: the signal handlers. Not here: what stopping means (each command).
"""

import signal
import threading


def stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set; call it once, in the main thread, before the work begins."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
