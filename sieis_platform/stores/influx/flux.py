"""Flux text. Belongs here: the one function through which a value gets into a query, and the queries themselves.

InfluxDB OSS 2 has no query parameters: names come from allow-lists, values are rendered by `render` and nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sieis_platform.errors import FatalError
from sieis_platform.reading import FIELDS
from sieis_platform.stores.influx.lines import AGGREGATE_FIELDS, AGGREGATES, PRESENT, READINGS, UPDATED

#: The time range of InfluxDB (models.MinNanoTime, models.MaxNanoTime).
MIN_NS: Final = -(2**63) + 2
MAX_NS: Final = 2**63 - 2

COLUMNS: Final = frozenset({"_measurement", "_field", "mote_id"})
_NAMES: Final = frozenset({READINGS, *AGGREGATES.values(), *FIELDS, *AGGREGATE_FIELDS, PRESENT, UPDATED})
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


class FluxError(FatalError):
    """A value that must not get into a query."""


@dataclass(frozen=True)
class Instant:
    """Unix nanoseconds, clipped to the range of InfluxDB."""

    ns: int


@dataclass(frozen=True)
class OneOf:
    """The predicate that a column has one of these values."""

    column: str
    values: tuple[str | int, ...]


Value = str | int | Instant | OneOf


def render(template: str, **values: Value) -> str:
    """`template` with each {name} replaced by the Flux literal (or predicate) of its value.

    Raises: FluxError for a value of another type, a column or name that is not in the allow-list.
    """
    return _PLACEHOLDER.sub(lambda match: _literal(values[match[1]]), template)


def predicate(measurement: str, mote_id: int | None = None) -> str:
    """The predicate of the delete API for one measurement, of one mote or of all.

    Raises: FluxError for a measurement that is not in the allow-list.
    """
    if measurement not in (READINGS, *AGGREGATES.values()):
        raise FluxError(f"{measurement[:100]!r} is not a measurement of SIEIS")
    whole = f'_measurement="{measurement}"'
    return whole if mote_id is None else f'{whole} AND mote_id="{int(mote_id)}"'


def _literal(value: Value) -> str:
    match value:
        case bool():
            pass
        case str():
            # Every other character as its bytes: no quote, backslash, line end or ${interpolation} is left to think of.
            quoted = "".join(
                character if _PLAIN.fullmatch(character) else "".join(f"\\x{byte:02x}" for byte in character.encode())
                for character in value
            )
            return f'"{quoted}"'
        case int():
            if -(2**63) <= value < 2**63:
                return str(int(value))
        case Instant():
            return f"time(v: {int(min(max(value.ns, MIN_NS), MAX_NS))})"
        case OneOf():
            return _one_of(value)
    raise FluxError(f"a {type(value).__name__} cannot be part of a query")


def _one_of(predicate: OneOf) -> str:
    column, values = predicate.column, predicate.values
    if column not in COLUMNS:
        raise FluxError("a query may ask for the measurement, field and mote only")
    if column == "mote_id":
        texts = [str(value) for value in values if isinstance(value, int) and not isinstance(value, bool)]
    else:
        texts = [value for value in values if isinstance(value, str) and value in _NAMES]
    if not texts or len(texts) < len(values):
        raise FluxError(f"{column} is asked for with nothing, or with a value it cannot have")
    if len(texts) == 1:
        return f'r.{column} == "{texts[0]}"'
    # One node whatever their number, and InfluxDB resolves it on its index. Letters, digits and _ only by now.
    return f"r.{column} =~ /^({'|'.join(texts)})$/"


_FROM: Final = (
    "from(bucket: {bucket}) |> range(start: {start}, stop: {stop})"
    " |> filter(fn: (r) => {measurement}) |> filter(fn: (r) => {fields})"
)
_MOTES: Final = " |> filter(fn: (r) => {motes})"
_KEEP: Final = ' |> keep(columns: ["_time", "_value", "_field", "mote_id"])'

_DAILY: Final = {
    name: f' |> aggregateWindow(every: 1d, fn: {name}, createEmpty: false, timeSrc: "_start")'
    for name in ("count", "sum")
}


@dataclass(frozen=True)
class Selection:
    """Fields of one measurement in start_ns <= time < end_ns, of all motes or of some (not of none)."""

    bucket: str
    measurement: str
    fields: tuple[str, ...]
    start_ns: int
    end_ns: int
    mote_ids: Sequence[int] | None = None

    def all(self) -> str:
        """Every value: _time, _value, _field, mote_id."""
        return self._text() + _KEEP

    def first(self) -> str:
        """The first value of each series."""
        return self._text() + " |> first()" + _KEEP

    def last(self) -> str:
        """The last value of each series, as text (fields of several types in one table)."""
        return self._text() + " |> last()" + _KEEP + " |> toString()"

    def count(self) -> str:
        """The number of values of each series: _value, mote_id."""
        return self._text() + ' |> count() |> keep(columns: ["_value", "mote_id"])'

    def daily(self, function: Literal["count", "sum"]) -> str:
        """The number or the sum of the values of each series and day (UTC): _time is the start of the day."""
        return self._text() + _DAILY[function] + _KEEP

    def _text(self) -> str:
        text = render(
            _FROM,
            bucket=self.bucket,
            start=Instant(self.start_ns),
            stop=Instant(self.end_ns),
            measurement=OneOf("_measurement", (self.measurement,)),
            fields=OneOf("_field", self.fields),
        )
        if self.mote_ids is None:
            return text
        return text + render(_MOTES, motes=OneOf("mote_id", tuple(int(mote) for mote in dict.fromkeys(self.mote_ids))))
