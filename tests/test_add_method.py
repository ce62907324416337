"""README's "Add a method", carried out literally: in a copy of the tree, and as a plug-in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = """
name: near
dataset: {name: synthetic, params: {num_classes: 5, image_size: 8, train_size: 96, test_size: 40}}
teacher: {model: {name: small_cnn, params: {width: 8}}}
student: {model: {name: small_cnn, params: {width: 4}}}
methods: [kd, {name: near, params: {weight: 2.0}}]
seeds: [0]
training: {epochs: 1, batch_size: 32}
"""
CONTRACT = """
from core.testing import MethodContract


class TestNear(MethodContract):
    method = "near"
    plugins = ("my_entry",)
"""


def printed_files() -> dict[str, str]:
    """Return the two files of the section by their paths."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## Add a method") : readme.index("## Train on GPUs")]
    blocks = re.findall(r"^   ```python\n(.*?)^   ```$", section, re.MULTILINE | re.DOTALL)
    texts = [textwrap.dedent(block) for block in blocks]
    return {text.splitlines()[0].removeprefix("# "): text for text in texts}


def run(command: list[str], folder: Path, *paths: Path) -> str:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (*paths, folder))),
        "OMP_NUM_THREADS": "1",
        "DKD_CACHE_DIR": str(folder / "cache"),
    }
    result = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result.stdout


def trained(folder: Path, *options: str, path: Path) -> str:
    (folder / "near.yaml").write_text(SPEC, encoding="utf-8")
    return run(["-m", "core", *options, "run", "near.yaml", "--out", "results"], folder, path)


@pytest.mark.slow
def test_two_files_in_the_tree_are_a_method(tmp_path: Path) -> None:
    for room in ("core", "common"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    files = printed_files()
    assert list(files) == ["core/catalog/methods/near.py", "core/distill/features/near.py"]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert re.search(r"^near +\d+\.\d+ %", trained(tmp_path, path=tmp_path), re.MULTILINE)
    catalog = run(["-m", "core", "catalog"], tmp_path, tmp_path)
    assert re.search(r"^ *near +The student's features", catalog, re.MULTILINE)


@pytest.mark.slow
def test_the_same_two_files_are_a_plugin_that_fulfils_the_contract(tmp_path: Path) -> None:
    entry, code = printed_files().values()
    renamed = {"core.distill.features.near": "my_code", "core.catalog.methods.near": "my_entry"}
    for name, printed in (("my_entry.py", entry), ("my_code.py", code)):
        text = printed
        for module, own in renamed.items():
            text = text.replace(module, own)
        (tmp_path / name).write_text(text, encoding="utf-8")
    output = trained(tmp_path, "--plugin", "my_entry", path=ROOT)
    assert re.search(r"^near +\d+\.\d+ %", output, re.MULTILINE)
    (tmp_path / "test_near.py").write_text(CONTRACT, encoding="utf-8")
    run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_near.py"], tmp_path, ROOT)
