import os
import subprocess
import sys

import pytest
import typer

from sieis_cli import main as cli
from sieis_platform.errors import FatalError, RetriableError


def _run(*arguments, code=None, **environment):
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "sieis_cli", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIEIS_")}
    return subprocess.run(
        command,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _raising(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code


def test_help_teaches_and_lists_every_command():
    done = _run("--help")
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert f" {name} " in done.stdout
    assert "sieis demo" in done.stdout
    assert "Exit codes" in done.stdout


def test_help_imports_no_heavy_library():
    heavy = [
        "polars",
        "pyarrow",
        "duckdb",
        "deltalake",
        "dagster",
        "mlflow",
        "pandas",
        "sklearn",
        "fastapi",
        "streamlit",
    ]
    code = f"""
import sys
from sieis_cli.main import main
sys.argv = ["sieis", "--help"]
try:
    main()
except SystemExit:
    print("LOADED", [name for name in {heavy!r} if name in sys.modules])
"""
    assert "LOADED []" in _run(code=code).stdout


def test_version():
    done = _run("--version")
    assert done.returncode == 0
    assert done.stdout.split()[0] == "sieis"


def test_a_misspelt_command_is_answered_with_the_right_one():
    done = _run("brokr")
    assert done.returncode == 2
    assert "broker" in done.stderr


def test_a_fatal_error_is_told_without_traceback(monkeypatch, capsys):
    assert _raising(monkeypatch, FatalError("the file is [gone]; look elsewhere")) == 1
    told = capsys.readouterr().err
    assert "the file is [gone]; look elsewhere" in told
    assert "Traceback" not in told


def test_a_retriable_error_has_its_own_exit_code(monkeypatch, capsys):
    assert _raising(monkeypatch, RetriableError("no broker")) == os.EX_TEMPFAIL
    assert "may succeed later" in capsys.readouterr().err


def test_an_interrupt_ends_as_shells_expect(monkeypatch):
    assert _raising(monkeypatch, KeyboardInterrupt()) == 130


def test_a_full_disk_is_explained(monkeypatch, capsys):
    assert _raising(monkeypatch, OSError(28, "No space left on device", "/data/x")) == 1
    assert "/data/x; the disk is full" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m sieis_cli --help | head -n 1", shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr


def test_wrong_settings_are_named_without_their_values():
    done = _run("down", SIEIS_API_PORT="70123", SIEIS_LOG_LEVEL="verbose-secret")
    assert done.returncode == 1
    assert "SIEIS_API_PORT: " in done.stderr
    assert "SIEIS_LOG_LEVEL: " in done.stderr
    assert "70123" not in done.stderr
    assert "verbose-secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_module_adds_exactly_the_commands_the_registry_names():
    context = typer.Context(typer.main.get_command(cli.app))
    group = typer.main.get_command(cli.app)
    for name in cli.COMMANDS:
        assert group.get_command(context, name) is not None, name
    assert set(group.commands) == set(cli.COMMANDS)
