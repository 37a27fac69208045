"""What it means when a broker does not do what it is asked: not now, or never.

Belongs here: the two errors, and telling them apart. Not here: who asks.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from sieis_platform.errors import FatalError, RetriableError

log = structlog.get_logger(__name__)

_ANSWER_SECONDS: Final = 5.0
_REPEATS_SECONDS: Final = 10.0  # librdkafka tries three to ten times a second, and tells of each

# The broker knows us and says that we may not. It will say so next time.
FORBIDDEN: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
_LOGIN: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
# Since TLS 1.3 a server refuses a client's certificate after the handshake: to librdkafka a connection that broke.
_ALERT: Final = "SSL alert"

_CHECK_LOGIN: Final = (
    "check SIEIS_KAFKA_SASL_USERNAME, SIEIS_KAFKA_SASL_PASSWORD, SIEIS_KAFKA_SASL_MECHANISM and "
    "SIEIS_KAFKA_SECURITY_PROTOCOL"
)
_CHECK_TLS: Final = (
    "check SIEIS_KAFKA_SSL_CA_LOCATION, and SIEIS_KAFKA_SSL_CERTIFICATE_LOCATION where the broker asks for a "
    "certificate"
)
_CHECK_RIGHTS: Final = "give the user SIEIS comes as at the broker that right (`kafka-acls`), then start again"


class BrokerUnavailableError(RetriableError):
    """No broker answers (yet)."""


class BrokerRefusesError(FatalError):
    """The broker refuses our login, certificate or request for good, or we its certificate."""


class BrokerForbidsError(BrokerRefusesError):
    """The broker knows us, and its access rules do not let us do what we asked for."""


Client = AdminClient | Consumer | Producer


class Handshake:
    """Takes the errors of the clients of one connection (librdkafka's `error_cb`) and remembers a failed login.

    To librdkafka such a failure is one more thing that may pass: it goes on trying, and whoever waits for an answer is
    told of a timeout. Of a broker that has answered before, that may be right (its users are being changed). Where none
    ever has, it is the settings.
    """

    def __init__(self) -> None:
        self._failed: KafkaError | None = None
        self._answered = False
        self._said: tuple[str, float] = "", -math.inf

    def __call__(self, error: KafkaError) -> None:
        """Remember and log `error`; a line that only repeats the last is left out for a while."""
        if error.fatal():
            log.error("kafka client failed for good", code=error.name(), text=error.str())
        elif _is_login(error) or _is_tls(error):
            self._failed = error
            line, now = _text(error), time.monotonic()
            if line != self._said[0] or now - self._said[1] >= _REPEATS_SECONDS:
                self._said = line, now
                log.warning("the broker lets nobody in", code=error.name(), text=line)
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            log.warning("no broker answers", text=error.str())
        else:
            log.debug("kafka client", code=error.name(), text=error.str())

    def answered(self) -> None:
        """The broker has let us in: from now on a failed login may pass by itself."""
        self._answered, self._failed = True, None

    def check(self, client: Client) -> None:
        """End what waits in vain: ask `client` once where a login failed and nothing was ever received.

        Takes 5 s at most, and no time at all unless a login failed. Raises: BrokerRefusesError.
        """
        if self._failed is None or self._answered:
            return
        try:
            client.list_topics(timeout=_ANSWER_SECONDS)
        except KafkaException as error:
            raise self._refused(self._failed) from error
        self.answered()

    def failure(
        self, error: KafkaError, what: str, client: Client | None = None
    ) -> BrokerRefusesError | BrokerUnavailableError:
        """The error to raise where `what` ("the broker did not ...") came of `error`.

        The callbacks of an idle `client` are taken first: only they tell of a failed login.
        """
        if error.code() in FORBIDDEN:
            return BrokerForbidsError(f"{what}: {error.str()}; {_CHECK_RIGHTS}")
        if _is_login(error):
            return self._refused(error)
        if client is not None:
            client.poll(0)
        if self._failed is not None and not self._answered:
            return self._refused(self._failed)
        return BrokerUnavailableError(f"{what}: {error.str()}{self.reason}")

    @contextmanager
    def explained(self, client: Client) -> Iterator[None]:
        """Say why instead, where what is done inside ends in a retriable error and the broker let nobody in.

        Raises: BrokerRefusesError.
        """
        try:
            yield
        except RetriableError as error:
            client.poll(0)
            if self._failed is not None and not self._answered:
                raise self._refused(self._failed) from error
            raise

    @property
    def reason(self) -> str:
        """What to add to the text of an error: why the last login failed, if it did."""
        return f" ({_text(self._failed)})" if self._failed is not None else ""

    def _refused(self, error: KafkaError) -> BrokerRefusesError:
        if _is_tls(error):
            return BrokerRefusesError(f"no TLS connection to the broker: {_text(error)}; {_CHECK_TLS}")
        return BrokerRefusesError(f"the broker refuses the login: {_text(error)}; {_CHECK_LOGIN}")


def _is_login(error: KafkaError) -> bool:
    return error.code() in _LOGIN


def _is_tls(error: KafkaError) -> bool:
    return error.code() == KafkaError._SSL or (error.code() == KafkaError._TRANSPORT and _ALERT in error.str())


def _text(error: KafkaError) -> str:
    """Without how long the attempt took, which is another each time."""
    return error.str().partition(" (after ")[0]
