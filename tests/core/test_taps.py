"""Taps: one forward pass returns the logits and the outputs of the tapped layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.catalog import MODELS
from core.catalog.models import TIMM, ModelEntry
from core.catalog.taps import expand, pair_stages
from core.distill.objective import NetworkShape
from core.errors import TrainingError
from core.tasks.classification import models
from core.tasks.classification.models.network import StagedNetwork, pool_to_features
from core.tasks.classification.models.taps import Tapped, tap_once
from core.tasks.classification.networks import network_shape
from core.tasks.classification.teacher_input import InputAdapter
from core.weights.metadata import InputFormat

SMALL = ["small_cnn", "resnet8", "resnet8x4", "resnet18_cifar", "wrn_16_1", "vgg8", "shufflenet_v1", "shufflenet_v2"]
LARGE = ["mobilenet_v2_half", "resnet18", "resnet50", "mobilenet_v2", "shufflenet_v2_x1_0", "swin_s", "mobilenet_v1"]
OF_TIMM = ["timm:resnet18", "timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:mobilenetv3_small_050"]


def network_and_images(name: str) -> tuple[models.Network, Tensor]:
    size = 224 if name.startswith(TIMM) else max(MODELS[name].min_image_size, 32)
    torch.manual_seed(0)
    return models.build(name, num_classes=5, image_size=size).eval(), torch.randn(2, 3, size, size)


@pytest.mark.parametrize("name", [*SMALL, *LARGE, *OF_TIMM])
def test_taps_are_the_outputs_of_the_stages_and_the_features(name: str) -> None:
    network, images = network_and_images(name)
    with torch.no_grad():
        expected = network.stages(images) | {"features": network.features(images)}
        logits, *taps = Tapped(network, list(network.tap_points()))(images)
        assert torch.equal(logits, network(images))
    assert list(network.tap_points()) == list(expected)
    for (tap, value), actual in zip(expected.items(), taps, strict=True):
        torch.testing.assert_close(actual, value, msg=tap)


CLASSIFIERS = [entry for entry in MODELS if "classification" in entry.tasks and not entry.name.startswith(TIMM)]


@pytest.mark.parametrize("entry", CLASSIFIERS, ids=lambda e: e.name)
def test_catalog_knows_the_taps_of_its_networks(entry: ModelEntry) -> None:
    with torch.device("meta"):
        network = models.build(entry.name, num_classes=5, image_size=max(entry.min_image_size, 32))
        images = torch.empty(1, 3, 64, 64)
        with torch.no_grad():
            outputs = tap_once(network.eval(), list(entry.taps), images)
    assert tuple(network.tap_points()) == entry.taps
    if entry.tap_shapes:
        shapes = {
            name: (len(value[0]), 64 // value.shape[2] if value.ndim > 2 else 0) for name, value in outputs.items()
        }
        assert shapes == {name: (shape.channels, shape.stride) for name, shape in entry.tap_shapes.items()}
    else:
        assert entry.params.model_fields


@pytest.mark.parametrize("path", ["layers.stage2.0", "layers.stage1.0.conv1"])
def test_module_path_is_a_tap(path: str) -> None:
    network, images = network_and_images("resnet8")
    outputs: list[Tensor] = []
    network.get_submodule(path).register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        _, tap = Tapped(network, [path])(images)
    assert torch.equal(tap, outputs[0])


def test_taps_are_read_behind_an_input_adapter() -> None:
    network, images = network_and_images("resnet8")
    adapter = InputAdapter(network, InputFormat((0.5,) * 3, (0.2,) * 3, 32), InputFormat((0.4,) * 3, (0.1,) * 3, 32))
    with torch.no_grad():
        _, tap = Tapped(adapter, ["stage2"])(images)
        assert torch.equal(tap, network.stages(images * adapter.scale + adapter.shift)["stage2"])


def test_evaluation_of_a_tapped_network_captures_nothing() -> None:
    network, images = network_and_images("resnet8")
    tapped = Tapped(network, ["stage1"])
    tapped.network(images)
    assert not tapped._captured


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        ("stage4", "there is no tap 'stage4'; did you mean stage3, stage2, stage1"),
        ("layers.stage9", "the network has no layer 'layers.stage9'; did you mean layers.stage"),
        ("layers.", "the network has no layer 'layers.'; did you mean layers.stage"),
    ],
)
def test_unknown_tap_is_refused_with_similar_names(tap: str, message: str) -> None:
    network, _ = network_and_images("resnet8")
    with pytest.raises(TrainingError, match=message):
        Tapped(network, [tap])


class Overwriting(StagedNetwork):
    """A network whose second stage overwrites the output of the first."""

    def __init__(self) -> None:
        stages = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)]
        super().__init__(nn.Identity(), stages, pool_to_features(), nn.Linear(4, 5))


def test_output_that_a_later_layer_overwrites_is_refused() -> None:
    with torch.no_grad(), pytest.raises(TrainingError, match="changes the output of 'stage1' in place"):
        tap_once(Overwriting().eval(), ["stage1"], torch.randn(1, 3, 8, 8))
    with torch.no_grad():
        assert (tap_once(Overwriting().eval(), ["stage2"], torch.randn(1, 3, 8, 8))["stage2"] >= 0).all()


@pytest.mark.parametrize("name", [*SMALL, *LARGE, *OF_TIMM])
def test_preactivation_tap_is_the_map_before_the_last_activation(name: str) -> None:
    network, images = network_and_images(name)
    *stages, _ = network.tap_points()
    with torch.no_grad():
        _, *taps = Tapped(network, [f"{stage}:preact" for stage in stages])(images)
        outputs = network.stages(images)
    for stage, before in zip(stages, taps, strict=True):
        assert before.shape == outputs[stage].shape, stage
        ends_in_activation = not torch.equal(before, outputs[stage])
        if ends_in_activation and not name.startswith("wrn"):
            assert (before < 0).any()
            torch.testing.assert_close(before.relu(), outputs[stage], msg=stage)


def test_preactivation_tap_exists_where_networks_of_distillation_end_stages_in_relu() -> None:
    for name in ("resnet8", "resnet18_cifar", "vgg8", "shufflenet_v1", "resnet18", "timm:resnet18", "mobilenet_v1"):
        network, images = network_and_images(name)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # timm's last one in a block begins at zero
                nn.init.normal_(module.weight)
        with torch.no_grad():
            _, before, after = Tapped(network, ["stage2:preact", "stage2"])(images)
        assert (before < 0).any(), name
        assert (after >= 0).all(), name


def test_preactivation_tap_of_a_wide_resnet_is_the_batch_norm_of_the_next_block() -> None:
    network, images = network_and_images("wrn_16_1")
    with torch.no_grad():
        logits, *taps = Tapped(network, ["stage2:preact", "stage3:preact"])(images)
        stages = network.stages(images)
        expected = network.get_submodule("layers.stage3.0.bn1")(stages["stage2"])
        torch.testing.assert_close(taps[0], expected)
        torch.testing.assert_close(network.linear(taps[1].relu().mean((2, 3))), logits)


def test_stages_are_those_of_the_network_from_shallow_to_deep() -> None:
    network, images = network_and_images("resnet8")
    with torch.no_grad():
        taps = tap_once(network, ["stages", "last_stage", "last_stage:preact", "features"], images)
    assert list(taps) == ["stage1", "stage2", "stage3", "stage3:preact", "features"]
    assert expand(("stages:preact",), ()) == ("stages:preact",)  # a network that only the worker knows


def test_features_beside_stages_are_left_out_of_a_pyramid() -> None:
    levels = ("p3", "p4", "p5")
    assert expand(("stages", "features"), levels) == levels
    assert expand(("features",), levels) == ("features",)  # which the caller refuses
    assert expand(("stages", "features"), ("stage1", "features")) == ("stage1", "features")


def test_suffix_belongs_to_a_stage() -> None:
    network, _ = network_and_images("resnet8")
    for name in ("features:preact", "layers.stage1.0:preact"):
        with pytest.raises(TrainingError, match="':preact' follows the name of a stage"):
            Tapped(network, [name])
    with pytest.raises(TrainingError, match="there is no tap 'stage4'"):
        Tapped(network, ["stage4:preact"])


def test_deepest_stages_are_paired_first() -> None:
    assert pair_stages(["stage1", "stage2"], ["stage1", "stage2", "stage3"]) == [
        ("stage1", "stage2"),
        ("stage2", "stage3"),
    ]
    assert pair_stages([], ["stage1"]) == []


def shape_of(network: nn.Module, size: int, *names: str) -> NetworkShape:
    images: Any = SimpleNamespace(channels=3, image_size=size, num_classes=5)
    return network_shape(network, names, images)


POOLED = [name for name in [*SMALL, *LARGE] if name != "resnet8x4"]


@pytest.mark.parametrize("name", [*POOLED, "timm:resnet18"])
def test_last_map_is_what_global_average_pooling_reads(name: str) -> None:
    network, images = network_and_images(name)
    with torch.no_grad():
        _, maps = Tapped(network, ["last_map"])(images)
        torch.testing.assert_close(maps.mean((2, 3)), network.features(images))
    shape = shape_of(network, images.shape[-1], "last_map", "features")
    assert shape.averaged == {"last_map"}
    assert list(shape.taps) == ["last_map", "features"]


def test_last_stage_is_what_pooling_reads_in_some_networks_alone() -> None:
    averaged = {}
    for name in ("resnet8", "vgg8", "wrn_16_1", "shufflenet_v1", "shufflenet_v2", "mobilenet_v2_half", "resnet18"):
        network, images = network_and_images(name)
        shape = shape_of(network, images.shape[-1], "last_stage")
        assert "features" not in shape.taps
        averaged[name] = bool(shape.averaged)
    others = {"wrn_16_1": False, "shufflenet_v2": False, "mobilenet_v2_half": False}  # batch norm, or a convolution
    assert averaged == {"resnet8": True, "vgg8": True, "shufflenet_v1": True, "resnet18": True} | others


@pytest.mark.parametrize("name", ["convnext_tiny", "timm:convnext_atto", "timm:mobilenetv3_small_050"])
def test_maps_before_other_layers_than_pooling_are_not_averaged(name: str) -> None:
    network, images = network_and_images(name)
    assert shape_of(network, images.shape[-1], "last_map").averaged == frozenset()


def test_network_without_pooling_of_maps_has_no_last_map() -> None:
    network, images = network_and_images("timm:vit_tiny_patch16_224")
    with pytest.raises(TrainingError, match="the network has no global pooling of maps, so it has no 'last_map'"):
        shape_of(network, images.shape[-1], "last_map")
    with pytest.raises(TrainingError, match="':preact' follows the name of a stage, and 'last_map' is none"):
        shape_of(network, images.shape[-1], "last_map:preact")
