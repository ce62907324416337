"""The example scripts as users run them, with a real backend and a stand-in for its worker."""

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
    environ = {"DKD_API_URL": url, "DKD_API_TOKEN": served.ADMIN_TOKEN, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, str(ROOT / "examples" / script), *options]
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=120, check=False)


def test_queue_example_submits_twenty_experiments(url: str) -> None:
    result = run("queue_of_20.py", url, "--epochs", "2", "--name", "q")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "20 experiments, 121 runs"
    assert len(lines) == 21
    assert all(": finished, " in line for line in lines[1:])
    with Client(url, served.ADMIN_TOKEN) as client:
        assert len(client.experiments(tag="q", limit=500).items) == 20
    again = run("queue_of_20.py", url, "--epochs", "2", "--name", "q")
    assert again.returncode == 0, "the same request made nothing new"
    assert len(again.stdout.splitlines()) == 21


def test_optuna_example_runs_its_trials(url: str) -> None:
    pytest.importorskip("optuna")
    result = run("optuna_sweep.py", url, "--epochs", "2", "--trials", "3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("trial ") == 3
    assert "on fresh seeds" in result.stdout
    with Client(url, served.ADMIN_TOKEN) as client:
        items = client.experiments(tag="search").items
        assert [item.name for item in items][::-1] == [
            "search trial 0",
            "search trial 1",
            "search trial 2",
            "search confirmed",
        ]
        assert len({client.experiment(item.id).runs[0].id for item in items}) == 1, "one teacher for all"


def test_optuna_example_names_a_missing_package(tmp_path: Path) -> None:
    (tmp_path / "optuna.py").write_text("raise ImportError")
    result = run("optuna_sweep.py", "http://127.0.0.1:1", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert result.returncode == 1
    assert result.stderr.strip() == "this example needs optuna, which is not installed: pip install optuna"
