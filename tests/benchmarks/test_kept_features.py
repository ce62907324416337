"""Tests of ``benchmarks.kept_features``: what its clock counts, and that it finds the code it times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import kept_features

ROOT = Path(__file__).parents[2]


def test_nested_parts_count_once() -> None:
    ticks = iter(range(100))
    clock = kept_features.Clock(lambda: float(next(ticks)))
    owner = SimpleNamespace(inner=lambda: "inner")

    def outer() -> str:
        return str(owner.inner())

    owner.outer = outer
    clock.watch("take", owner, "inner")
    clock.watch("file", owner, "outer")

    assert owner.outer() == "inner"
    assert owner.inner() == "inner"

    assert clock.seconds["file"] == 1.0
    assert clock.seconds["take"] == 1.0
    assert (clock.calls["file"], clock.calls["take"]) == (1, 1)


def test_shares_are_relative_to_the_rest_of_the_run() -> None:
    parts = dict.fromkeys(kept_features.PARTS, 0.0) | {"measure": 1.0, "file": 1.0}
    calls = dict.fromkeys(kept_features.PARTS, 1)
    results = [{"run": 102.0, "parts": parts, "calls": calls}, {"run": 202.0, "parts": parts, "calls": calls}]

    assert kept_features.shares(results) == pytest.approx([2.0, 1.0])
    text = kept_features.report({"ce": results})
    assert "| ce | 2 | 152.00 (102.00 to 202.00) | 2.000 (2.000 to 2.000) | 1.50 (1.00 to 2.00) |" in text


def test_a_run_with_the_default_passes_every_timed_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "features", "--run", "digits, ce", "--out", str(tmp_path)]
    environment = os.environ | {"DKD_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])

    passed = set(kept_features.PARTS) - {"checkpoint"}  # a short run may end before it writes one
    assert all(found["calls"][part] > 0 and found["parts"][part] > 0 for part in passed), found
    assert 0 < sum(found["parts"].values()) < found["run"]
    assert list(tmp_path.rglob("features.parquet"))
