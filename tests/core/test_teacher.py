"""A live teacher gives its network's logits, with batch norm folded away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.tasks.classification import models
from core.tasks.classification.data.dataset import Batch
from core.train.performance import ExecutionPlan, Precision
from core.train.teacher import LiveTeacher
from tests.core.task_of import task_of


class TestLiveTeacher:
    @pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
    @pytest.mark.parametrize("name", ["resnet8", "wrn_16_1"])
    def test_logits_equal_the_networks_and_the_network_is_unchanged(
        self, name: str, precision: Precision, tolerance: float
    ) -> None:
        network = with_statistics(models.build(name, num_classes=5, image_size=16))
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        chosen = ExecutionPlan(precision=precision, channels_last=True, threads=1)
        batch = Batch(torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4), 4)
        with torch.no_grad():
            expected = network(batch.images)
        live = LiveTeacher(network, chosen, task_of()).outputs(batch, 0).logits.float()
        assert (live - expected).norm() < tolerance * expected.norm()
        assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())

    def test_batch_norm_is_folded_into_the_convolution_before_it(self) -> None:
        """Seen from outside: the norm's own kernel is never called."""
        network = with_statistics(models.build("resnet8", num_classes=5, image_size=16))
        teacher = LiveTeacher(network, ExecutionPlan(threads=1), task_of())
        batch = Batch(torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4), 4)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            teacher.outputs(batch, 0)
        names = {event.key for event in profile.key_averages()}
        assert "aten::convolution" in names
        assert "aten::batch_norm" not in names

    def test_untraceable_network_is_run_unchanged(self) -> None:
        class Untraceable(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(3, 5)

            def forward(self, images: Tensor) -> Tensor:
                features = images.mean((2, 3))
                logits: Tensor = self.linear(features if features.sum() > 0 else -features)
                return logits

        network = Untraceable().eval()
        batch = Batch(-torch.ones(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4), 4)
        with torch.no_grad():
            assert torch.equal(
                LiveTeacher(network, ExecutionPlan(threads=1), task_of()).outputs(batch, 0).logits,
                network(batch.images),
            )


def with_statistics(network: nn.Module) -> nn.Module:
    """In eval mode, its batch norms as if it had been trained."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean = torch.randn_like(module.bias) / 5
            module.running_var = torch.rand_like(module.bias) + 0.5
    return network.eval().requires_grad_(False)
