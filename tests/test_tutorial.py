"""docs/tutorial.md: its files and commands work as printed, and its plug-in is accepted by a backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _write_files_and_list_commands(folder: Path) -> list[str]:
    """Write each block that begins with a file's name, and return the shell blocks in their order."""
    commands = []
    for kind, text in _BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        if kind == "sh":
            commands.append(text)
        elif kind in {"python", "yaml"}:
            (folder / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
    return commands


def _run(command: list[str], folder: Path) -> str:
    environment = os.environ | {
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    completed = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert completed.returncode == 0, f"{command}\n{completed.stdout[-2000:]}\n{completed.stderr[-2000:]}"
    return completed.stdout


@pytest.mark.slow
def test_tutorial_commands_run_as_printed(tmp_path: Path) -> None:
    commands = _write_files_and_list_commands(tmp_path)
    assert len(commands) == 3
    for command in commands[:-1]:
        _run(["bash", "-e", "-o", "pipefail", "-c", command], tmp_path)
    spec = tmp_path / "js.yaml"
    spec.write_text(spec.read_text().replace("epochs: 8", "epochs: 1").replace("[0, 1, 2]", "[0]"))
    output = _run(["bash", "-e", "-o", "pipefail", "-c", commands[-1]], tmp_path)
    assert re.search(r"^js +\d+\.\d+", output, re.MULTILINE)


def test_tutorial_plugin_needs_no_torch_to_be_validated(tmp_path: Path) -> None:
    _write_files_and_list_commands(tmp_path)
    code = (
        "import sys; from pathlib import Path; from core.catalog import load_plugins; load_plugins(['my_plugin']);"
        "from core.specs import read_experiment; spec = read_experiment(Path('js.yaml'));"
        "print(spec.methods[1].name, 'torch' in sys.modules)"
    )
    assert _run([sys.executable, "-c", code], tmp_path).split() == ["js", "False"]
