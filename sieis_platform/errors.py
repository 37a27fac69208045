"""The three kinds of error that every other error here is one of, so that a caller can decide by kind.

Belongs here: the kinds, and nothing that knows a store or a broker. Concrete errors live beside what raises them.
"""


class SieisError(Exception):
    """Base of every error SIEIS raises on purpose; its text says what was wrong, where, and what to do."""


class RetriableError(SieisError):
    """Will pass by itself: back off with jitter, keep the partitions paused and the group membership alive.

    `retry_after_seconds` is how long the other side asks to be left alone, where it says so.
    """

    def __init__(self, *args: object, retry_after_seconds: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after_seconds = retry_after_seconds


class RecordError(SieisError):
    """Permanent for one record: that record becomes a dead letter (or a reject) and the work goes on."""


class FatalError(SieisError):
    """Permanent for everything: stop, exit non-zero and say why."""
