"""The speed table measures what is missing, stores each measurement at once, and shows what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import methods
from benchmarks.methods import Measurements, measure_missing, report
from benchmarks.train import Case

CONDITIONS = {"device": "cpu", "machine": "a machine", "torch": "2", "threads": 2, "batch": 64, "steps": 30}
CASES = [Case("resnet20", "resnet8", 64, 30, name) for name in ("kd", "dkd")]
SPEEDS = {"public": 100.0, "float32": 180.0, "auto": 190.0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replace the measurements; return which were asked for. The public code of DKD fails."""
    made: list[tuple[str, str]] = []

    def child(loop: str, case: Case, folder: Path | None) -> dict[str, Any]:
        made.append((case.method, loop))
        if (case.method, loop) == ("dkd", "public"):
            raise RuntimeError("dkd public: a long trace\nValueError: no such layer")
        return {"images_per_second": SPEEDS[loop] + len(made), "memory_mb": 900.0, "parameters_added": 7.0}

    monkeypatch.setattr(methods, "child", child)
    return made


def test_interrupted_table_is_continued(asked: list[tuple[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "methods-cpu.json"
    measure_missing(Measurements.read(path, CONDITIONS), CASES[:1], 1, tmp_path)
    assert asked == [("kd", loop) for loop in methods.LOOPS]
    assert set(json.loads(path.read_text())["measured"]["resnet20:resnet8"]["kd"]) == set(methods.LOOPS)
    asked.clear()
    continued = Measurements.read(path, CONDITIONS)
    measure_missing(continued, CASES[:1], 3, tmp_path)
    assert asked == [("kd", loop) for _ in range(2) for loop in methods.LOOPS]
    assert "medians of 3 rounds" in report(continued)


def test_measurements_under_other_conditions_are_not_mixed(asked: list[tuple[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "methods-cpu.json"
    measure_missing(Measurements.read(path, CONDITIONS), CASES[:1], 1, tmp_path)
    assert Measurements.read(path, CONDITIONS | {"torch": "3"}).measured == {}


def test_table_shows_medians_goals_and_failures(asked: list[tuple[str, str]], tmp_path: Path) -> None:
    measurements = Measurements.read(tmp_path / "methods-cpu.json", CONDITIONS)
    measure_missing(measurements, CASES, 1, tmp_path)
    text = report(measurements)
    assert "| KD | 101 | 182 | 1.8 | 193 | **1.9** | 7 | 900, 900, 900 |" in text
    assert "| DKD | failed: ValueError: no such layer |||||||" in text
    assert asked.count(("dkd", "public")) == 1


def test_without_the_public_code_only_the_engine_is_measured(asked: list[tuple[str, str]], tmp_path: Path) -> None:
    measurements = Measurements.read(tmp_path / "methods-cpu.json", CONDITIONS)
    measure_missing(measurements, CASES[:1], 1, None)
    assert asked == [("kd", "float32"), ("kd", "auto")]
    assert "| KD |  | 181 |  | 192 |  | 7 | –, 900, 900 |" in report(measurements)
