"""The benchmark of a busy machine: its load ends, and its table shows the measured numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import busy as benchmark
from benchmarks.busy import BEFORE, NOW, Case, busy, environment, specs, train


def test_load_ends_with_the_block() -> None:
    with busy(2) as processes:
        assert [process.poll() for process in processes] == [None, None]
    assert None not in [process.poll() for process in processes]


def test_load_ends_by_itself() -> None:
    with busy(1, limit_seconds=0.0) as (process,):
        assert process.wait(60) == 0


def test_settings_are_not_mixed_with_those_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "DKD_THREADS", "DKD_MOST_THREADS")
    for name in names:
        monkeypatch.setenv(name, "7")
    assert {name for name in names if name in environment(NOW, tmp_path)} == set()
    before = environment(BEFORE, tmp_path)
    assert {name: before[name] for name in names if name in before} == {"GOMP_SPINCOUNT": "300000", "DKD_THREADS": "2"}


def test_training_reports_its_threads(tmp_path: Path) -> None:
    (spec,) = specs(epochs=1, large_epochs=0).values()
    assert spec.training.epochs == 1
    seconds, threads = train(spec, NOW, tmp_path)
    assert seconds > 0
    assert threads == 1


def test_table_shows_medians_and_their_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        Case("digits", BEFORE, 2, alone=[6.0, 5.0, 90.0], beside=[60.0, 66.0, 72.0]),
        Case("digits", NOW, 1, alone=[3.0, 3.0, 3.0], beside=[6.0, 7.5, 9.0]),
    ]
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark, "measure", lambda trainings, rounds: cases)
    benchmark.main(["--write"])
    text = (tmp_path / "busy.md").read_text(encoding="utf-8")
    assert "| digits | before | 2 | 6.0 | 66.0 | 11.0 × |" in text
    assert "| digits | now | 1 | 3.0 | 7.5 | 2.5 × |" in text
    assert "| digits | 0.50 | 0.11 |" in text
    stored = json.loads((tmp_path / "busy.json").read_text(encoding="utf-8"))
    assert [case["beside"] for case in stored["cases"]] == [[60.0, 66.0, 72.0], [6.0, 7.5, 9.0]]
    assert stored["settings"][NOW] == {}
