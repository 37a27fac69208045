"""Where a consumer may read on: what the broker has of each partition, where its group stands, whether that holds.

Belongs here: asking the broker. Not here: what a sink makes of it (sinks), nor fetching (consumer).
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from sieis_platform.settings import Settings
from sieis_streaming.link import BrokerLink
from sieis_streaming.sinks.base import OffsetRange

_ANSWER_SECONDS: Final = 5.0
_NO_EPOCH: Final = -1  # as Kafka's protocol has it


class Place(NamedTuple):
    """How far a partition is stored, and in which of its leaders' terms the record before that was read."""

    offset: int
    epoch: int


def _epoch(part: TopicPartition) -> int:
    return _NO_EPOCH if part.leader_epoch is None else part.leader_epoch


class Places:
    """Of one group on one topic; remembers what this process has stored of the topic's present incarnation."""

    def __init__(self, settings: Settings, link: BrokerLink) -> None:
        self._topic, self._link = settings.kafka_topic, link
        self._incarnation = ""
        self._stored: dict[int, Place] = {}

    def ranges(self, consumer: Consumer, incarnation: str, partitions: Sequence[int]) -> dict[int, OffsetRange]:
        """What the broker has of each, and where the group stands.

        Raises: BrokerUnavailableError, BrokerRefusesError.
        """
        if incarnation != self._incarnation:
            self._incarnation, self._stored = incarnation, {}
        committed = self._committed(consumer, partitions)
        ends = {partition: self.ends(consumer, partition) for partition in partitions}
        cut = self._cut(committed | {part: place for part, place in self._stored.items() if part in ends}, ends)
        return {
            partition: OffsetRange(
                *ends[partition], committed[partition].offset if partition in committed else None, partition in cut
            )
            for partition in partitions
        }

    def ends(self, consumer: Consumer, partition: int) -> tuple[int, int]:
        """First offset that the broker has, and the one after the last.

        Raises: BrokerUnavailableError, BrokerRefusesError.
        """
        try:
            return consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_ANSWER_SECONDS)
        except KafkaException as error:
            raise self._link.failure(error, f"the broker did not tell the ends of {self._topic}") from error

    def stored(self, consumer: Consumer, offsets: Mapping[int, int]) -> dict[int, Place]:
        """Remember that what `consumer` has read is stored up to `offsets`; these places, to be committed."""
        read = consumer.position([TopicPartition(self._topic, partition) for partition in offsets])
        places = {part.partition: Place(offsets[part.partition], _epoch(part)) for part in read}
        self._stored |= places
        return places

    def _cut(self, places: Mapping[int, Place], ends: Mapping[int, tuple[int, int]]) -> set[int]:
        """The partitions in which records before these places were lost, and their positions given to others."""
        known = {
            partition: (place.offset, place.epoch)
            for partition, place in places.items()
            if place.epoch != _NO_EPOCH and ends[partition][0] <= place.offset <= ends[partition][1]
        }
        if not known or self._link.address.embedded:
            return set()  # the embedded broker never reuses an address
        return self._link.cut(known)

    def _committed(self, consumer: Consumer, partitions: Sequence[int]) -> dict[int, Place]:
        """Where the group stands in each partition in which it committed since the topic was made.

        A commit carries the incarnation as its metadata: offsets may outlive their topic.
        """
        try:
            committed = consumer.committed(
                [TopicPartition(self._topic, partition) for partition in partitions], timeout=_ANSWER_SECONDS
            )
        except KafkaException as error:
            raise self._link.failure(error, "the broker did not tell the group's offsets") from error
        return {
            part.partition: Place(part.offset, _epoch(part))
            for part in committed
            if part.offset >= 0 and part.metadata in (None, "", self._incarnation)
        }
