"""What a made-up mote measures: daily cycles of a heated office, a battery that runs down, hours without any reading.

Belongs here: values and gaps of one mote. Not here: injected faults (faults.py), lines and files (generator.py).

Sizes are those of the Intel Lab set. The steps of the converters are found in its values: temperature -38.4 + 0.0098 n
(14 bit, so 122.153 is a converter with all bits set), humidity -4 + 0.0405 n - 2.8e-6 n^2 (Sensirion SHT11 data sheet),
light 0.46 n up to 1847.36, voltage 296.96 / n.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PLATEAU_TEMPERATURE: Final = -38.4 + 0.0098 * 16_383  # 122.153
MAX_LIGHT: Final = 1847.36
WARM_FROM: Final = 40.0  # degC at which a dying mote's ramp begins

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR


@dataclass(frozen=True)
class _Life:
    """One set of batteries; all in seconds since the start of the file."""

    start: float
    warm: float  # first passes 40 degC
    plateau: float  # sticks at 122.153
    silent: float
    dry: float  # humidity sticks at about -4


@dataclass(frozen=True)
class Building:
    """What all motes share: the weather of each day and the outages of the whole network."""

    days: int
    first_day: dt.date
    seed: int
    warmth: Floats  # degC by which each day differs
    clouds: Floats  # share of the sunlight that comes through, by day
    outages: list[tuple[float, float]]

    @classmethod
    def of(cls, days: int, first_day: dt.date, seed: int) -> Self:
        """The building of one seed."""
        rng = np.random.default_rng([seed, 0])
        warmth, clouds = np.empty(days + 1), np.empty(days + 1)
        last = 0.0
        for day in range(days + 1):
            last = 0.7 * last + rng.normal(0, 0.7)
            warmth[day], clouds[day] = last, rng.uniform(0.25, 1.0)
        # As in the real set: 24.5 h from day 11 09:06, 20 h from day 16 16:00; then one about every two weeks.
        outages = [(11 * _DAY + 9.1 * _HOUR, 24.5 * _HOUR), (16 * _DAY + 16 * _HOUR, 20 * _HOUR)]
        at = 30.0
        while at < days:
            outages.append((at * _DAY + rng.uniform(0, 24) * _HOUR, rng.uniform(4, 26) * _HOUR))
            at += rng.uniform(9, 19)
        return cls(days, first_day, seed, warmth, clouds, [(begin, begin + length) for begin, length in outages])


@dataclass(frozen=True)
class Mote:
    """One mote of a building: where it sits, when its batteries end, when it is silent."""

    building: Building
    mote_id: int
    base: float
    amplitude: float
    peak_hour: float
    window: float
    dampness: float
    fresh_voltage: float
    loss: float
    lives: list[_Life]
    outages: list[tuple[float, float]]

    @classmethod
    def of(cls, building: Building, mote_id: int, rng: np.random.Generator) -> Self:
        """The mote `mote_id` as `rng` makes it."""
        end = building.days * _DAY
        lives, start = [], 0.0
        dies_soon = rng.random() < 0.6
        days_to_warm = rng.uniform(15, 31) if dies_soon else rng.uniform(36, 60)
        while start < end:
            warm = start + days_to_warm * _DAY
            plateau = warm + rng.uniform(17, 21) * _HOUR
            silent = plateau + rng.uniform(4, 10) * _DAY
            lives.append(_Life(start, warm, plateau, silent, plateau + rng.uniform(1, 8) * _HOUR))
            start = silent + rng.uniform(1, 5) * _DAY  # somebody changes the batteries
            days_to_warm = rng.uniform(18, 45)
        outages = []
        at = 8.0
        while (at := at + rng.exponential(9)) < building.days:
            outages.append((at * _DAY, at * _DAY + rng.uniform(1, 12) * _HOUR))
        return cls(
            building=building,
            mote_id=mote_id,
            base=rng.normal(20.5, 0.9),
            amplitude=rng.uniform(1.2, 5.0),
            peak_hour=rng.uniform(11.5, 16.0),
            window=rng.uniform(0.05, 1.0),
            dampness=rng.normal(39.0, 2.0),
            fresh_voltage=rng.normal(2.70, 0.02),
            loss=rng.uniform(0.10, 0.40),
            lives=lives,
            outages=outages,
        )

    @property
    def died(self) -> bool:
        """Whether the plateau is reached within the file."""
        return self.lives[0].plateau < self.building.days * _DAY

    @property
    def healthy_until(self) -> float:
        """A day before the first battery goes, in seconds since the start of the file."""
        return self.lives[0].warm - _DAY

    def present(self, rng: np.random.Generator, count: int) -> Bools:
        """Which of `count` readings, one every 30 s, arrive."""
        seconds = np.arange(count) * (self.building.days * _DAY / count)
        knots = rng.normal(0, 0.08, self.building.days * 8 + 2)  # radio links have better and worse hours
        loss = self.loss + np.interp(seconds, np.arange(len(knots)) * 3 * _HOUR, knots)
        present = rng.random(count) >= np.clip(loss, 0.02, 0.95)
        for begin, end in (*self.building.outages, *self.outages, *self._silences()):
            present[np.searchsorted(seconds, begin) : np.searchsorted(seconds, end)] = False
        return present

    def values(self, rng: np.random.Generator, seconds: Floats) -> dict[str, Floats]:
        """The four quantities at `seconds` since the start of the file, as the converters give them."""
        day = (seconds // _DAY).astype(np.int64)
        hour = seconds % _DAY / _HOUR
        weekday = (day + self.building.first_day.weekday()) % 7 < 5
        sun = (
            np.clip(np.sin((hour - 6.5) / 11.5 * np.pi), 0, None)
            * (hour < 18)
            * self.building.clouds[day]
            * self.window
        )
        heated = np.where(weekday, 0.6, 0.0) * np.clip(np.sin((hour - 5) / 16 * np.pi), 0, None)
        cycle = self.amplitude * (0.5 * np.cos((hour - self.peak_hour) / 12 * np.pi) + 0.6 * sun + heated)
        warmth = np.interp(seconds / _DAY, np.arange(len(self.building.warmth)), self.building.warmth)
        true = self.base + cycle + warmth + _slow_noise(rng, seconds, 0.25)
        humidity = self.dampness - 1.6 * (true - self.base) - 0.8 * warmth + _slow_noise(rng, seconds, 0.8)
        humidity += rng.normal(0, 0.08, len(seconds))
        lamps = weekday & (hour > 7.5) & (hour < 19 + (day * 7 + self.mote_id) % 4)
        light = 1.0 + 1600 * sun + np.where(lamps, 180 + 120 * self.window, 0) + 43 * (self.window < 0.3)
        light = light * (1 + rng.normal(0, 0.01, len(seconds)))

        temperature = true + rng.normal(0, 0.03, len(seconds))
        voltage = np.empty(len(seconds))
        ends = [*(life.start for life in self.lives[1:]), np.inf]
        for life, end in zip(self.lives, ends, strict=True):
            of = slice(*np.searchsorted(seconds, (life.start, end)))
            self._age(rng, life, seconds[of], temperature=temperature[of], humidity=humidity[of], voltage=voltage[of])
            voltage[of] += 0.012 * (true[of] - self.base)  # cold batteries give less: the real slope
        return _converted(rng, temperature, humidity, light, voltage)

    def _age(
        self,
        rng: np.random.Generator,
        life: _Life,
        t: Floats,
        *,
        temperature: Floats,
        humidity: Floats,
        voltage: Floats,
    ) -> None:
        """Battery decline of one life, in place: 2.3 V when the mote first passes 40 degC, then the ramp, then the
        plateau."""
        used = np.clip((t - life.start) / (life.warm - life.start), 0, 1)
        after = np.clip((t - life.warm) / _DAY, 0, None)
        voltage[:] = self.fresh_voltage - (self.fresh_voltage - 2.30) * used**1.3 - 0.03 * after
        voltage += rng.normal(0, 0.004, len(t))
        np.clip(voltage, 1.95, None, out=voltage)
        before = np.clip(1 - (life.warm - t) / (3 * _HOUR), 0, 1)  # the last three hours lead up to it
        temperature += before**2 * np.where(t < life.warm, WARM_FROM - temperature, 0)
        ramp = (t >= life.warm) & (t < life.plateau)
        share = (t[ramp] - life.warm) / (life.plateau - life.warm)
        rise = (PLATEAU_TEMPERATURE - WARM_FROM - 1) * share**1.4
        temperature[ramp] = WARM_FROM + rise + np.abs(rng.normal(0, 0.3, len(share)))
        temperature[t >= life.plateau] = PLATEAU_TEMPERATURE
        humidity[t >= life.dry] = -4.0

    def _silences(self) -> list[tuple[float, float]]:
        starts = [life.start for life in self.lives[1:]] + [np.inf]
        return [(life.silent, start) for life, start in zip(self.lives, starts, strict=True)]


def _slow_noise(rng: np.random.Generator, seconds: Floats, size: float) -> Floats:
    """Noise that changes over about an hour."""
    last = seconds[-1] if len(seconds) else 0.0
    knots = rng.normal(0, size, int(last / _HOUR) + 2)
    return np.interp(seconds / _HOUR, np.arange(len(knots)), knots)


def _converted(
    rng: np.random.Generator, temperature: Floats, humidity: Floats, light: Floats, voltage: Floats
) -> dict[str, Floats]:
    """Values as the converters give them, in their steps; a dry humidity sensor shows step 2, at times 0."""
    dry = humidity <= -4.0
    linear, square = 0.0405, 2.8e-6
    steps = np.round((linear - np.sqrt(linear**2 - 4 * square * (np.maximum(humidity, -4.0) + 4))) / (2 * square))
    steps[dry] = np.where(rng.random(int(dry.sum())) < 0.9, 2, 0)
    return {
        "temperature": -38.4 + 0.0098 * np.round((temperature + 38.4) / 0.0098),
        "humidity": -4 + linear * steps - square * steps**2,
        "light": np.clip(np.round(light / 0.46) * 0.46, 0, MAX_LIGHT),
        "voltage": 296.96 / np.round(296.96 / voltage),
    }
