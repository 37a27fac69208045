"""A sink's flushes in a thread of their own: while one waits for its store, the next batch is read and decoded.

Belongs here: who may touch the sink when. Not here: what a flush does (sinks), nor what its errors mean (consumer).
"""

import time
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for

from sieis_streaming.decode import Decoded
from sieis_streaming.sinks.base import DEAD_BYTES, Sink


class Flusher:
    """Owns `sink` together with the consumer's thread: during a flush only the flush touches it.

    What is read meanwhile waits outside and goes into the sink, in the order read, when the flush has ended, well or
    not. All methods are for the consumer's thread.
    """

    def __init__(self, sink: Sink, thread: Executor) -> None:
        self._sink = sink
        self._thread = thread
        self._flush: Future[dict[int, int]] | None = None
        self._ahead: list[Decoded] = []
        self._ahead_records = 0
        self._ahead_bytes = 0
        self._full_since = 0.0

    @property
    def running(self) -> bool:
        """Whether a flush was started whose end nobody has asked for yet."""
        return self._flush is not None

    @property
    def ready(self) -> bool:
        """Whether a flush was started and has ended: `finish` waits no longer."""
        return self._flush is not None and self._flush.done()

    @property
    def full_seconds(self) -> float | None:
        """For how long so much has been read ahead of the flush that nothing more should be; None: go on reading."""
        if self._ahead_records < self._sink.ahead_rows and self._ahead_bytes < DEAD_BYTES:
            return None
        return time.monotonic() - self._full_since

    def add(self, decoded: Decoded) -> None:
        """Buffer one poll: in the sink, or beside it while a flush is under way."""
        if self._flush is None:
            self._sink.add(decoded)
            return
        self._ahead.append(decoded)
        self._ahead_records += decoded.records
        self._ahead_bytes += sum(letter.size for letter in decoded.dead)
        self._full_since = time.monotonic()

    def start(self) -> None:
        """Begin a flush of what the sink holds."""
        assert self._flush is None, "one flush at a time"  # noqa: S101 - the consumer's order of steps
        self._flush = self._thread.submit(self._sink.flush)

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of the flush, where there is one; whether there is none under way."""
        return self._flush is None or bool(wait_for([self._flush], seconds).done)

    def finish(self) -> dict[int, int]:
        """Wait for the flush that was started: the offsets to commit; none where no flush was.

        Raises: what the flush raised; the sink then holds its rows as before, and what was read ahead.
        """
        if self._flush is None:
            return {}
        try:
            return self._flush.result()
        finally:
            self._flush = None
            ahead, self._ahead, self._ahead_records, self._ahead_bytes = self._ahead, [], 0, 0
            for decoded in ahead:
                self._sink.add(decoded)
