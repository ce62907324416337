"""Compilation that fails leaves the run as it was, with a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.events import JOURNAL_NAME, Started, read_journal
from core.tasks.classification import models
from core.train import run_training
from core.train.compiling import CompilationError, compile_network
from core.train.performance import ExecutionPlan
from tests.core.speed_runs import log_text, losses, run_spec


class TestFallback:
    def test_run_without_a_compiler_equals_an_uncompiled_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing_compile(network: nn.Module, **_: Any) -> Any:
            def forward(images: Tensor) -> Tensor:
                network(images).sum().backward()  # moves the running statistics before it fails
                torch.rand(3)
                raise RuntimeError("no working C++ compiler\nand much more")

            return forward

        monkeypatch.setattr(torch, "compile", failing_compile)
        for switch in ("off", "on"):
            assert run_training(run_spec(speed={"compile": switch}), tmp_path / switch) == "finished"
        assert losses(tmp_path / "on") == losses(tmp_path / "off")
        assert "not compiled: RuntimeError: no working C++ compiler" in log_text(tmp_path / "on")
        events = [record.event for record in read_journal(tmp_path / "on" / JOURNAL_NAME)]
        started = next(event for event in events if isinstance(event, Started))
        assert started.environment["compile"] == "off"

    def test_compiling_leaves_state_gradients_and_random_state_unchanged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "compile", lambda network, **_: nn.Sequential(nn.Dropout(), network))
        network = models.build("resnet8", num_classes=5, image_size=8)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        example = torch.randn(4, 3, 8, 8)
        random = torch.random.get_rng_state()
        compile_network(network, example, ExecutionPlan(threads=1))
        assert torch.equal(torch.random.get_rng_state(), random)
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_compilation_error_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda _: (_ for _ in ()).throw(OSError("a\nb")))
        with pytest.raises(CompilationError, match=r"^OSError: a$"):
            compile_network(
                models.build("resnet8", num_classes=5, image_size=8), torch.zeros(2, 3, 8, 8), ExecutionPlan(threads=1)
            )
