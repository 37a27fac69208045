"""The demo's own places on the servers: topics, buckets and databases named like the real ones, with `demo` behind.

Belongs here: those names, and making the places anew. Not here: what is done in them (demo_steps.py).
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import sqlalchemy as sa
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.settings import Settings
from sieis_platform.stores.influx import setup as influx
from sieis_platform.stores.s3 import bucket_of, empty_bucket, make_bucket
from sieis_streaming.broker import client_config, locate
from sieis_streaming.refusal import Handshake
from sieis_streaming.topics import ensure_topics

MADE_BY: Final = "made by sieis demo"
"""What buckets and databases say of themselves; one of the same name that does not say it is left alone."""

_MARK: Final = MADE_BY.replace(" ", "-")
_SUFFIX: Final = "-demo"
_SQL_SUFFIX: Final = "_demo"  # a hyphen would have to be quoted for ever
_TOPIC_LONGEST: Final = 200
_BUCKET_LONGEST: Final = 63
_SQL_LONGEST: Final = 63  # PostgreSQL cuts longer names off without a word
_DATABASES: Final = ("state_url", "dagster_database_url", "mlflow_database_url")
_LOCK: Final = 0x51E15DE  # any number that nothing else in this database locks
_CONNECT_SECONDS: Final = 5
_ANSWER_SECONDS: Final = 10.0
_GONE_SECONDS: Final = 60.0  # a consumer of a killed demo stays a member for its session timeout of 30 s
_LOOK_SECONDS: Final = 0.2


# A member is left, or the broker that keeps the group is only just getting ready to.
_NOT_YET: Final = frozenset(
    {
        KafkaError.NON_EMPTY_GROUP,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError._TIMED_OUT,
    }
)


class DemoServersError(FatalError):
    """The demo cannot have places of its own on the servers."""


class DemoServersUnavailableError(RetriableError):
    """A server did not answer while the demo's places were made."""


def own_places(settings: Settings) -> dict[str, Any]:
    """Setting -> value by which everything the demo keeps on the servers has a name of its own.

    Raises: DemoServersError where such a name would be too long, or a database's address cannot be read.
    """
    kafka = ("kafka_topic", "kafka_dlq_topic", "kafka_group")
    influxdb = ("influx_bucket", "influx_hourly_bucket")
    return {
        **{name: _own(getattr(settings, name), _SUFFIX, _TOPIC_LONGEST) for name in kafka},
        **{name: f"{getattr(settings, name)}{_SUFFIX}" for name in influxdb},
        **{name: _own_uri(getattr(settings, name)) for name in ("archive_uri", "marts_uri")},
        **{name: _own_database(name, getattr(settings, name)) for name in _DATABASES},
        "redis_prefix": f"{settings.redis_prefix.rstrip(':')}{_SUFFIX}:",
        # A tracking server has a database that is not the demo's.
        "mlflow_uri": "",
    }


@contextlib.contextmanager
def started_over(real: Settings, demo: Settings) -> Iterator[str]:
    """Make the places of `demo` anew, and keep every other demo from them meanwhile; gives InfluxDB's token for them.

    `real` names databases that are there, from which new ones are made.
    Raises: DemoServersError, DemoServersUnavailableError, and as the making of topics, buckets and InfluxDB's does.
    """
    with _alone(real):
        _remove_topics(demo)
        ensure_topics(demo)
        for name in dict.fromkeys(bucket_of(uri) for uri in (demo.archive_uri, demo.marts_uri)):
            make_bucket(demo, name)
            empty_bucket(demo, name, mark=_MARK)
        # The first use makes a bucket that says of nobody that he made it: it must be the installation's.
        influx.first_use(real)
        influx.remove(demo, description=MADE_BY)
        token = influx.prepare(demo, description=MADE_BY).token
        for name in _DATABASES:
            _new_database(getattr(real, name), _url(name, getattr(demo, name)).database or "")
        yield token


# -- names -----------------------------------------------------------------------------------------------------------
def _own(name: str, suffix: str, longest: int) -> str:
    if len(name) + len(suffix) > longest:
        raise DemoServersError(f"{name}{suffix} would be the demo's, and is longer than {longest} characters")
    return f"{name}{suffix}"


def _own_uri(uri: str) -> str:
    bucket = bucket_of(uri)
    return uri.replace(bucket, _own(bucket, _SUFFIX, _BUCKET_LONGEST), 1)


def _own_database(name: str, address: SecretStr) -> SecretStr:
    url = _url(name, address)
    own = url.set(database=_own(url.database or "", _SQL_SUFFIX, _SQL_LONGEST))
    return SecretStr(own.render_as_string(hide_password=False))


def _url(name: str, address: SecretStr) -> sa.URL:
    try:
        url = sa.make_url(address.get_secret_value())
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() not in ("postgresql", "postgres") or not url.database:
        raise DemoServersError(f"SIEIS_{name.upper()} is no address like postgresql://user:password@host:5432/database")
    return url


# -- Kafka -----------------------------------------------------------------------------------------------------------
def _remove_topics(demo: Settings) -> None:
    """The groups go too: with the offsets of the old topics their members would skip what is in the new ones."""
    handshake = Handshake()
    admin = AdminClient(client_config(demo, locate(demo), handshake))
    with handshake.explained(admin):
        _remove_topics_of(demo, admin)


def _remove_topics_of(demo: Settings, admin: AdminClient) -> None:
    groups = {f"{demo.kafka_group}.{sink}" for sink in ("hot", "archive")}
    topics = [demo.kafka_topic, demo.kafka_dlq_topic]
    deadline = time.monotonic() + _GONE_SECONDS
    # Only those that are there: a Kafka that never had a group takes its time to find out that it has none of these.
    while there := sorted(groups & _known_groups(admin)):
        reason = _not_yet(admin.delete_consumer_groups(there, request_timeout=_ANSWER_SECONDS))
        if time.monotonic() > deadline:
            raise DemoServersUnavailableError(f"{reason}; a consumer of an earlier demo may still run: end it")
        time.sleep(_LOOK_SECONDS)
    _not_yet(admin.delete_topics(topics, request_timeout=_ANSWER_SECONDS))
    while any(name in topics for name in _known_topics(admin)):
        if time.monotonic() > deadline:
            raise DemoServersUnavailableError(f"Kafka has not deleted {' and '.join(topics)} yet")
        time.sleep(_LOOK_SECONDS)


def _not_yet(futures: Mapping[str, Any]) -> str:
    """Wait for each deletion; why one must be asked for again. What is not there is deleted already."""
    gone = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND)
    reason = ""
    for name, future in futures.items():
        try:
            future.result(2 * _ANSWER_SECONDS)
        except TimeoutError as error:
            raise DemoServersUnavailableError(f"Kafka did not answer to the deletion of {name}") from error
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            said = f"Kafka does not delete {name}: {cause.str()}"
            if cause.code() in _NOT_YET:
                reason = said
            elif cause.code() not in gone:
                raise (DemoServersUnavailableError if cause.retriable() else DemoServersError)(said) from error
    return reason


def _known_groups(admin: AdminClient) -> set[str]:
    asked = admin.list_consumer_groups(request_timeout=_ANSWER_SECONDS)
    try:
        found = asked.result(2 * _ANSWER_SECONDS)
    except (TimeoutError, KafkaException) as error:
        raise DemoServersUnavailableError(f"Kafka does not tell its consumer groups: {error}") from error
    if found.errors:
        raise DemoServersUnavailableError(f"Kafka does not tell all its consumer groups: {found.errors[0]}")
    return {group.group_id for group in found.valid}


def _known_topics(admin: AdminClient) -> list[str]:
    try:
        return list(admin.list_topics(timeout=_ANSWER_SECONDS).topics)
    except KafkaException as error:
        raise DemoServersUnavailableError(f"Kafka does not tell its topics: {error.args[0].str()}") from error


# -- PostgreSQL ------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _alone(real: Settings) -> Iterator[None]:
    """Keep a lock in the operational state's database; it goes with this process."""
    with _connected(real.state_url) as connection:
        if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(_LOCK))).scalar():
            raise DemoServersError("another demo runs on these servers; wait for its end")
        yield


def _new_database(address: SecretStr | None, name: str) -> None:
    """An empty database of that name, in place of the one an earlier demo made."""
    with _connected(address) as connection:
        quoted = connection.dialect.identifier_preparer.quote_identifier(name)
        found = connection.execute(
            sa.text("select shobj_description(oid, 'pg_database') from pg_database where datname = :name"),
            {"name": name},
        ).one_or_none()
        if found is not None and found[0] != MADE_BY:
            raise DemoServersError(
                f"PostgreSQL at {connection.engine.url.host} has a database {name} that is not {MADE_BY}; "
                "drop or rename it if nobody needs it"
            )
        # FORCE: a part of a killed demo may still be connected.
        for statement in (
            f"drop database if exists {quoted} with (force)",
            f"create database {quoted}",
            f"comment on database {quoted} is '{MADE_BY}'",
        ):
            connection.execute(sa.text(statement))


@contextlib.contextmanager
def _connected(address: SecretStr | None) -> Iterator[sa.Connection]:
    assert address is not None  # noqa: S101 - the profile asks for it
    url = sa.make_url(address.get_secret_value())
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",  # databases are not made in transactions
        poolclass=sa.NullPool,
        connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "sieis demo"},
    )
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        where = url.render_as_string(hide_password=True)
        cause = str(getattr(error, "orig", None) or error).strip()
        if isinstance(error, OperationalError | InterfaceError):
            raise DemoServersUnavailableError(f"PostgreSQL at {where} cannot be used now: {cause}") from error
        raise DemoServersError(f"PostgreSQL at {where} refuses the demo's database: {cause}") from error
