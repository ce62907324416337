"""Training with deterministic kernels repeats bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.specs import RunSpec, Speed
from core.tasks.workload import Workload
from core.train import TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME
from core.train.performance import ExecutionPlan, plan_execution
from core.train.stepper import Stepper
from tests.core.test_training import experiment, points, stop_after, students, weights


def ce(**chosen: Any) -> RunSpec:
    training = {"epochs": 2, "batch_size": 32, "collapse_every": 1, "speed": chosen}
    (spec, _) = students(experiment(training=training), "ce")
    return spec


def test_default_of_deterministic_does_not_change_the_fingerprint() -> None:
    assert ce(deterministic=False).fingerprint() == ce().fingerprint() != ce(deterministic=True).fingerprint()


def test_plan_for_a_cpu_omits_deterministic() -> None:
    chosen = plan_execution(Speed(deterministic=True), torch.device("cpu"), Workload(samples=1, steps=1, image_size=8))
    assert not chosen.deterministic
    assert "deterministic" not in chosen.environment()


def test_deterministic_algorithms_are_enabled_during_training_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = Stepper.step, set()

    def looking(self: Stepper, *arguments: Any, **options: Any) -> None:
        seen.add(torch.are_deterministic_algorithms_enabled())
        step(self, *arguments, **options)

    monkeypatch.setattr(Stepper, "step", looking)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    plan = ExecutionPlan(threads=1, deterministic=True)
    monkeypatch.setattr("core.train.preparation.plan_execution", lambda *_, **__: plan)
    run_training(ce(), tmp_path)
    assert seen == {True}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_run_resumed_on_a_gpu_repeats_bit_for_bit(tmp_path: Path) -> None:
    spec = ce(deterministic=True)
    run_training(spec, tmp_path / "whole")
    run_training(spec, tmp_path / "half", options=stop_after(7))
    assert run_training(
        spec, tmp_path / "rest", resume=tmp_path / "half" / CHECKPOINT_NAME, options=TrainOptions()
    ) == ("finished")
    uninterrupted, resumed = weights(tmp_path / "whole"), weights(tmp_path / "rest")
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)
    assert points(tmp_path / "rest") == points(tmp_path / "whole")
