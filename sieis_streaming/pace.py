"""When readings are due: catching up, live, held, or at a fixed rate, from a clock that tests replace.

Belongs here: arithmetic on time. Not here: readings, brokers, threads.
"""

import threading
import time
from typing import Final

import numpy as np

FAR_FUTURE_NS: Final = 2**63 - 1
_CREDIT_SECONDS: Final = 1.0  # after an idle stretch a limited sender may burst by this much, not by all it left unused


class Clock:
    """The time of this machine; a test's clock overrides all three and never sleeps."""

    def now_ns(self) -> int:
        """Unix nanoseconds, UTC."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Return after `seconds`, or as soon as `wake` is set."""
        wake.wait(seconds)


class Pace:
    """Platform time up to which readings are due.

    From `start_ns` on, time runs at `speed` (or is not held back at all: `unpaced`) until it meets the clock; then it
    is the clock. With `keep_speed` it never is. Held, it stands still, and catches up at `speed` afterwards.
    """

    def __init__(
        self, clock: Clock, start_ns: int, *, speed: float, unpaced: bool = False, keep_speed: bool = False
    ) -> None:
        self._clock, self._unpaced, self._keep_speed = clock, unpaced, keep_speed
        self._speed = speed
        self._live = False
        self._held_at: int | None = None
        self._rebase(start_ns)

    @property
    def live(self) -> bool:
        """Whether the clock has been met."""
        return self._live

    @property
    def held(self) -> bool:
        """Whether time stands still."""
        return self._held_at is not None

    @property
    def speed(self) -> float:
        """Factor over the clock while not live."""
        return self._speed

    @speed.setter
    def speed(self, factor: float) -> None:
        due = self.due_ns()
        self._speed = factor
        if not self._live:
            self._rebase(due)

    def due_ns(self) -> int:
        """Unix nanoseconds of the platform up to and with which readings are due now."""
        if self._held_at is not None:
            return self._held_at
        now = self._clock.now_ns()
        if self._live:
            return now
        if self._unpaced and self._keep_speed:
            return FAR_FUTURE_NS
        elapsed = self._clock.monotonic() - self._origin_seconds
        due = FAR_FUTURE_NS if self._unpaced else self._origin_ns + int(elapsed * self._speed * 1e9)
        if due >= now and not self._keep_speed:
            self._live = True
            return now
        return due

    def hold(self, frontier_ns: int) -> None:
        """Stand still at `frontier_ns`, the last reading emitted (or where time began)."""
        if self._held_at is None:
            self._held_at = frontier_ns

    def release(self) -> None:
        """Go on from where time was held."""
        if self._held_at is not None:
            self._rebase(self._held_at)
            self._held_at = None
            self._live = False

    def _rebase(self, start_ns: int) -> None:
        self._origin_ns, self._origin_seconds = start_ns, self._clock.monotonic()


class Rate:
    """A fixed number of records a second, open loop: the n-th is due at origin + n / rate, come what may."""

    def __init__(self, clock: Clock, per_second: float) -> None:
        self._clock, self._per_second = clock, per_second
        self._origin_ns = clock.now_ns()
        self._origin_seconds = clock.monotonic()
        self._held_since: float | None = None
        self._taken = 0

    def due(self) -> int:
        """Records that are due and not yet taken."""
        now = self._clock.monotonic() if self._held_since is None else self._held_since
        return max(0, int((now - self._origin_seconds) * self._per_second) - self._taken)

    def take(self, count: int) -> np.ndarray:
        """The next `count` moments, Unix nanoseconds, int64: when each record was due, not when it is sent."""
        numbers = np.arange(self._taken, self._taken + count, dtype=np.int64)
        self._taken += count
        return self._origin_ns + (numbers * (1e9 / self._per_second)).astype(np.int64)

    def hold(self) -> None:
        """Stand still: nothing becomes due."""
        if self._held_since is None:
            self._held_since = self._clock.monotonic()

    def release(self) -> None:
        """Go on; the schedule moves by as long as it stood."""
        if self._held_since is not None:
            stood = self._clock.monotonic() - self._held_since
            self._origin_seconds += stood
            self._origin_ns += int(stood * 1e9)
            self._held_since = None


class Limit:
    """At most `per_second` records a second; unused allowance is kept for one second only."""

    def __init__(self, clock: Clock, per_second: float) -> None:
        self._clock, self._per_second = clock, per_second
        self._credit = 0.0
        self._seen = clock.monotonic()

    def allowance(self) -> int:
        """Records that may be sent now."""
        now = self._clock.monotonic()
        self._credit = min(self._credit + (now - self._seen) * self._per_second, self._per_second * _CREDIT_SECONDS)
        self._seen = now
        return int(self._credit)

    def spend(self, count: int) -> None:
        """`count` records were sent."""
        self._credit -= count
