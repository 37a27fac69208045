"""The simulator: replays the data set onto the topic under the platform's dates, from its kept position on, for ever.

Belongs here: the loop that joins replay, pace, emitter and position, and what may be asked of it while it runs.
Not here: the control API (control), the command (sieis_cli.simulate).
"""

import datetime as dt
import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import polars as pl
import stamina
import structlog

from sieis_platform.reading import EXPECTED_INTERVAL_SECONDS
from sieis_platform.settings import Settings
from sieis_platform.state import SimulatorPosition, State, StateUnavailableError
from sieis_platform.timeline import Timeline
from sieis_streaming.broker import BrokerUnavailableError
from sieis_streaming.emitter import Emitter
from sieis_streaming.pace import FAR_FUTURE_NS, Clock, Limit, Pace, Rate
from sieis_streaming.replay import Cursor, Days, Replay, day_start

log = structlog.get_logger(__name__)

_CHUNK: Final = 5_000  # records encoded and handed over at once: 5 ms of work, so that a stop or a pause is prompt
_SAVE_SECONDS: Final = 1.0  # at most so much is sent again after a kill
_RATE_TICK_SECONDS: Final = 0.01  # at a fixed rate latency is measured: records wait no longer than this for a tick
_WINDOW_SECONDS: Final = 10  # over which the current rate is taken
_STOP_SECONDS: Final = 5.0  # a stop waits so long for acknowledgements (10 s are allowed in all)
_PATIENCE_SECONDS: Final = 60.0  # a bounded run gives up on a silent broker; an unbounded one waits

Mode = Literal["catching_up", "live", "ahead", "rate"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to emit, and how fast.

    `motes` are the lowest ids of the data set; with `copies` (and at a `rate`) motes are repeated where it has fewer.
    `speed` is the factor over the clock while catching up (`unpaced`: as fast as it can), 1 afterwards, unless
    `keep_speed`. `rate` instead stamps readings with the moments of a fixed schedule, records a second. `start` (a
    platform date) overrides the kept position; `until_ns` (platform time, exclusive) and `max_records` end the run.
    `max_rate` bounds records a second.
    """

    motes: int
    copies: bool = False
    speed: float = 1.0
    unpaced: bool = False
    keep_speed: bool = False
    rate: float | None = None
    start: dt.date | None = None
    until_ns: int | None = None
    max_records: int | None = None
    max_rate: float | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        motes: int | None = None,
        speed: float | None = None,
        unpaced: bool = False,
        keep_speed: bool = False,
        rate: float | None = None,
        start: dt.date | None = None,
        until_ns: int | None = None,
        max_records: int | None = None,
        now_ns: int | None = None,
    ) -> "Plan":
        """A plan with what is not given taken from the settings; `now_ns` is the present, for tests.

        On the embedded broker, which forgets what nobody reads in time, the rate is bounded unless `rate` or `unpaced`.
        A stretch that lies wholly in the past is replayed as fast as that allows: there is no clock to meet.
        """
        bounded = settings.embedded_broker and rate is None and not unpaced
        past = until_ns is not None and until_ns <= (Clock().now_ns() if now_ns is None else now_ns)
        return cls(
            motes=motes or settings.simulator_motes,
            copies=motes is not None,
            speed=speed or settings.simulator_speed,
            unpaced=unpaced or (past and speed is None),
            keep_speed=keep_speed,
            rate=rate,
            start=start,
            until_ns=until_ns,
            max_records=max_records,
            max_rate=settings.simulator_embedded_rate if bounded else None,
        )

    @property
    def bounded(self) -> bool:
        """Whether the run ends by itself."""
        return self.until_ns is not None or self.max_records is not None

    def fleet(self, available: int) -> int:
        """Motes emitted where the data set has `available`.

        At a fixed rate as many as it takes for each to report once in 30 s of its (sped up) time.
        """
        own = self.motes if self.copies else min(self.motes, available)
        return own if self.rate is None else max(own, math.ceil(self.rate * EXPECTED_INTERVAL_SECONDS / self.speed))


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What one run has done; `records` are acknowledged ones, `position` is the timestamp of the last of them."""

    records: int
    seconds: float
    records_per_second: float
    motes: int
    first_timestamp: str | None
    position: str | None
    stopped: bool


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The simulator as the control API shows it; `lag_seconds` is how far the next reading lies behind the clock."""

    mode: Mode
    paused: bool
    speed: float
    keep_speed: bool
    position: str | None
    platform_day: dt.date
    dataset_day: dt.date | None
    motes: int
    emitted: int
    delivered: int
    outstanding: int
    records_per_second: float
    lag_seconds: float
    broker: str | None


class Simulator:
    """One run of the simulator. `run` belongs to one thread; the other methods may be called from any.

    The position is saved once a second and at the end, always behind the last acknowledged reading. After a kill the
    readings since are sent again: at least once, as identical duplicates, which the consumer drops.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        days: Days,
        timeline: Timeline,
        state: State,
        *,
        clock: Clock | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Find the place to start at. Raises: NothingToEmitError, StateUnavailableError."""
        self._settings, self._plan, self._state = settings, plan, state
        self._clock = clock or Clock()
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._emitter: Emitter | None = None
        kept = state.simulator_position(settings.kafka_topic)
        self._emitted_before = kept.emitted if kept else 0
        start = self._start(kept, timeline)
        self._frontier = start.timestamp
        # At a fixed rate the data set lends its values only: they come from today's readings on, whatever the position.
        values_from = start if plan.rate is None or plan.start is not None else day_start(self._today())
        self._replay = Replay(days, timeline, plan.fleet(len(days.motes)), values_from)
        self._rate = Rate(self._clock, plan.rate) if plan.rate is not None else None
        # Time begins at the next reading: a restart inside an outage does not wait through the outage again.
        begin = max(start.timestamp, self._replay.next_timestamp or 0)
        self._pace = Pace(
            self._clock,
            begin,
            speed=plan.speed,
            unpaced=plan.unpaced,
            keep_speed=plan.keep_speed,
        )
        self._limit = Limit(self._clock, plan.max_rate) if plan.max_rate is not None else None
        self._taken = 0
        self._first: int | None = None
        self._saved: Cursor | None = None
        self._next_save = self._next_tick = self._clock.monotonic()
        self._window: deque[tuple[float, int]] = deque([(self._next_save, 0)], maxlen=_WINDOW_SECONDS + 1)

    # -- from any thread -----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the run soon."""
        self._stop.set()

    def pause(self) -> None:
        """Emit nothing until `resume`."""
        with self._lock:
            upcoming = self._replay.next_timestamp
            self._pace.hold(min(self._pace.due_ns(), FAR_FUTURE_NS if upcoming is None else upcoming))
            if self._rate is not None:
                self._rate.hold()

    def resume(self) -> None:
        """Go on after a pause: catching up at the speed, and at a fixed rate with a schedule that has moved."""
        with self._lock:
            self._pace.release()
            if self._rate is not None:
                self._rate.release()

    def set_speed(self, factor: float) -> None:
        """Change the factor of catching up (and of going on, with `keep_speed`)."""
        with self._lock:
            self._pace.speed = factor

    def status(self) -> Status:
        """Where the run is."""
        with self._lock:
            emitter = self._emitter
            upcoming = self._replay.next_timestamp
            late = self._clock.now_ns() - upcoming if upcoming is not None and self._rate is None else 0
            (since, before), (until, after) = self._window[0], self._window[-1]
            return Status(
                mode=self._mode(),
                paused=self._pace.held,
                speed=self._pace.speed,
                keep_speed=self._plan.keep_speed,
                position=_iso(emitter.cursor) if emitter else None,
                platform_day=self._replay.day,
                dataset_day=self._replay.dataset_day,
                motes=len(self._replay.motes),
                emitted=self._taken,
                delivered=emitter.delivered if emitter else 0,
                outstanding=emitter.outstanding if emitter else 0,
                records_per_second=round((after - before) / (until - since), 1) if until > since else 0.0,
                lag_seconds=round(max(0, late) / 1e9, 3),
                broker=emitter.address.bootstrap if emitter else None,
            )

    # -- the run -------------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        """Emit until the plan is done, nothing is left, or `stop`.

        Raises: BrokerUnavailableError, DeliveryError; StateUnavailableError where the last position cannot be saved.
        """
        started = self._clock.monotonic()
        patience = _PATIENCE_SECONDS if self._plan.bounded else None
        try:
            emitter = Emitter(self._settings, self._stop, patience_seconds=patience)
        except BrokerUnavailableError:
            if self._stop.is_set():
                return self._summary(started)
            raise
        with self._lock:
            self._emitter = emitter
            if self._plan.rate is not None:
                self._rate = Rate(self._clock, self._plan.rate)  # due from now on, not while looking for the broker
                if self._pace.held:
                    self._rate.hold()
        log.info(
            "simulator started",
            position=_iso_ns(self._frontier),
            motes=len(self._replay.motes),
            mode=self._mode(),
        )
        try:
            while not self._stop.is_set():
                with self._lock:
                    frame = self._take()
                if frame is not None:
                    emitter.send(frame)
                emitter.serve()
                self._housekeep()
                if self._done():
                    break
                if not self._more(frame):
                    self._wait()
            self._finish(emitter)
        finally:
            emitter.close()
            # Nobody saves it after us: a state that is busy right now is asked again, for about two seconds.
            stamina.retry(on=StateUnavailableError, attempts=6, wait_jitter=0.1)(self._save)()
        return self._summary(started)

    def _take(self) -> pl.DataFrame | None:
        if self._pace.held:
            return None
        room = _CHUNK
        if self._plan.max_records is not None:
            room = min(room, self._plan.max_records - self._taken)
        if self._limit is not None:
            room = min(room, self._limit.allowance())
        if self._rate is not None:
            room = min(room, self._rate.due())
        if room <= 0:
            return None
        due = FAR_FUTURE_NS if self._rate is not None else self._pace.due_ns()
        if self._plan.until_ns is not None and self._rate is None:
            due = min(due, self._plan.until_ns - 1)
        frame = self._replay.upto(due, room)
        if frame is None:
            return None
        if self._rate is not None:
            frame = frame.with_columns(pl.Series("timestamp", self._rate.take(len(frame))))
        if self._limit is not None:
            self._limit.spend(len(frame))
        self._taken += len(frame)
        if self._first is None:
            self._first = frame[0, "timestamp"]
        self._frontier = frame[-1, "timestamp"]
        return frame

    def _more(self, frame: pl.DataFrame | None) -> bool:
        """Whether readings are due that only the size of a chunk or the end of a day held back."""
        if frame is None:
            return False
        if len(frame) == _CHUNK:
            return True
        upcoming = self._replay.next_timestamp
        if self._limit is not None or self._rate is not None or upcoming is None:
            return False
        return upcoming <= self._pace.due_ns()

    def _done(self) -> bool:
        if self._plan.max_records is not None and self._taken >= self._plan.max_records:
            return True
        upcoming = self._replay.next_timestamp
        if upcoming is None:
            log.info("the data set has no further readings", last=_iso_ns(self._frontier))
            return True
        if self._plan.until_ns is None:
            return False
        return (self._clock.now_ns() if self._rate is not None else upcoming) >= self._plan.until_ns

    def _wait(self) -> None:
        """Until the next tick of an absolute schedule; ticks missed are not made up for."""
        interval = self._settings.simulator_interval_seconds
        if self._rate is not None:
            interval = min(interval, _RATE_TICK_SECONDS)
        now = self._clock.monotonic()
        self._next_tick = max(self._next_tick + interval, now)
        if self._next_tick > now:
            self._clock.wait(self._stop, self._next_tick - now)

    def _housekeep(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_save and self._emitter is not None:
            self._next_save = now + _SAVE_SECONDS
            self._window.append((now, self._emitter.delivered))
            try:
                self._save()
            except StateUnavailableError as error:
                # Tried again in a second; a kill until then has more sent again.
                log.warning("position not saved", error=str(error))

    def _finish(self, emitter: Emitter) -> None:
        if self._stop.is_set():
            if not emitter.flush(_STOP_SECONDS):
                log.warning(
                    "stopped with readings unacknowledged; the next run sends them",
                    records=emitter.outstanding,
                )
            return
        while not emitter.flush(_PATIENCE_SECONDS):
            log.warning("waiting for acknowledgements", records=emitter.outstanding)

    def _save(self) -> None:
        cursor = self._emitter.cursor if self._emitter is not None else None
        if self._emitter is None or cursor is None or cursor == self._saved:
            return
        emitted = self._emitted_before + self._emitter.delivered
        self._state.save_simulator_position(
            self._settings.kafka_topic,
            SimulatorPosition(cursor.timestamp, cursor.mote_id, emitted),
        )
        self._saved = cursor

    def _start(self, kept: SimulatorPosition | None, timeline: Timeline) -> Cursor:
        if self._plan.start is not None:
            return day_start(self._plan.start)
        if kept is not None:
            ahead = (kept.timestamp - self._clock.now_ns()) / 1e9
            if ahead > 0 and not self._plan.keep_speed:
                log.warning(
                    "position ahead of the clock: nothing until then; --from starts elsewhere",
                    seconds=ahead,
                )
            return Cursor(kept.timestamp, kept.mote_id)
        # History owns the dates before the anchor; a first start never goes there by itself.
        first = max(timeline.anchor, self._today()) if self._settings.filter_today_only else timeline.anchor
        return day_start(first)

    def _today(self) -> dt.date:
        return dt.datetime.fromtimestamp(self._clock.now_ns() / 1e9, dt.UTC).date()

    def _mode(self) -> Mode:
        if self._rate is not None:
            return "rate"
        if self._pace.live:
            return "live"
        return "ahead" if self._frontier > self._clock.now_ns() else "catching_up"

    def _summary(self, started: float) -> Summary:
        seconds = self._clock.monotonic() - started
        records = self._emitter.delivered if self._emitter else 0
        return Summary(
            records=records,
            seconds=round(seconds, 3),
            records_per_second=round(records / seconds, 1) if seconds > 0 else 0.0,
            motes=len(self._replay.motes),
            first_timestamp=_iso_ns(self._first) if self._first is not None else None,
            position=_iso(self._emitter.cursor) if self._emitter else None,
            stopped=self._stop.is_set(),
        )


def _iso(cursor: Cursor | None) -> str | None:
    return _iso_ns(cursor.timestamp) if cursor is not None else None


def _iso_ns(timestamp: int) -> str:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=timestamp // 1_000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
