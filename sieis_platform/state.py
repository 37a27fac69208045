"""Operational state: what SIEIS must remember that is no reading: the simulator's position, alerts, corrections.

Belongs here: tables, and the reads and writes on them, in SQLite or PostgreSQL. Not here: who decides what is
remembered.
"""

import contextlib
import datetime as dt
import time
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, Self

import msgspec
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.settings import Settings

AlertLevel = Literal["success", "warning", "failure"]

_CONNECT_SECONDS: Final = 5  # a server that is there answers in milliseconds; callers may try again
_CREATE_LOCK: Final = 0x51E15  # any number that nothing else in this database locks
_BUSY_SECONDS: Final = 10.0  # a writer holds the lock for milliseconds; longer than this is a stuck process


class StateUnavailableError(RetriableError):
    """The operational state does not answer or cannot be written (locked, disk full, server down)."""


class StateError(FatalError):
    """The operational state is not what it should be (a foreign or damaged file, no rights): a person must look."""


class SimulatorPosition(NamedTuple):
    """Every reading up to and with (timestamp, mote_id) has been acknowledged by the broker.

    `timestamp` is Unix nanoseconds of the platform; `emitted` counts records over all runs.
    """

    timestamp: int
    mote_id: int
    emitted: int


class NewAlert(NamedTuple):
    """What someone should know of. Alerts with one `subject` are about the same thing: the cooldown goes by it."""

    subject: str
    title: str
    text: str
    level: AlertLevel


class StoredAlert(NamedTuple):
    """An alert as it is kept.

    `repeats` counts those with the same subject that the cooldown held back; `delivered_to` names (by a hash) the
    services that have it already; `waiting` is whether others still lack it.
    """

    id: int
    alert: NewAlert
    raised_at: dt.datetime
    waiting: bool
    repeats: int
    attempts: int
    last_error: str
    delivered_to: frozenset[str]


class AlertCounts(NamedTuple):
    """Alerts kept, those waiting for delivery, those held back by the cooldown, and deliveries that failed."""

    kept: int
    waiting: int
    repeats: int
    failures: int


CorrectionKind = Literal["delete", "null"]
CorrectionStatus = Literal["started", "done", "undoing", "undone"]


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """One correction of readings by a person: what was asked for, by whom and why, and how far it is.

    `rows` are the archived rows it concerned, known once it is done.
    """

    id: str
    kind: CorrectionKind
    motes: list[int]
    fields: list[str]
    start_ns: int
    end_ns: int
    reason: str
    author: str
    created_at: dt.datetime
    status: CorrectionStatus = "started"
    rows: int | None = None
    finished_at: dt.datetime | None = None
    undone_at: dt.datetime | None = None
    undone_by: str | None = None


class _Base(DeclarativeBase):
    pass


class _Correction(_Base):
    """The audit of corrections; `details` is the Correction as JSON, so that a later version may know more of it."""

    __tablename__ = "corrections"

    id: Mapped[str] = mapped_column(sa.String(60), primary_key=True)
    created_at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True))
    status: Mapped[str] = mapped_column(sa.String(20))
    details: Mapped[str] = mapped_column(sa.Text)


class _SimulatorPosition(_Base):
    __tablename__ = "simulator_position"

    topic: Mapped[str] = mapped_column(sa.String(200), primary_key=True)
    timestamp: Mapped[int] = mapped_column(sa.BigInteger)
    mote_id: Mapped[int] = mapped_column(sa.Integer)
    emitted: Mapped[int] = mapped_column(sa.BigInteger)
    updated_at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True))


class _Alert(_Base):
    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(sa.Integer, primary_key=True, autoincrement=True)
    subject: Mapped[str] = mapped_column(sa.String(500), index=True)
    title: Mapped[str] = mapped_column(sa.Text)
    text: Mapped[str] = mapped_column(sa.Text)
    level: Mapped[str] = mapped_column(sa.String(20))
    raised_at: Mapped[float] = mapped_column(sa.Double)  # Unix seconds: SQLite gives times back without their zone
    waiting: Mapped[bool] = mapped_column(sa.Boolean, index=True)
    repeats: Mapped[int] = mapped_column(sa.Integer, default=0)
    attempts: Mapped[int] = mapped_column(sa.Integer, default=0)
    failures: Mapped[int] = mapped_column(sa.Integer, default=0)
    retry_at: Mapped[float] = mapped_column(sa.Double, default=0.0)
    last_error: Mapped[str] = mapped_column(sa.Text, default="")
    delivered_to: Mapped[str] = mapped_column(sa.Text, default="")


class State:
    """The operational state of one installation; safe for use by several processes at once."""

    def __init__(self, engine: sa.Engine) -> None:
        """Connect and create the tables that are missing.

        Raises: StateUnavailableError, StateError.
        """
        self._engine = engine
        try:
            with engine.begin() as connection:
                if engine.dialect.name == "postgresql":
                    # Several processes start at once, and "create where missing" is two steps on PostgreSQL.
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATE_LOCK)))
                _Base.metadata.create_all(connection)
        except SQLAlchemyError as error:
            raise _named(error, engine) from error

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The operational state of the settings: `state_url`, else SQLite in the data directory, made if not there.

        Raises: StateUnavailableError, StateError.
        """
        if settings.state_url is not None and settings.state_url.get_secret_value():
            return cls(_server(settings.state_url))
        settings.state_path.parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(f"sqlite:///{settings.state_path}", connect_args={"timeout": _BUSY_SECONDS})
        event.listen(engine, "connect", _set_up_sqlite)
        return cls(engine)

    def simulator_position(self, topic: str) -> SimulatorPosition | None:
        """Where the simulator of `topic` is, or None before its first start."""
        with self._reading() as session:
            row = session.get(_SimulatorPosition, topic)
            return SimulatorPosition(row.timestamp, row.mote_id, row.emitted) if row is not None else None

    def save_simulator_position(self, topic: str, position: SimulatorPosition) -> None:
        """Replace the position of the simulator of `topic`; durable when this returns."""
        row = _SimulatorPosition(topic=topic, updated_at=dt.datetime.now(dt.UTC), **position._asdict())
        with self._writing() as session:
            session.merge(row)

    # -- alerts --------------------------------------------------------------------------------------------------
    def keep_alert(self, alert: NewAlert, cooldown_seconds: float, *, waiting: bool) -> bool:
        """Keep an alert, `waiting` for delivery or not; False where one of its subject was raised within the cooldown.

        That one's repeats are counted instead. Of several processes at once one keeps it.
        """
        now = time.time()
        recent = sa.and_(_Alert.subject == alert.subject, _Alert.raised_at > now - cooldown_seconds)
        newest = sa.select(sa.func.max(_Alert.id)).where(recent).scalar_subquery()
        with self._writing() as session:
            if self._engine.dialect.name == "postgresql":  # SQLite has one writer, from the update on
                session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(alert.subject))))
            counted = session.execute(
                sa.update(_Alert).where(_Alert.id == newest).values(repeats=_Alert.repeats + 1),
                execution_options={"synchronize_session": False},
            )
            if counted.rowcount:  # pyright: ignore[reportAttributeAccessIssue] - an update's result has it
                return False
            session.add(_Alert(**alert._asdict(), raised_at=now, waiting=waiting))
        return True

    def due_alerts(self) -> list[StoredAlert]:
        """Alerts that wait for delivery and whose next attempt is due, oldest first."""
        due = sa.select(_Alert).where(_Alert.waiting, _Alert.retry_at <= time.time()).order_by(_Alert.id)
        with self._reading() as session:
            return [_stored(row) for row in session.scalars(due)]

    def recent_alerts(self, limit: int) -> list[StoredAlert]:
        """The newest alerts, newest first."""
        with self._reading() as session:
            return [_stored(row) for row in session.scalars(sa.select(_Alert).order_by(_Alert.id.desc()).limit(limit))]

    def oldest_alert(self) -> dt.datetime | None:
        """When the oldest alert that is kept was raised; None without any."""
        with self._reading() as session:
            raised = session.scalar(sa.select(sa.func.min(_Alert.raised_at)))
        return dt.datetime.fromtimestamp(raised, dt.UTC) if raised is not None else None

    def save_attempt(
        self, alert_id: int, *, delivered_to: frozenset[str], error: str = "", retry_seconds: float = 0.0
    ) -> None:
        """Keep the outcome of one attempt: who has the alert now, and if not all, why and when to try again."""
        values = {
            "attempts": _Alert.attempts + 1,
            "delivered_to": ",".join(sorted(delivered_to)),
            "waiting": bool(error),
            "failures": _Alert.failures + (1 if error else 0),
            "last_error": error,
            "retry_at": time.time() + retry_seconds,
        }
        with self._writing() as session:
            session.execute(sa.update(_Alert).where(_Alert.id == alert_id).values(values))

    def alert_counts(self) -> AlertCounts:
        """How many alerts there are, by what became of them."""
        counts = sa.select(
            sa.func.count(),
            sa.func.count().filter(_Alert.waiting),
            sa.func.coalesce(sa.func.sum(_Alert.repeats), 0),
            sa.func.coalesce(sa.func.sum(_Alert.failures), 0),
        ).select_from(_Alert)
        with self._reading() as session:
            return AlertCounts(*(int(count) for count in session.execute(counts).one()))

    def forget_alerts(self, before: dt.datetime) -> int:
        """Remove alerts raised before that moment, but for those still waiting; the number removed."""
        old = sa.delete(_Alert).where(_Alert.raised_at < before.timestamp(), sa.not_(_Alert.waiting))
        with self._writing() as session:
            return int(session.execute(old).rowcount)  # pyright: ignore[reportAttributeAccessIssue] - as above

    # -- corrections ---------------------------------------------------------------------------------------------
    def corrections(self) -> list[Correction]:
        """The audit of corrections, oldest first."""
        return self._corrections(sa.select(_Correction).order_by(_Correction.created_at, _Correction.id))

    def correction(self, correction_id: str) -> Correction | None:
        """One correction, or None where there is none of that id."""
        found = self._corrections(sa.select(_Correction).where(_Correction.id == correction_id))
        return found[0] if found else None

    def save_correction(self, correction: Correction) -> None:
        """Add a correction or replace what is known of it; durable when this returns."""
        row = _Correction(
            id=correction.id,
            created_at=correction.created_at,
            status=correction.status,
            details=msgspec.json.encode(correction).decode(),
        )
        with self._writing() as session:
            session.merge(row)

    def _corrections(self, query: "sa.Select[_Correction]") -> list[Correction]:
        with self._reading() as session:
            return [msgspec.json.decode(row.details, type=Correction) for row in session.scalars(query)]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Session]:
        try:
            with Session(self._engine) as session:
                yield session
        except SQLAlchemyError as error:
            raise _named(error, self._engine) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._reading() as session, session.begin():
            yield session

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stored(row: _Alert) -> StoredAlert:
    return StoredAlert(
        id=row.id,
        alert=NewAlert(row.subject, row.title, row.text, msgspec.convert(row.level, AlertLevel)),
        raised_at=dt.datetime.fromtimestamp(row.raised_at, dt.UTC),
        waiting=row.waiting,
        repeats=row.repeats,
        attempts=row.attempts,
        last_error=row.last_error,
        delivered_to=frozenset(filter(None, row.delivered_to.split(","))),
    )


def _server(address: SecretStr) -> sa.Engine:
    try:
        url = sa.make_url(address.get_secret_value())
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() != "postgresql":
        raise StateError("SIEIS_STATE_URL is no address like postgresql+psycopg://user:password@host:5432/database")
    # pre_ping: a server that was restarted costs a new connection, not an error.
    return sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "sieis"},
    )


def _set_up_sqlite(connection, _record: object) -> None:
    # WAL: a reader (the API) never waits for the writer. With it, NORMAL survives a killed process; a power cut can
    # take back the last commits, which leaves a position slightly behind: the readings after it are sent again.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _named(error: SQLAlchemyError, engine: sa.Engine) -> StateError | StateUnavailableError:
    where = engine.url.render_as_string(hide_password=True)
    cause = str(getattr(error, "orig", None) or error).strip()
    if isinstance(error, OperationalError | InterfaceError):
        return StateUnavailableError(f"the operational state at {where} cannot be used now: {cause}")
    return StateError(f"the operational state at {where} is not usable: {cause}; restore it or move it away")
