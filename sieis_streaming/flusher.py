"""A sink's flushes in a thread of their own: while one waits for its store, the next batch is read and decoded.

Belongs here: who may touch the sink when. Not here: what a flush does (sinks), nor what its errors mean (consumer).
"""

from concurrent.futures import Executor, Future

from sieis_streaming.decode import Decoded
from sieis_streaming.sinks.base import Sink


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
        self._ahead_rows = 0

    @property
    def running(self) -> bool:
        """Whether a flush was started whose end nobody has asked for yet."""
        return self._flush is not None

    @property
    def ready(self) -> bool:
        """Whether `finish` is due: the flush has ended, or so much was read ahead that nothing more should be."""
        return self._flush is not None and (self._flush.done() or self._ahead_rows >= self._sink.ahead_rows)

    def add(self, decoded: Decoded) -> None:
        """Buffer one poll: in the sink, or beside it while a flush is under way."""
        if self._flush is None:
            self._sink.add(decoded)
        else:
            self._ahead.append(decoded)
            self._ahead_rows += decoded.rows.height

    def start(self) -> None:
        """Begin a flush of what the sink holds."""
        assert self._flush is None, "one flush at a time"  # noqa: S101 - the consumer's order of steps
        self._flush = self._thread.submit(self._sink.flush)

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
            ahead, self._ahead, self._ahead_rows = self._ahead, [], 0
            for decoded in ahead:
                self._sink.add(decoded)
