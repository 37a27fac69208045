"""Operational state: what SIEIS must remember between runs that is no reading: the simulator's position, corrections.

Belongs here: tables, and the reads and writes on them, in SQLite or PostgreSQL. Not here: who decides what is
remembered.
"""

import datetime as dt
from typing import Final, Literal, NamedTuple, Self

import msgspec
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sieis_platform.errors import FatalError, RetriableError
from sieis_platform.settings import Settings

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
        try:
            with Session(self._engine) as session:
                row = session.get(_SimulatorPosition, topic)
                return SimulatorPosition(row.timestamp, row.mote_id, row.emitted) if row is not None else None
        except SQLAlchemyError as error:
            raise _named(error, self._engine) from error

    def save_simulator_position(self, topic: str, position: SimulatorPosition) -> None:
        """Replace the position of the simulator of `topic`; durable when this returns."""
        row = _SimulatorPosition(topic=topic, updated_at=dt.datetime.now(dt.UTC), **position._asdict())
        try:
            with Session(self._engine) as session, session.begin():
                session.merge(row)
        except SQLAlchemyError as error:
            raise _named(error, self._engine) from error

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
        try:
            with Session(self._engine) as session, session.begin():
                session.merge(row)
        except SQLAlchemyError as error:
            raise _named(error, self._engine) from error

    def _corrections(self, query: "sa.Select[_Correction]") -> list[Correction]:
        try:
            with Session(self._engine) as session:
                return [msgspec.json.decode(row.details, type=Correction) for row in session.scalars(query)]
        except SQLAlchemyError as error:
            raise _named(error, self._engine) from error

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
