"""Writes .env.example and the settings, cli and dagster pages of docs/ from the code: `python -m tools.docs`.

Belongs here: rendering. Not here: any text about a setting or a command, which stands in the code itself.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from rich.console import Console
from typer.cli import get_docs_for_click
from typer.core import MARKUP_MODE_KEY, TyperGroup
from typer.main import get_command

from sieis_cli.main import app
from sieis_platform.settings import Settings
from sieis_ui.config import UiSettings

ROOT: Final = Path(__file__).resolve().parents[1]
_SECTION: Final = re.compile(r"^    # -- (?P<title>.+?) -+$")
_FIELD: Final = re.compile(r"^    (?P<name>[a-z][a-z0-9_]*): ")


def sections() -> dict[str, dict[str, FieldInfo]]:
    """The settings by the section headings of Settings' source, in its order; then those the dashboard alone has."""
    found: dict[str, dict[str, FieldInfo]] = {}
    title = ""
    for line in inspect.getsource(Settings).splitlines():
        if heading := _SECTION.match(line):
            title = heading["title"]
        elif (field := _FIELD.match(line)) and field["name"] in Settings.model_fields:
            found.setdefault(title, {})[field["name"]] = Settings.model_fields[field["name"]]
    ours = {name for fields in found.values() for name in fields}
    found["dashboard"] = {name: field for name, field in UiSettings.model_fields.items() if name not in ours}
    return found


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"SIEIS_{name.upper()}"


def default(field: FieldInfo) -> str:
    """A setting's default as it would be written into `.env`; empty for none and for secrets."""
    value: Any = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, SecretStr):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def render_env_example() -> str:
    """`.env.example`: every setting, commented out, with its default."""
    lines = [
        "# Every setting of SIEIS with its default. Copy to `.env` and uncomment what you change; a variable of the",
        "# environment wins over `.env`. Made from sieis_platform/settings.py by `make docs`: do not edit.",
    ]
    for title, fields in sections().items():
        lines += ["", f"# -- {title} --"]
        lines += [f"# {variable(name)}={default(field)}  # {field.description}" for name, field in fields.items()]
    return "\n".join(lines) + "\n"


def render_settings() -> str:
    """`docs/settings.md`: a table of the settings for each section."""
    lines = [
        "# Settings",
        "",
        "Each is an environment variable or a line of `.env` in the working directory (the environment wins). An empty",
        "default means: none, and the description says what happens then. Made by `make docs` from",
        "`sieis_platform/settings.py`; `sieis` names a value it cannot use before it does anything.",
    ]
    for title, fields in sections().items():
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", "| setting | default | what it does |", "|---|---|---|"]
        for name, field in fields.items():
            shown = f"`{default(field)}`" if default(field) else ""
            description = (field.description or "").replace("|", r"\|")
            lines.append(f"| `{variable(name)}` | {shown} | {description} |")
    return "\n".join(lines) + "\n"


def render_cli() -> str:
    """`docs/cli.md`: every command with its arguments and options."""
    command = get_command(app)
    text = get_docs_for_click(
        obj=command,
        ctx=typer.Context(command, info_name="sieis", obj={MARKUP_MODE_KEY: None}),
        name="sieis",
        title="Commands",
    )
    body = _without_markup(_with_whole_summaries(text.removeprefix("# Commands\n\n"), command))
    note = "Made by `make docs` from the commands themselves; `sieis COMMAND --help` shows the same.\n\n"
    return "# Commands\n\n" + note + body.rstrip() + "\n"


def _with_whole_summaries(text: str, command: Any) -> str:
    """The library cuts the one-line help in lists of commands: put the whole first paragraph there."""
    for first in _first_paragraphs(command):
        cut = " ".join(first.split()[:3])
        text = re.sub(rf"(?m)^(\* `\w+`: ){re.escape(cut)}.*\.\.\.$", lambda found, first=first: found[1] + first, text)
    return text


def _first_paragraphs(command: Any) -> Iterator[str]:
    for child in (command.get_command(None, name) for name in command.list_commands(None)):
        yield " ".join((child.help or "").split("\n\n")[0].split())
        if isinstance(child, TyperGroup):
            yield from _first_paragraphs(child)


def _without_markup(text: str) -> str:
    return re.sub(r"\[(/|/?bold|/?cyan|/?dim|/?green|/?red|/?yellow)\]", "", text)


def render_dagster() -> str:
    """`docs/dagster.md`: every asset, check, job, schedule and sensor."""
    from tools import dagster_docs  # noqa: PLC0415 - Dagster takes seconds to import

    return dagster_docs.render()


DOCUMENTS: Final = {
    ".env.example": render_env_example,
    "docs/settings.md": render_settings,
    "docs/cli.md": render_cli,
    "docs/dagster.md": render_dagster,
}


def main() -> None:
    """Write every document whose text has changed."""
    console = Console()
    for path, render in DOCUMENTS.items():
        target, text = ROOT / path, render()
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
            console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
