"""docs/api.md: every example runs as printed, in order, with a real backend."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import served

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _run(command: list[str], folder: Path, environment: dict[str, str], text: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{text}\n--- said:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
def test_the_examples_run_as_printed(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed: apt-get install curl")
    blocks = _BLOCK.findall((ROOT / "docs" / "api.md").read_text())
    assert {"sh", "python", "yaml"} <= {kind for kind, _ in blocks}
    here = tmp_path / "here"
    (here / "bin").mkdir(parents=True)
    dkd = here / "bin" / "dkd"
    dkd.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m client.cli "$@"\n')
    dkd.chmod(0o755)
    with served.backend(tmp_path) as url, served.worker(url, tmp_path):
        environment = {
            "DKD_API_URL": url,
            "DKD_API_TOKEN": served.ADMIN_TOKEN,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{here / 'bin'}:{os.environ['PATH']}",
        }
        for kind, text in blocks:
            if kind == "yaml":
                (here / text.splitlines()[0].removeprefix("# ")).write_text(text)
            elif kind == "sh":
                _run(["bash", "-e", "-o", "pipefail", "-c", text], here, environment, text)
            elif kind == "python":
                _run([sys.executable, "-c", text], here, environment, text)
    assert (here / "teacher.safetensors").stat().st_size == 1000
