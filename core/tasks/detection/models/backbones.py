"""The backbones of detectors: networks for classification without their heads, which return one map for each stride."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from core.catalog.detectors import SMALL_BACKBONES, BackboneParams
from core.catalog.models import TIMM
from core.tasks.classification.models import build
from core.tasks.classification.models.network import StagedNetwork
from core.tasks.classification.models.timm_nets import create_features
from core.tasks.classification.models.wrn import WideResNet
from core.tasks.detection.models.detector import Detector, PublishedBackbone
from core.tasks.detection.models.norms import Norm, with_norm
from core.weights.key_matching import KeyMap

_TRIAL_SIZE = 64  # pixels, on which strides and channels are measured


@dataclass(frozen=True)
class Body:
    """A backbone.

    Attributes:
        module: Maps images to maps by name, fine to coarse.
        channels: The channels of each map.
        strides: The stride of each map. Two may be equal.
        stages: What can be frozen, in order: the stem, then what leads to each further map.
        small: Whether it is for small images.
        rename: Maps the keys of published weights of the whole network to those of ``module``; None if none are known.
    """

    module: nn.Module
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stages: tuple[tuple[nn.Module, ...], ...]
    small: bool = False
    rename: KeyMap | None = None


def build_body(
    name: str, norm: Norm = "batch", stem_stride: int = 1, *, without_finest: bool = False, stride_in_1x1: bool = False
) -> Body:
    """Build a backbone with weights from torch's random state.

    Args:
        name: One of ``core.catalog.detectors``.
        norm: Its normalisation.
        stem_stride: The stride of the first convolution of a network for small images.
        without_finest: Whether to leave out the map of stride 4, or the first map of a network for small images: for
            heads that would cost more on it than on all the others.
        stride_in_1x1: Whether the first convolution of a bottleneck halves the map, as in the published weights of
            detectron2, and not the second one, as in torchvision.

    Raises:
        ValueError: There is no such backbone, or timm cannot build it.
        ImportError: timm is not installed.
    """
    if name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM), norm, without_finest)
    if name in SMALL_BACKBONES:
        return _of_small_network(name, norm, stem_stride, without_finest)
    if name.startswith("resnet"):
        return _of_resnet(name, norm, without_finest, stride_in_1x1)
    if name in _MOBILENET_ENDS:
        return _of_mobilenet(name, norm, without_finest)
    raise ValueError(f"{name} is no backbone for a detector")


class StagedBody(nn.Module):
    """Stem and stages of a network of the catalog, under the keys that they have in it.

    Args:
        network: The network, which is taken apart.
        levels: The names of the stages that are returned.
        activations: What is applied to the map of a stage before it is returned, by the stage's name.
    """

    def __init__(self, network: StagedNetwork, levels: Sequence[str], activations: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.stem, self.layers = network.stem, network.layers
        self.activations = nn.ModuleDict(dict(activations))
        self._levels = tuple(levels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of the stages by name."""
        maps = self.stem(images)
        outputs: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            maps = layer(maps)
            if name in self._levels:
                outputs[name] = self.activations[name](maps) if name in self.activations else maps
        return outputs


class TimmBody(nn.Module):
    """A network of timm that returns the maps of its stages.

    Args:
        network: The network, made with ``features_only``.
        levels: The indices, in the order of timm, of the maps that are returned.
    """

    def __init__(self, network: nn.Module, levels: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self._levels = tuple(levels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps by their indices, as text."""
        maps = self.network(images)
        return {str(index): maps[index] for index in self._levels}


def _of_small_network(name: str, norm: Norm, stem_stride: int, without_finest: bool) -> Body:
    network = build(name, num_classes=2, image_size=32)
    assert isinstance(network, StagedNetwork)
    with_norm(network, norm)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.stride = (stem_stride * first.stride[0], stem_stride * first.stride[1])
    shapes = _trial(network.stages, network)
    shapes.pop("stem", None)
    # If stages have equal strides, the last one is used.
    ends = list({stride: stage for stage, (_, stride) in shapes.items()}.values())
    levels = ends[without_finest:]
    activations = {}
    if isinstance(network, WideResNet):
        # Its stages end before an activation that belongs to the next block; without one, their values grow with
        # the number of blocks.
        activations = {stage: nn.Sequential(nn.BatchNorm2d(shapes[stage][0]), nn.ReLU()) for stage in levels[:-1]}
        assert isinstance(network.head, nn.Sequential)
        activations[levels[-1]] = network.head[:2]
        for activation in activations.values():
            with_norm(activation, norm)
    stages: list[tuple[nn.Module, ...]] = [(network.stem,)]
    waiting: list[nn.Module] = []
    for stage, layer in network.layers.items():
        waiting += [layer, *([activations[stage]] if stage in activations else [])]
        if stage in ends:
            stages.append(tuple(waiting))
            waiting = []
    return Body(
        StagedBody(network, levels, activations),
        tuple(shapes[stage][0] for stage in levels),
        tuple(shapes[stage][1] for stage in levels),
        tuple(stages),
        small=True,
        rename=network.map_published_key,
    )


def _trial(stages: Callable[[Tensor], dict[str, Tensor]], network: nn.Module) -> dict[str, tuple[int, int]]:
    """Return channels and stride of each map, measured in eval mode so that nothing changes."""
    network.eval()
    with torch.no_grad():
        maps = stages(torch.zeros(1, 3, _TRIAL_SIZE, _TRIAL_SIZE))
    network.train()
    return {name: (tensor.shape[1], _TRIAL_SIZE // tensor.shape[2]) for name, tensor in maps.items()}


def _of_resnet(name: str, norm: Norm, without_finest: bool, stride_in_1x1: bool) -> Body:
    network: Any = torchvision.models.get_model(name, weights=None)
    with_norm(network, norm)
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    if stride_in_1x1:
        for layer in layers[1:]:
            if isinstance(layer[0], torchvision.models.resnet.Bottleneck):
                layer[0].conv1.stride, layer[0].conv2.stride = layer[0].conv2.stride, layer[0].conv1.stride
    width = network.inplanes // 8
    stages: list[tuple[nn.Module, ...]] = [(network.conv1, network.bn1), *((layer,) for layer in layers)]
    levels = range(without_finest, 4)
    body = IntermediateLayerGetter(network, {f"layer{level + 1}": f"layer{level + 1}" for level in levels})
    channels, strides = (tuple(least * 2**level for level in levels) for least in (width, 4))
    return Body(body, channels, strides, tuple(stages), rename=str)


# The layers that end a stage; and the layers whose maps are returned, each with its stride. For V3 these are the two
# layers that torchvision's published detectors use, both of stride 32.
_MOBILENET_ENDS: dict[str, tuple[tuple[int, ...], dict[int, int]]] = {
    "mobilenet_v2": ((1, 3, 6, 13, 17), {3: 4, 6: 8, 13: 16, 17: 32}),
    "mobilenet_v3_large": ((1, 3, 6, 12, 16), {13: 32, 16: 32}),
}


def _of_mobilenet(name: str, norm: Norm, without_finest: bool) -> Body:
    layers: Any = torchvision.models.get_model(name, weights=None).features
    with_norm(layers, norm)
    ends, maps = _MOBILENET_ENDS[name]
    returned = {number: stride for number, stride in maps.items() if stride > 4 or not without_finest}
    starts = (0, *(end + 1 for end in ends[:-1]))
    stages = tuple(tuple(layers[start : end + 1]) for start, end in zip(starts, ends, strict=True))
    body = IntermediateLayerGetter(layers, {str(number): str(number) for number in returned})
    channels = tuple(layers[number].out_channels for number in returned)
    return Body(body, channels, tuple(returned.values()), stages, rename=lambda key: key.removeprefix("features."))


def _of_timm(name: str, norm: Norm, without_finest: bool) -> Body:
    network = create_features(name)
    with_norm(network, norm)
    strides, channels = network.feature_info.reduction(), network.feature_info.channels()
    levels = [number for number, stride in enumerate(strides) if stride >= (8 if without_finest else 4)]
    chosen = tuple(strides[number] for number in levels)
    if len(set(chosen)) != len(chosen) or len(chosen) < 2:
        text = f"timm:{name} does not reduce its maps step by step (strides {strides}), as a pyramid requires"
        raise ValueError(text)
    stages = _timm_stages(network)
    return Body(TimmBody(network, levels), tuple(channels[number] for number in levels), chosen, stages)


def _timm_stages(network: Any) -> tuple[tuple[nn.Module, ...], ...]:
    """Return the stages, of which the first ends with the first map; () if timm does not divide the network."""
    ends = getattr(network, "return_layers", None)
    if not ends or not isinstance(network, nn.ModuleDict):
        return ()
    stages: list[tuple[nn.Module, ...]] = []
    waiting: list[nn.Module] = []
    for name, module in network.items():
        waiting.append(module)
        if name in ends:
            stages.append(tuple(waiting))
            waiting = []
    return tuple(stages)


_D = TypeVar("_D", bound=Detector)


def with_backbone(detector: _D, params: BackboneParams, body: Body) -> _D:
    """Return a detector that knows its backbone, and whose first stages are frozen.

    Raises:
        ValueError: The backbone has fewer stages than are to be frozen, or they are not known.
    """
    if params.frozen_stages > len(body.stages):
        count = f"{len(body.stages)} stages" if body.stages else "stages that are not known"
        raise ValueError(f"frozen_stages is {params.frozen_stages}, and {params.backbone} has {count}")
    detector.backbone = PublishedBackbone(params.backbone, body.module, body.rename)
    detector.freeze([module for stage in body.stages[: params.frozen_stages] for module in stage])
    return detector
