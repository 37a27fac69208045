"""`sieis data`: what the commands write and print."""

import datetime as dt
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sieis_cli.data import _ranges, register
from sieis_platform.sources.profiles import profile


def run(*args: str) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["data", *args], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_generate_then_profile(tmp_path: Path) -> None:
    out, labels = tmp_path / "made.txt.gz", tmp_path / "labels.csv"
    said = run(
        "generate", "--motes", "2", "--days", "3", "--first-day", "2005-01-30", "--labels", str(labels), str(out)
    )
    found = profile(out)
    assert (found.motes, found.days, found.first_day) == ([1, 2], 3, dt.date(2005, 1, 30))
    assert f"{found.lines:,}" in said
    assert labels.read_text().startswith("mote_id,timestamp,fault,start,end\n")
    table = run("profile", str(out))
    assert f"{found.readings:,}" in table
    assert "2005-01-30 to 2005-02-01" in table
    assert json.loads(run("profile", "--json", str(out)))["fingerprint"] == found.fingerprint


@pytest.mark.parametrize(("ids", "text"), [([], ""), ([7], "7"), ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10")])
def test_mote_ids_are_shown_as_ranges(ids: list[int], text: str) -> None:
    assert _ranges(ids) == text
