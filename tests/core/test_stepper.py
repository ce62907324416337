"""A step: captured once per epoch and replayed with the same result, and never waiting for the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.distill.loss import build_loss
from core.distill.objective import LogitObjective
from core.specs import MethodRef, Optimizer
from core.tasks.classification import models
from core.train import stepper as stepper_module
from core.train.compiling import capture_stream
from core.train.optimizer import build_optimizer
from core.train.performance import ExecutionPlan
from core.train.stepper import Stepper
from core.train.teacher import LiveTeacher
from tests.core.speed_runs import synthetic
from tests.core.task_of import task_of


def stepper(device: str, name: str = "sgd", **choices: Any) -> Stepper:
    """DKD of a small network by another on a device."""
    torch.manual_seed(0)
    chosen = ExecutionPlan(fused=True, threads=1, **choices)
    model = models.build("resnet8", num_classes=5, image_size=16).to(device).to(memory_format=chosen.memory_format)
    teacher = models.build("resnet8", num_classes=5, image_size=16).to(device).eval().requires_grad_(False)
    optimizer = build_optimizer(model, Optimizer(name=name, lr=0.01), fused=True)
    loss = build_loss(MethodRef(name="dkd_align", params={"reduction": "log", "epsilon_share": 0.1}))

    def warn(text: str) -> None:
        raise AssertionError(text)

    task = task_of()
    objective = LogitObjective(loss)
    return Stepper(
        task, model.train(), LiveTeacher(teacher, chosen, task, warn=warn), objective, optimizer, chosen, warn=warn
    )


def train_means(captured: Stepper, device: str, epochs: int = 3) -> list[dict[str, float]]:
    """The means of each epoch; the rate changes with every step, the last batch is smaller."""
    dataset = synthetic(train_size=150).to(torch.device(device))
    means = []
    with capture_stream(captured._plan, torch.device(device)):
        for epoch in range(epochs):
            for number, batch in enumerate(dataset.batches(32, 0, epoch)):
                captured.step(batch, epoch, 0.01 * (1 + number + epoch))
            means.append(captured.means.read())
            captured.means = type(captured.means)()
    return means


class TestCapture:
    """When a step is recorded and replayed, with a stand-in for the GPU's recorder that runs the function again."""

    def test_step_is_captured_once_per_epoch_and_replayed_for_full_batches(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
        plain, captured = stepper("cpu"), stepper("cpu")
        captured._capture = stepper_module._StepCapture()
        graphs, replayed = [], []

        class FakeGraph:
            def __init__(self, function: Any, example: list[Tensor], pool: Any) -> None:
                # What a recording holds on to: the optimiser's rate is read from this tensor from now on.
                self.function, self.rate = function, captured.optimizer.param_groups[0]["lr"]
                graphs.append(self)

            def __call__(self, *inputs: Tensor) -> None:
                replayed.append(len(inputs[1]))
                captured.optimizer.param_groups[0]["lr"] = float(self.rate)
                self.function(*inputs)

        monkeypatch.setattr(stepper_module, "GraphedCallable", FakeGraph)
        assert train_means(captured, "cpu") == train_means(plain, "cpu")
        # 150 images: of 32, 32, 32, 32 and 22 the first is computed, the last is too small.
        assert (len(graphs), replayed) == (3, [32, 32, 32] * 3)
        for ours, theirs in zip(captured.model.parameters(), plain.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_step_that_cannot_be_captured_is_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
        plain, captured = stepper("cpu"), stepper("cpu")
        warned: list[str] = []
        captured._capture = stepper_module._StepCapture()
        captured._warn = warned.append

        def refuse(*_: Any) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(stepper_module, "GraphedCallable", refuse)
        assert train_means(captured, "cpu") == train_means(plain, "cpu")
        assert len(warned) == 1
        assert "not permitted" in warned[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnGpu:
    @pytest.mark.parametrize("name", ["sgd", "adamw"])
    def test_captured_step_equals_the_computed_one(self, name: str) -> None:
        torch.backends.cudnn.deterministic = True
        plain, recorded = (stepper("cuda", name, cuda_graphs=switch) for switch in (False, True))
        expected, means = (train_means(captured, "cuda") for captured in (plain, recorded))
        for ours, theirs in zip(means, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, nan_ok=True)
        for parameter, same in zip(recorded.model.parameters(), plain.model.parameters(), strict=True):
            torch.testing.assert_close(parameter, same, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
    def test_no_step_waits_for_the_device(self, precision: str) -> None:
        captured = stepper("cuda", precision=precision, channels_last=True)
        batches = synthetic().to(torch.device("cuda")).batches(32, 0, 0)
        captured.step(next(batches), 0, 0.01)  # what is set up once may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches:
                captured.step(batch, 0, 0.02)
        finally:
            torch.cuda.set_sync_debug_mode("default")
