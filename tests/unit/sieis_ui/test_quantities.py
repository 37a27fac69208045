from sieis_platform.reading import QUANTITIES as CONTRACT
from sieis_platform.stores.hot import SHORT_NAMES
from sieis_ui.quantities import QUANTITIES


def test_units_and_plausible_ranges_are_those_of_the_contract():
    assert {name: (q.unit, q.low, q.high) for name, q in QUANTITIES.items()} == {
        name: tuple(q) for name, q in CONTRACT.items()
    }


def test_short_names_are_those_of_the_aggregates():
    assert {name: q.short for name, q in QUANTITIES.items()} == SHORT_NAMES


def test_a_value_is_written_with_its_unit_and_absence_as_a_dash():
    assert QUANTITIES["light"].text(1847.36) == "1,847 lux"
    assert QUANTITIES["voltage"].text(None) == "–"
