"""A connection on which a broker's topics are asked for and changed, and what its answers mean.

Belongs here: that. Not here: which topics, or what is tried on them.
"""

from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from sieis_platform.errors import FatalError
from sieis_platform.settings import Settings
from sieis_streaming.broker import TopicMissingError, client_config, locate
from sieis_streaming.refusal import BrokerUnavailableError, Handshake

ANSWER_SECONDS: Final = 10.0

# What will be answered the same next time.
_PERMANENT: Final = frozenset(
    {
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
    }
)
UNSUPPORTED: Final = frozenset(
    {
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    }
)
LEAST_VERSIONS: Final = "Kafka from 2.8 on and Redpanda from 25.3 on can"


class TopicError(FatalError):
    """The broker refuses to make or change a topic."""


class TopicExistsError(Exception):
    """The topic is there."""


class UnsuitableBrokerError(FatalError):
    """The broker cannot do something that SIEIS relies on."""


class Administration:
    """An AdminClient whose answers are waited for and named."""

    def __init__(self, settings: Settings) -> None:
        self.handshake = Handshake()
        self.client = AdminClient(client_config(settings, locate(settings), self.handshake))

    def result(self, future: "Future[Any]", what: str) -> Any:
        """What came of a request for `what`.

        Raises: TopicExistsError, TopicMissingError, TopicError, UnsuitableBrokerError, BrokerUnavailableError,
        BrokerRefusesError.
        """
        try:
            answer = future.result(2 * ANSWER_SECONDS)
        except TimeoutError as error:
            raise BrokerUnavailableError(f"the broker did not answer for {what}{self.handshake.reason}") from error
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if cause.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                self.handshake.answered()
                raise TopicExistsError from error
            if cause.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise TopicMissingError(f"the broker does not know {what}") from error
            said = f"the broker refuses {what}"
            if cause.code() in _PERMANENT:
                raise TopicError(f"{said}: {cause.str()}") from error
            if cause.code() in UNSUPPORTED:
                raise UnsuitableBrokerError(f"{said}: {cause.str()}; {LEAST_VERSIONS}") from error
            raise self.handshake.failure(cause, said, self.client) from error
        self.handshake.answered()
        return answer
