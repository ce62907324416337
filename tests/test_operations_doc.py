"""docs/operations.md: the commands, options, files and settings that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from backend.__main__ import cli as backend
from client.cli import app as dkd

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
_COMMAND = re.compile(r"(?<![\w/-])(python -m backend|dkd) ((?:[a-z]+ ?)+)([^`\n#]*)")


def commands() -> list[tuple[str, list[str], list[str]]]:
    """Return the program, subcommands and options of each command."""
    by_command = {}
    for program, words, rest in _COMMAND.findall(TEXT.replace("\ndrain", " drain")):
        by_command[program, words.strip()] = (program, words.split(), re.findall(r"--[a-z-]+", rest))
    return list(by_command.values())


@pytest.mark.parametrize(("program", "words", "options"), commands(), ids=lambda value: str(value)[:40])
def test_documented_commands_and_options_exist(program: str, words: list[str], options: list[str]) -> None:
    command = get_command(backend if program != "dkd" else dkd)
    names: set[str] = set()
    for word in words:
        known = getattr(command, "commands", {})
        if word not in known:
            assert command is not None
            assert not known, f"{program} has no command {word}"
            break
        command = known[word]
    names.update(name for parameter in command.params for name in parameter.opts)
    assert set(options) <= names


def test_documented_options_of_gc_exist() -> None:
    shown = CliRunner().invoke(backend, ["gc", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    named = re.findall(r"\(`(--[a-z-]+)`\)", TEXT)
    assert len(named) == 4
    assert all(name in shown for name in named)


def test_links_of_all_documents_have_a_target() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), (document.name, target)


def test_documented_settings_are_read() -> None:
    """Each setting is one of the backend, a worker, the dashboard, the compose files or the examples."""
    everywhere = "\n".join(
        path.read_text(encoding="utf-8")
        for pattern in (
            "supply_chain/*.py",
            "backend/**/*.py",
            "worker/*.py",
            "client/**/*.py",
            "core/**/*.py",
            "dashboard/*.py",
        )
        for path in ROOT.glob(pattern)
    )
    others = "\n".join(
        path.read_text() for path in (*ROOT.glob("docker-compose*.yml"), ROOT / "examples/caddy/Caddyfile")
    )
    for name in sorted(set(re.findall(r"DKD_[A-Z_]+", TEXT))):
        field = name.removeprefix("DKD_").lower()
        assert re.search(rf"\b{field}: ", everywhere) or name in everywhere or name in others, name
