import json
import subprocess
import sys

import pytest

from sieis_cli.logs import redact

_LOGGING = """
import logging
import structlog
from sieis_cli.logs import configure
early = structlog.get_logger("early")
configure({level!r}, {form!r})
structlog.get_logger("ours").info("stored", rows=3, api_key="k-123", url="s3://id:s3cret@host/bucket")
early.warning("made before configuring")
logging.getLogger("library").warning("says %s", "this")
logging.getLogger("httpx").info("GET everything")
structlog.get_logger("ours").debug("detail")
try:
    password = "p4ssword"
    raise ValueError("broken")
except ValueError:
    structlog.get_logger("ours").exception("failed")
"""


def _lines(level, form):
    code = _LOGGING.format(level=level, form=form)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr


def test_json_away_from_a_terminal_for_our_loggers_and_the_libraries():
    events = [json.loads(line) for line in _lines("info", "auto").splitlines()]
    assert [event["event"] for event in events] == ["stored", "made before configuring", "says this", "failed"]
    assert events[0]["rows"] == 3
    assert events[0]["logger"] == "ours"
    assert events[2]["level"] == "warning"
    assert all(event["timestamp"].endswith("Z") for event in events)


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_masked_and_tracebacks_show_no_variables(form):
    text = _lines("info", form)
    assert "k-123" not in text
    assert "s3cret" not in text
    assert "p4ssword" not in text.replace('password = "p4ssword"', "")
    assert "host/bucket" in text
    assert "ValueError: broken" in text


def test_the_level_is_obeyed():
    assert "detail" in _lines("debug", "json")
    assert "stored" not in _lines("warning", "json")


def test_redact_reaches_nested_values():
    event = {"request": {"Authorization": "Bearer x", "to": ["http://me:pw@a/b"]}, "rows": 1}
    assert redact(None, "info", event) == {
        "request": {"Authorization": "***", "to": ["http://***@a/b"]},
        "rows": 1,
    }
