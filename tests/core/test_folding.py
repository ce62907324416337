"""Batch norm is folded where the function stays the same, and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from core.specs import ModelRef
from core.tasks.classification import models
from core.tasks.classification.data.dataset import Batch
from core.tasks.classification.models.taps import Tapped
from core.tasks.detection.networks import build_detector
from core.train.folding import Pair, fold, foldable
from core.train.performance import ExecutionPlan, Precision
from core.train.teacher import LiveTeacher
from tests.core.task_of import task_of
from tests.core.test_teacher import with_statistics


class Block(nn.Module):
    """A convolution with its norm, called in one of several ways."""

    def __init__(self, how: str = "usual", norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.how, self.convolution, self.norm = how, nn.Conv2d(3, 3, 3, padding=1), norm(3)

    def forward(self, images: Tensor) -> Any:
        before = self.convolution(images)
        after = self.norm(before)
        if self.how == "read":
            return after + before
        if self.how == "twice":
            return self.norm(self.convolution(after))
        if self.how == "branch" and images.sum() > 0:  # cannot be traced
            return -after
        return after


class Parent(nn.Module):
    """A network that cannot be traced, with a block that can."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, images: Tensor) -> Any:
        found = self.block(images)
        return found if found.sum() > 0 else 2 * found


def prepared(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return with_statistics(network)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
@pytest.mark.parametrize("inside", [False, True])
def test_norm_behind_its_convolution_is_folded(norm: type[nn.Module], inside: bool) -> None:
    network = prepared(Parent(Block(norm=norm)) if inside else Block(norm=norm))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = network(images)
        pairs = list(foldable(network))
        assert pairs == [Pair("block.convolution", "block.norm") if inside else Pair("convolution", "norm")]
        fold(network, pairs)
        torch.testing.assert_close(network(images), expected, rtol=1e-5, atol=1e-6)
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)]


@pytest.mark.parametrize("how", ["read", "twice", "branch"])
def test_layer_that_is_read_called_twice_or_not_traced_is_left(how: str) -> None:
    assert list(foldable(prepared(Block(how)))) == []


def test_norm_without_running_statistics_is_left() -> None:
    network = Block()
    network.norm = nn.BatchNorm2d(3, track_running_stats=False)
    assert list(foldable(network.eval())) == []


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn_16_1", "vgg8", "mobilenet_v2_half", "shufflenet_v1"])
@pytest.mark.parametrize("taps", [("features",), ("stages", "features"), ("stages:preact",), ("last_map",)])
def test_logits_and_taps_are_those_of_the_network(name: str, taps: tuple[str, ...]) -> None:
    network = with_statistics(models.build(name, num_classes=5, image_size=32)).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = Tapped(copy.deepcopy(network), taps)(images)
        pairs = list(foldable(network))
        tapped = Tapped(network, taps)
        fold(network, pairs)
        for one, other in zip(tapped(images), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert len(pairs) >= 3


@pytest.mark.parametrize("which", ["convolution", "norm"])
def test_pair_of_which_one_is_tapped_is_left(which: str) -> None:
    network = prepared(Block())
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = Tapped(copy.deepcopy(network), (which,))(images)
        pairs, tapped = list(foldable(network)), Tapped(network, (which,))
        fold(network, pairs)
        assert len(pairs) == 1
        assert isinstance(network.norm, nn.BatchNorm2d)
        assert all(torch.equal(one, other) for one, other in zip(tapped(images), expected, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_live_teacher_with_taps_has_no_batch_norm(precision: Precision) -> None:
    network = with_statistics(models.build("resnet8", num_classes=5, image_size=16))
    batch = Batch(torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4), 4)
    teacher = LiveTeacher(
        network, ExecutionPlan(precision=precision, threads=1), task_of(), ("stage1", "stage2", "stage3")
    )
    with torch.no_grad():
        expected = network(batch.images)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        outputs = teacher.outputs(batch, 0)
    assert "aten::batch_norm" not in {event.key for event in profile.key_averages()}
    tolerance = 1e-5 if precision == "float32" else 3e-2
    assert (outputs.logits.float() - expected).norm() < tolerance * expected.norm()
    assert len(outputs.taps) == 3


def test_detector_with_frozen_norms_is_folded() -> None:
    params = {"backbone": "resnet18", "norm": "frozen"}
    detector: Any = prepared(build_detector(ModelRef(name="faster_rcnn", params=params), 3))
    images, sizes = torch.rand(1, 3, 64, 64), [(64, 64)]
    with torch.no_grad():
        expected = detector.features(images, sizes)
        fold(detector, list(foldable(detector)))
        assert not [module for module in detector.modules() if isinstance(module, FrozenBatchNorm2d)]
        for name, level in detector.features(images, sizes).items():
            torch.testing.assert_close(level, expected[name], rtol=1e-4, atol=1e-4)
