"""The example scripts, run as a person runs them, against a real backend with a stand-in for its worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client
from tests import served

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.slow


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with served.backend(tmp_path) as url, served.worker(url, tmp_path):
        yield url


def run(script: str, url: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"DKD_API_URL": url, "DKD_API_TOKEN": served.ADMIN_TOKEN, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, str(ROOT / "examples" / script), *options]
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=120, check=False)


def test_a_queue_of_twenty_experiments(url: str) -> None:
    found = run("queue_of_20.py", url, "--epochs", "2", "--name", "q")
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[0] == "20 experiments, 121 runs"
    assert len(lines) == 21
    assert all(": finished, " in line for line in lines[1:])
    with Client(url, served.ADMIN_TOKEN) as client:
        assert len(client.experiments(tag="q", limit=500).items) == 20
    again = run("queue_of_20.py", url, "--epochs", "2", "--name", "q")
    assert again.returncode == 0, "the same request made nothing new"
    assert len(again.stdout.splitlines()) == 21


def test_a_sweep_that_optuna_drives(url: str) -> None:
    pytest.importorskip("optuna")
    found = run("optuna_sweep.py", url, "--epochs", "2", "--trials", "3")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("trial ") == 3
    assert "on fresh seeds" in found.stdout
    with Client(url, served.ADMIN_TOKEN) as client:
        items = client.experiments(tag="search").items
        assert [item.name for item in items][::-1] == [
            "search trial 0",
            "search trial 1",
            "search trial 2",
            "search confirmed",
        ]
        assert len({client.experiment(item.id).runs[0].id for item in items}) == 1, "one teacher for all"


def test_the_sweep_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "optuna.py").write_text("raise ImportError")
    found = run("optuna_sweep.py", "http://127.0.0.1:1", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert found.returncode == 1
    assert found.stderr.strip() == "this example needs optuna, which is not installed: pip install optuna"
