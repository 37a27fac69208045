"""SIEIS_TEST_REQUIRE=1: where everything is there, a skipped test is a failed one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = """
import pytest

def test_of_something_that_is_not_here():
    pytest.skip("no server")

@pytest.mark.xfail(reason="known", strict=True)
def test_of_a_known_defect():
    raise AssertionError
"""


@pytest.mark.parametrize(("required", "said", "code"), [("1", "1 failed", 1), ("", "1 skipped", 0)])
def test_a_skip_counts_as_a_failure_where_nothing_may_be_missing(
    tmp_path: Path, required: str, said: str, code: int
) -> None:
    (tmp_path / "test_it.py").write_text(SKIPPED)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SIEIS_TEST_REQUIRE": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said in done.stdout, "1 xfailed" in done.stdout, done.returncode) == (True, True, code), done.stdout
    assert ("no server" in done.stdout) == bool(required)
