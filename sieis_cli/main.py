"""`sieis`: the command line put together from one module a command group.

Belongs here: which commands there are, and how an error or an interrupt ends the process.
Not here: what a command does.
"""

import errno
import os
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from typing import Final

import typer
from typer._click import Command, Context  # typer 0.21 and later carry click inside and export neither name
from typer.core import TyperGroup
from typer.main import get_command

from sieis_platform.errors import FatalError, RetriableError, SieisError

_START: Final = "Start here"
_STREAM: Final = "Stream"
_DATA: Final = "Data"
_SERVE: Final = "Serve and derive"

#: Command -> (module of sieis_cli whose `register` adds it, panel of the help), in the order of the help.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("demo", _START),
    "up": ("up", _START),
    "down": ("up", _START),
    "setup": ("setup", _START),
    "data": ("data", _DATA),
    "load": ("load", _DATA),
    "verify": ("verify", _DATA),
    "correct": ("correct", _DATA),
    "cold": ("cold", _DATA),
    "broker": ("broker", _STREAM),
    "simulate": ("simulate", _STREAM),
    "consume": ("consume", _STREAM),
    "dlq": ("dlq", _STREAM),
    "materialize": ("materialize", _SERVE),
    "dagster": ("dagster", _SERVE),
    "alerts": ("alerts", _SERVE),
    "api": ("api", _SERVE),
}

EX_FATAL: Final = 1
EX_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells do
EX_TEMPFAIL: Final = 75  # sysexits.h: the same command may succeed later

_ADVICE: Final = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again, it goes on where it stopped",
    errno.EDQUOT: "the quota is used up: free some space and run the same command again, it goes on where it stopped",
    errno.EROFS: "set SIEIS_DATA_DIR to a folder that can be written",
    errno.ENOTDIR: "a file stands where a folder is needed: set SIEIS_DATA_DIR to a folder",
    errno.EEXIST: "a file stands where a folder is needed: set SIEIS_DATA_DIR to a folder",
    errno.EACCES: "give this user access, or set SIEIS_DATA_DIR to a folder of its own",
    errno.EPERM: "give this user access, or set SIEIS_DATA_DIR to a folder of its own",
}
"""What to do about errors of the machine that no store or source has explained better."""

_HELP: Final = """\
Sensor readings from the stream to live screens, an open archive and everything derived from them.

[bold]Two commands to begin with[/]

  [cyan]sieis demo[/]   loads history, streams, derives, queries, and says what came out (minutes, ends by itself)
  [cyan]sieis up[/]     runs every part together and prints the addresses; Ctrl-C stops them

[bold]The parts one by one[/], each in its own terminal, in this order

  [cyan]sieis load FILE[/]   history into both stores     [cyan]sieis simulate[/]   readings onto the stream
  [cyan]sieis broker[/]      the embedded broker          [cyan]sieis api[/]        http://127.0.0.1:8000/docs
  [cyan]sieis consume[/]     stream into both stores      [cyan]sieis verify[/]     every position accounted for

Everything is kept under [cyan]SIEIS_DATA_DIR[/] (default ./var). Settings are SIEIS_* variables or lines of .env,
see docs/settings.md. Exit codes: 0 done, 1 a person must act, 2 wrong usage, 75 try again later, 130 interrupted.
"""


class MachineError(FatalError):
    """The machine refuses: disk full, no permission."""


class CommandGroup(TyperGroup):
    """The commands of COMMANDS; a module is imported when its command is run or described, not before."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """The command of that name, imported on first use."""
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            module, panel = COMMANDS[cmd_name]
            part = typer.Typer(rich_markup_mode="rich")
            part.callback()(_nothing)  # makes it a group even where the module adds a single command
            import_module(f"sieis_cli.{module}").register(part)
            for name, command in get_command(part).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
                command.rich_help_panel = COMMANDS.get(name, (module, panel))[1]
                self.commands[name] = command
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        """The command that `args` name; a misspelt one is answered with the names that come near."""
        if args[0] not in COMMANDS:
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _nothing() -> None:
    return None


app = typer.Typer(
    cls=CommandGroup,
    help=_HELP,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sieis {metadata.version('sieis')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    return None


def main() -> None:
    """Run `sieis` with the arguments of this process; never returns.

    A SieisError is told without a traceback and ends with EX_FATAL, or EX_TEMPFAIL where trying again may help. A bug
    keeps its traceback.
    """
    try:
        app()
    except SieisError as error:
        _explain(error)
        sys.exit(EX_TEMPFAIL if isinstance(error, RetriableError) else EX_FATAL)
    except KeyboardInterrupt:
        sys.exit(EX_INTERRUPTED)
    except BrokenPipeError:  # before OSError, which it is
        # The reader (`| head`) has gone. Whatever is still buffered must not raise once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EX_FATAL)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        _explain(MachineError(f"{error.strerror}: {error.filename or 'no file named'}; {advice}"))
        sys.exit(EX_FATAL)


def _explain(error: SieisError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    label = "Not now: " if isinstance(error, RetriableError) else "Error: "
    console.print(Text(label, style="bold red") + Text(str(error), style="red"), soft_wrap=True)
    for note in _notes(error):
        console.print(Text(f"  {note}"), soft_wrap=True)


def _notes(error: BaseException) -> Iterator[str]:
    yield from getattr(error, "__notes__", ())
    if isinstance(error, RetriableError):
        yield "The same command may succeed later."
