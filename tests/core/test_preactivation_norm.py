"""The batch norm before the activation that ends a stage, which decides OFD's margins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.settings import TrainingSettings
from core.specs import parse_experiment
from core.tasks.classification import models
from core.tasks.classification.models.taps import tap_once
from core.tasks.classification.teacher_input import InputAdapter
from core.tasks.registry import load_task
from core.tasks.task import RunContext, Task
from core.weights.metadata import InputFormat

RESIDUAL = {
    "resnet8": {f"stage{n}": f"layers.stage{n}.0.bn2" for n in (1, 2, 3)},
    "resnet18": {f"stage{n}": f"layers.stage{n}.1.bn2" for n in (1, 2, 3, 4)},
    "resnet50_cifar": {"stage1": "layers.stage1.2.bn3", "stage4": "layers.stage4.2.bn3"},
    "mobilenet_v2_half": {"stage2": "layers.stage2.2.conv.7"},
    "shufflenet_v1": {"stage1": "layers.stage1.3.expand.4"},
    "timm:resnet18": {"stage4": "network.layer3.1.bn2"},
}
ENDING_IN_NORM = ["small_cnn", "vgg8", "wrn_16_1", "mobilenet_v1"]


def network(name: str) -> models.Network:
    torch.manual_seed(0)
    return models.build(name, num_classes=5, image_size=32)


@pytest.mark.parametrize("name", RESIDUAL)
def test_norm_of_a_residual_block_is_that_of_the_branch(name: str) -> None:
    with torch.device("meta"):
        built = network(name)
    for stage, path in RESIDUAL[name].items():
        assert built.preactivation_norm(stage) is built.get_submodule(path)


@pytest.mark.parametrize("name", ENDING_IN_NORM)
def test_norm_that_ends_a_stage_gives_the_map_before_the_activation(name: str) -> None:
    built = network(name).eval()
    outputs: list[Tensor] = []
    for stage in built.tap_points():
        if not stage.startswith("stage"):
            continue
        norm = built.preactivation_norm(stage)
        assert isinstance(norm, nn.BatchNorm2d)
        handle = norm.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        with torch.no_grad():
            (tap,) = list(tap_once(built, [f"{stage}:preact"], torch.randn(2, 3, 32, 32)).values())
        handle.remove()
        assert torch.equal(tap, outputs[-1])


@pytest.mark.parametrize("name", ["shufflenet_v2", "timm:vit_tiny_patch16_224", "timm:convnext_atto"])
def test_stage_that_ends_in_no_norm_of_all_its_channels_has_none(name: str) -> None:
    with torch.device("meta"):
        built = models.build(name, num_classes=5, image_size=224 if "vit" in name else 32)
    assert built.preactivation_norm("stage2") is None


def task() -> Task:
    spec: dict[str, Any] = {
        "name": "norm",
        "dataset": {"name": "synthetic", "params": {"image_size": 8, "train_size": 20, "test_size": 20}},
        "student": {"model": "resnet8"},
        "methods": ["ce"],
        "seeds": [0],
        "training": {"epochs": 1},
    }
    return load_task(RunContext(parse_experiment(spec).plan()[0].spec, TrainingSettings(), lambda *_: None))


@pytest.mark.parametrize("adapted", [False, True])
def test_weight_and_bias_are_known_to_the_method(adapted: bool) -> None:
    teacher = network("resnet8")
    norm = teacher.get_submodule("layers.stage2.0.bn2")
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    shown = InputFormat((0.5,) * 3, (0.2,) * 3, 8)
    seen = InputAdapter(teacher, shown, InputFormat((0.4,) * 3, (0.1,) * 3, 8)) if adapted else teacher
    shape = task().network_shape(seen, ["stage2:preact", "stage2", "stage3:preact", "features"])
    assert shape.norm.keys() == {"stage2:preact", "stage3:preact"}
    weight, bias = shape.norm["stage2:preact"]
    assert torch.equal(weight, norm.weight)
    assert torch.equal(bias, norm.bias)
    nn.init.zeros_(norm.weight)
    assert weight.any()
    assert not weight.requires_grad
