"""The four measured quantities as the dashboard shows them: names, units, digits and plausible ranges.

Belongs here: how a value is named, judged and written. Not here: where values come from, or any widget.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Quantity:
    """One quantity: its names (API, aggregates, label, table column), unit, digits, plausible interval."""

    field: str
    short: str
    label: str
    column: str
    unit: str
    digits: int
    low: float
    high: float
    icon: str

    def text(self, value: float | None) -> str:
        """`value` with its unit, or a dash where there is none."""
        return "–" if value is None else f"{value:,.{self.digits}f} {self.unit}"


# The intervals are those of sieis_platform/reading.py, which the dashboard may not import (it is a client of the API);
# tests/unit/sieis_ui/test_quantities.py holds the two together.
QUANTITIES: Final[dict[str, Quantity]] = {
    quantity.field: quantity
    for quantity in (
        Quantity(
            "temperature",
            "temp",
            "Temperature",
            "Temp., °C",
            "°C",
            1,
            -10.0,
            50.0,
            ":material/thermostat:",
        ),
        Quantity(
            "humidity",
            "hum",
            "Humidity",
            "Hum., %RH",
            "%RH",
            1,
            0.0,
            100.0,
            ":material/water_drop:",
        ),
        Quantity(
            "light",
            "light",
            "Light",
            "Light, lux",
            "lux",
            0,
            0.0,
            100_000.0,
            ":material/light_mode:",
        ),
        Quantity(
            "voltage",
            "volt",
            "Battery",
            "Batt., V",
            "V",
            2,
            1.8,
            3.6,
            ":material/battery_full:",
        ),
    )
}

#: Under this a mote's readings go wrong: of the Intel Lab readings below 2.3 V, 92% are impossible.
LOW_BATTERY_VOLTS: Final = 2.3
