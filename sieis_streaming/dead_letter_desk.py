"""Dead letters of one installation, read and sent again in one call each: for the command and the job alike.

Belongs here: opening the broker's clients for it. Not here: how dead letters are kept (dead_letters.py).
"""

from collections.abc import Sequence

from confluent_kafka import Consumer, Producer

from sieis_platform.settings import Settings
from sieis_streaming.broker import client_config, locate
from sieis_streaming.dead_letters import (
    DeadLetterNotFoundError,
    DeadLetterPublisher,
    KeptLetter,
    Position,
    read_all,
    to_replay,
)


def read_letters(settings: Settings) -> list[KeptLetter]:
    """Every dead letter, once each, in the order they died. Raises: BrokerUnavailableError, DeadLetterReadError."""
    # The group never commits; librdkafka wants a name for it.
    config = client_config(settings, locate(settings)) | {"group.id": "sieis-dlq-reader", "enable.auto.commit": False}
    consumer = Consumer(config)
    try:
        return read_all(consumer, settings.kafka_dlq_topic)
    finally:
        consumer.close()


def find_letters(letters: Sequence[KeptLetter], positions: Sequence[str]) -> list[KeptLetter]:
    """Those at `positions`, in that order. Raises: DeadLetterNotFoundError."""
    known = {letter.position: letter for letter in letters}
    found = []
    for text in positions:
        letter = known.get(Position.parse(text))
        if letter is None:
            raise DeadLetterNotFoundError(f"no dead letter has the position {text}; see `sieis dlq list`")
        found.append(letter)
    return found


def replay_letters(settings: Settings, positions: Sequence[str] = ()) -> list[KeptLetter]:
    """Send the original bytes to the topic again: of all open ones, or of those at `positions`; those that were sent.

    Raises: BrokerUnavailableError, DeadLetterReadError, DeadLetterNotFoundError, DeadLetterDeliveryError.
    """
    for position in positions:
        Position.parse(position)  # what is none is said before the broker is asked
    kept = read_letters(settings)
    letters = find_letters(kept, positions) if positions else to_replay(kept)
    if letters:
        producer = Producer(client_config(settings, locate(settings)))
        DeadLetterPublisher(producer, settings.kafka_dlq_topic).replay(letters, settings.kafka_topic)
    return letters
