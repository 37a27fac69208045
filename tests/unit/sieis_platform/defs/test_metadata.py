"""Tables in the metadata of assets."""

import os
from types import MappingProxyType

import polars as pl
import pytest

from sieis_platform.defs.metadata import markdown


def test_a_table_shows_every_row_and_whole_texts() -> None:
    text = "a reason that is longer than what fits into thirty-two characters"
    shown = markdown(pl.DataFrame({"n": list(range(30)), "value": [0.12345] * 29 + [None], "text": [text] * 30}))
    lines = shown.splitlines()
    assert lines[:3] == ["| n | value | text |", "| --- | --- | --- |", f"| 0 | 0.123 | {text} |"]
    assert lines[-1] == f"| 29 | null | {text} |"
    assert len(lines) == 32


def test_what_would_end_a_cell_does_not() -> None:
    assert markdown(pl.DataFrame({"text": ["a|b\nc"]})).splitlines()[2] == r"| a\|b c |"


def test_a_table_without_rows_has_its_columns() -> None:
    assert markdown(pl.DataFrame(schema={"n": pl.Int64})) == "| n |\n| --- |"


def test_the_environment_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads read it without a lock: changing it in a process that runs may end that process."""
    with monkeypatch.context() as frozen:
        frozen.setattr(os, "environ", MappingProxyType(dict(os.environ)))
        shown = markdown(pl.DataFrame({"n": [1.0]}))
    assert shown.endswith("| 1.0 |")
