"""Crash points: the process dies there and nowhere else, without any clean-up."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sieis_platform import crash
from sieis_platform.crash import CrashPointError

PACKAGES = Path(__file__).parents[3]

SCRIPT = """
import atexit, sys
from sieis_platform import crash
atexit.register(lambda: print("cleaned up", flush=True))
crash.arm(sys.argv[1])
for number in range(3):
    try:
        crash.point("load.before_hot")
        print("passed", number, flush=True)
        crash.point("load.after_hot")
    finally:
        print("left", number, flush=True)
"""


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    crash.arm("")


def run(spec: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, spec], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_it_dies_at_the_point_and_nothing_is_cleaned_up() -> None:
    assert run("load.after_hot") == (-signal.SIGKILL, ["passed 0"])


def test_it_dies_at_the_nth_pass() -> None:
    assert run("load.after_hot:2") == (-signal.SIGKILL, ["passed 0", "left 0", "passed 1"])


def test_it_freezes_at_the_nth_pass_once_and_goes_on_where_it_was() -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "load.after_hot:2:stop"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == [b"passed 0\n", b"left 0\n", b"passed 1\n"]
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert (os.WIFSTOPPED(status), os.WSTOPSIG(status)) == (True, signal.SIGSTOP)
    process.send_signal(signal.SIGCONT)
    assert process.communicate()[0] == b"left 1\npassed 2\nleft 2\ncleaned up\n"
    assert process.returncode == 0


def test_unarmed_nothing_happens() -> None:
    assert run("") == (0, [*(f"{what} {n}" for n in range(3) for what in ("passed", "left")), "cleaned up"])


@pytest.mark.parametrize(
    "spec", ["nowhere", "load.after_hot:x", "load.after_hot:-1", "load.after_hot:1:2", "load.after_hot:on"]
)
def test_a_point_that_does_not_exist_is_refused_with_those_that_do(spec: str) -> None:
    with pytest.raises(CrashPointError, match=r"archive\.after_commit"):
        crash.arm(spec)


def test_every_point_is_passed_somewhere_and_no_other_is() -> None:
    code = "\n".join(
        path.read_text() for name in ("sieis_platform", "sieis_streaming") for path in (PACKAGES / name).rglob("*.py")
    )
    named = {part.split('"')[0] for part in code.split('crash.point("')[1:]}
    assert named == set(crash.POINTS)
