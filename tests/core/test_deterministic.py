"""Training with kernels that repeat bit for bit, where a GPU has others too."""

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


def test_left_alone_it_changes_no_name() -> None:
    assert ce(deterministic=False).fingerprint() == ce().fingerprint() != ce(deterministic=True).fingerprint()


def test_a_cpu_has_no_other_kernels() -> None:
    chosen = plan_execution(Speed(deterministic=True), torch.device("cpu"), Workload(samples=1, steps=1, image_size=8))
    assert not chosen.deterministic
    assert "deterministic" not in chosen.environment()


def test_only_a_training_refuses_kernels_that_do_not_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = Stepper.step, set()

    def looking(self: Stepper, *arguments: Any) -> None:
        seen.add(torch.are_deterministic_algorithms_enabled())
        step(self, *arguments)

    monkeypatch.setattr(Stepper, "step", looking)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    plan = ExecutionPlan(threads=1, deterministic=True)
    monkeypatch.setattr("core.train.preparation.plan_execution", lambda *_, **__: plan)
    run_training(ce(), tmp_path)
    assert seen == {True}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_resumed_on_a_gpu_it_ends_the_same_bit_for_bit(tmp_path: Path) -> None:
    spec = ce(deterministic=True)
    run_training(spec, tmp_path / "whole")
    run_training(spec, tmp_path / "half", options=stop_after(7))
    assert run_training(
        spec, tmp_path / "rest", resume=tmp_path / "half" / CHECKPOINT_NAME, options=TrainOptions()
    ) == ("finished")
    whole, rest = weights(tmp_path / "whole"), weights(tmp_path / "rest")
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    assert points(tmp_path / "rest") == points(tmp_path / "whole")
