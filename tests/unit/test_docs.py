"""The documentation made from the code is up to date, and nothing in the code is undocumented."""

import re

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from sieis_cli.main import COMMANDS, app
from sieis_platform.settings import Settings
from sieis_ui.config import UiSettings
from tools import docs


@pytest.mark.parametrize("path", docs.DOCUMENTS)
def test_generated_documents_are_up_to_date(path):
    assert (docs.ROOT / path).read_text() == docs.DOCUMENTS[path](), f"{path} is stale: run `make docs`"


def test_every_setting_is_described_and_belongs_to_a_section():
    fields = {name: field for section in docs.sections().values() for name, field in section.items()}
    assert set(fields) == set(Settings.model_fields) | set(UiSettings.model_fields)
    assert [name for name, field in fields.items() if not field.description] == []


def test_env_example_names_every_setting_and_gives_none_a_value():
    lines = (docs.ROOT / ".env.example").read_text().splitlines()
    assert all(not line or line.startswith("#") for line in lines)
    named = {match[1] for line in lines if (match := re.match(r"# (SIEIS_\w+)=", line))}
    assert named == {docs.variable(name) for name in (*Settings.model_fields, *UiSettings.model_fields)}


def test_the_defaults_in_env_example_are_read_back_as_the_defaults(tmp_path, monkeypatch):
    uncommented = re.sub(r"(?m)^# (SIEIS_\w+=\S+)", r"\1", docs.render_env_example())
    (tmp_path / ".env").write_text(uncommented)
    monkeypatch.chdir(tmp_path)
    assert Settings() == Settings(_env_file=None)


def _walk(command, path=()):
    yield path, command
    if isinstance(command, TyperGroup):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from _walk(command.get_command(context, name), (*path, name))


def test_every_command_and_option_explains_itself():
    undescribed = []
    for path, command in _walk(get_command(app)):
        if not (command.help or "").strip():
            undescribed.append(" ".join(path))
        undescribed += [
            f"{' '.join(path)} {param.name}" for param in command.params if not getattr(param, "help", None)
        ]
    assert undescribed == []


def test_every_registered_command_exists_and_stands_in_the_documentation():
    text = (docs.ROOT / "docs" / "cli.md").read_text()
    for name in COMMANDS:
        assert f"`sieis {name}`" in text


def test_documents_refer_only_to_files_and_settings_that_exist():
    settings = {docs.variable(name) for fields in docs.sections().values() for name in fields}
    known = settings | {"SIEIS_TEST_ROUNDS", "SIEIS_TEST_REQUIRE"}
    wrong = []
    for document in [docs.ROOT / "README.md", docs.ROOT / "CONTRIBUTING.md", *docs.ROOT.glob("docs/**/*.md")]:
        text = document.read_text()
        here = document.relative_to(docs.ROOT)
        wrong += [f"{here}: {name}" for name in set(re.findall(r"SIEIS_[A-Z0-9_]*[A-Z0-9]", text)) - known]
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            if not (document.parent / target).exists():
                wrong.append(f"{here}: {target}")
    assert wrong == []
