"""What tests know of the embedded broker."""

from typing import Final

EMBEDDED_PARTITIONS: Final = 4
"""Partitions of a topic on the embedded broker: librdkafka's default, and it answers no CreateTopics."""
