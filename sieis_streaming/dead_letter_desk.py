"""Dead letters of one installation, read and sent again in one call each: for the command and the job alike.

Belongs here: opening the broker's clients for it. Not here: how dead letters are kept (dead_letters.py).
"""

from collections.abc import Sequence

from confluent_kafka import Consumer, Producer

from sieis_platform.settings import Settings
from sieis_streaming.broker import client_config, locate
from sieis_streaming.dead_letters import (
    PRODUCER_CONFIG,
    DeadLetterNotFoundError,
    DeadLetterPublisher,
    KeptLetter,
    Position,
    read_all,
    to_replay,
)
from sieis_streaming.refusal import Handshake


def read_letters(settings: Settings) -> list[KeptLetter]:
    """Every dead letter, once each, in the order they died.

    Raises: BrokerUnavailableError, BrokerRefusesError, DeadLetterReadError.
    """
    handshake = Handshake()
    # The group never commits; librdkafka wants a name for it.
    own = {"group.id": "sieis-dlq-reader", "enable.auto.commit": False}
    consumer = Consumer(client_config(settings, locate(settings), handshake) | own)
    try:
        with handshake.explained(consumer):
            return read_all(consumer, settings.kafka_dlq_topic)
    finally:
        consumer.close()


def letters_at(settings: Settings, positions: Sequence[str]) -> list[KeptLetter]:
    """The dead letters at `positions`, in that order.

    Raises: DeadLetterNotFoundError; as `read_letters`, once the positions are known to be some.
    """
    wanted = [Position.parse(text) for text in positions]
    known = {letter.position: letter for letter in read_letters(settings)}
    for position in wanted:
        if position not in known:
            raise DeadLetterNotFoundError(f"no dead letter has the position {position}; see `sieis dlq list`")
    return [known[position] for position in wanted]


def replay_letters(settings: Settings, positions: Sequence[str] = ()) -> list[KeptLetter]:
    """Send the original bytes to the topic again: of all open ones, or of those at `positions`; those that were sent.

    Raises: as `letters_at`, DeadLetterDeliveryError.
    """
    letters = letters_at(settings, positions) if positions else to_replay(read_letters(settings))
    if letters:
        config = client_config(settings, locate(settings)) | PRODUCER_CONFIG
        DeadLetterPublisher(lambda: Producer(config), settings.kafka_dlq_topic).replay(letters, settings.kafka_topic)
    return letters
