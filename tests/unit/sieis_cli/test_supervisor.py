import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from sieis_cli import supervisor as module
from sieis_cli.supervisor import NotReadyError, Part, PartDiedError, Supervisor, survivors

#: Says that it runs by making a file, then waits; SIGTERM is noted in the file before it ends.
_SERVER = """
import signal, sys, pathlib
mine = pathlib.Path(sys.argv[1])
def stop(*_):
    with (mine.parent / "ends").open("a") as ends:
        ends.write(mine.name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("serving", flush=True)
mine.touch()
signal.pause() if len(sys.argv) < 3 else exec(sys.argv[2])
"""


def _part(folder: Path, name: str, extra: str = "", **options) -> Part:
    mine = folder / name
    command = [sys.executable, "-c", _SERVER, str(mine), *([extra] if extra else [])]
    return Part(name=name, command=command, ready=mine.exists, **options)


@pytest.fixture
def supervise(tmp_path):
    made = []

    def make(*parts):
        made.append(Supervisor(parts, tmp_path / "logs", f"test-{tmp_path.name}-{len(made)}"))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.hurry.set()
        supervisor.stop()
        assert survivors(supervisor.run) == []


def test_stages_start_in_order_and_stop_in_theirs(supervise, tmp_path):
    seen = []
    supervisor = supervise(
        _part(tmp_path, "source", start_stage=1, stop_stage=0),
        _part(tmp_path, "broker", start_stage=0, stop_stage=2),
        _part(tmp_path, "sink", start_stage=1, stop_stage=1),
    )
    supervisor.start(lambda running: seen.append(running.part.name))
    assert seen[0] == "broker"
    assert set(seen[1:]) == {"source", "sink"}
    assert all(running.ready and running.memory_bytes > 1_000_000 for running in supervisor.running)
    supervisor.stop()
    assert (tmp_path / "ends").read_text().split() == ["source", "sink", "broker"]
    assert (tmp_path / "logs" / "broker.log").read_text() == "serving\n"


def test_a_part_that_dies_is_named_with_the_end_of_its_log(supervise, tmp_path):
    fails = Part(
        name="bad",
        command=[sys.executable, "-c", "import sys; print('out of luck', flush=True); sys.exit(3)"],
        ready=lambda: False,
    )
    supervisor = supervise(_part(tmp_path, "good"), fails)
    with pytest.raises(PartDiedError, match=r"(?s)bad ended with exit code 3.*out of luck"):
        supervisor.start()


def test_a_part_killed_while_running_is_noticed(supervise, tmp_path):
    supervisor = supervise(_part(tmp_path, "victim"))
    supervisor.start()
    supervisor.running[0].process.send_signal(signal.SIGKILL)
    with pytest.raises(PartDiedError, match="victim ended by SIGKILL"):
        supervisor.watch()


def test_a_part_that_never_gets_ready_is_an_error(supervise):
    part = Part(
        name="slow",
        command=[sys.executable, "-c", "import signal; signal.pause()"],
        ready=lambda: False,
        ready_seconds=0.5,
    )
    with pytest.raises(NotReadyError, match=r"slow is not ready after 0\.5 s"):
        supervise(part).start()


def test_a_part_that_ignores_sigterm_is_killed_after_the_grace_period(supervise, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.5)
    stubborn = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nmine.rename(mine.with_name('deaf'))\nwhile True: signal.pause()"
    )
    part = Part(
        name="stubborn",
        command=[sys.executable, "-c", _SERVER, str(tmp_path / "stubborn"), stubborn],
        ready=(tmp_path / "deaf").exists,
    )
    supervisor = supervise(part)
    supervisor.start()
    supervisor.stop()
    assert supervisor.running[0].process.returncode == -signal.SIGKILL


def test_a_grandchild_that_left_the_process_group_is_ended_too(supervise, tmp_path):
    away = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)\n"
        "(mine.parent / 'draft').write_text(str(child.pid)); (mine.parent / 'draft').rename(mine.parent / 'child')\n"
        "signal.pause()"
    )
    part = Part(
        name="parent",
        command=[sys.executable, "-c", _SERVER, str(tmp_path / "parent"), away],
        ready=(tmp_path / "child").exists,
    )
    supervisor = supervise(part)
    supervisor.start()
    child = psutil.Process(int((tmp_path / "child").read_text()))
    assert len(survivors(supervisor.run)) == 2
    supervisor.stop()
    assert survivors(supervisor.run) == []
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_being_told_to_stop_ends_the_start(supervise):
    part = Part(name="slow", command=[sys.executable, "-c", "import signal; signal.pause()"], ready=lambda: False)
    supervisor = supervise(part)
    thread = threading.Thread(target=supervisor.start)
    thread.start()
    supervisor.stopping.set()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_a_log_that_grows_too_large_starts_anew_while_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOG_BYTES", 10)
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a long first line\n")
        module._rotate_while_written(log)
        writer.write(b"second\n")
    assert log.read_text() == "second\n"
    assert (tmp_path / "x.log.1").read_text() == "a long first line\n"
