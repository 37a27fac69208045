"""What the consumer asks of a sink, and the errors between the two.

Belongs here: the protocol. Not here: polling, pausing, backing off (sieis_streaming.consumer).
"""

from typing import Final, NamedTuple, Protocol

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.settings import Sink as SinkName
from sieis_streaming.decode import Decoded

DEAD_BYTES: Final = 64 * 1024 * 1024
"""Bytes of dead letters after which a sink that keeps them is to flush, and nothing more is read beside a flush.

As much as a group holds back of fetched records; beside 200,000 readings (some 20 MB) it leaves 1 GB far away.
"""


class OffsetRange(NamedTuple):
    """What the broker holds of a partition: first offset, and the one after the last.

    `committed` is where its group stands: None where it never committed, or in a topic deleted since. `cut`: records
    before that are others now than those that the group read.
    """

    low: int
    high: int
    committed: int | None = None
    cut: bool = False


class IncarnationChangedError(RetriableError):
    """The topic is no longer the one that was assigned: it was deleted and made again, or the broker forgot it."""


class PositionMovedError(RetriableError):
    """Another owner has moved the position of a partition: drop what is buffered and take up the new position."""


class PositionBeyondEndError(FatalError):
    """The store is ahead of the topic: the broker has lost records that were already stored.

    Unless the ends of the topic were asked for long before the position of the store: the caller looks again.
    """

    def __init__(self, message: str, partition: int, position: int) -> None:
        super().__init__(message)
        self.partition, self.position = partition, position


class LogTruncatedError(FatalError):
    """The broker has lost records that were read already, and gives their positions to others."""


class Sink(Protocol):
    """One store's end of the stream. Not thread-safe: one thread at a time (sieis_streaming.flusher)."""

    @property
    def name(self) -> SinkName:
        """Which store this is; also the label of its metrics and the end of its group's name."""
        ...

    @property
    def ahead_rows(self) -> int:
        """Rows that may be read while a flush is under way: about what the next one takes."""
        ...

    def assign(self, ranges: dict[int, OffsetRange]) -> dict[int, int]:
        """Take over partitions; the offset to read each from.

        Raises: RetriableError (store unavailable), FatalError.
        """
        ...

    def revoke(self, partitions: list[int]) -> None:
        """Forget everything of partitions that are no longer ours, unflushed rows included."""
        ...

    def add(self, decoded: Decoded) -> None:
        """Buffer one poll. Raises: LogTruncatedError."""
        ...

    def confirm(self) -> None:
        """Take note that the topic is still the one assigned: the broker said so after all that was added was read."""
        ...

    def due(self) -> bool:
        """Whether it is time to flush."""
        ...

    def flush(self) -> dict[int, int]:
        """Store what is buffered; per partition the offset to commit to Kafka (nothing buffered: empty).

        A flush that raised may be called again. Where the topic is gone, what is certain to come from it is stored
        before that is raised. Raises: RetriableError, FatalError.
        """
        ...

    def committed(self) -> None:
        """Called after Kafka has taken the offsets that `flush` returned."""
        ...
