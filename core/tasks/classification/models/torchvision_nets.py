"""The ImageNet networks of torchvision, divided into stem, stages and head, with their published weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.tasks.classification.models.network import Network, StagedNetwork, TapPoint
from core.tasks.classification.models.weights import load_state
from core.weights.errors import WeightsError

WEIGHTS = "IMAGENET1K_V1"  # used in the distillation literature, unlike the weights of torchvision's later recipes


class TorchvisionNetwork(StagedNetwork):
    """A regrouped network of torchvision that accepts checkpoints with the keys of torchvision."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        head: nn.Module,
        classifier: nn.Linear | nn.Sequential,
    ) -> None:
        super().__init__(stem, stages, head, classifier)
        self.name = name
        key_of = {id(tensor): key for key, tensor in self.state_dict(keep_vars=True).items()}
        self._published_keys = {key: key_of[id(tensor)] for key, tensor in network.state_dict(keep_vars=True).items()}

    def map_published_key(self, key: str) -> str:
        return self._published_keys.get(key, key)

    def load_pretrained(self) -> None:
        load_state(self, published_tensors(self.name, WEIGHTS, self.allow_download), any_classes=True)


def published_tensors(name: str, weights: str, allow_download: bool) -> dict[str, Tensor]:
    """Return weights that torchvision publishes, under its keys.

    Args:
        name: Name of the network in torchvision.
        weights: Name of its weights.
        allow_download: Whether to download them if they are not on this machine.

    Raises:
        WeightsError: The weights are not available; the message says where to get them, and where to put them.
    """
    import torchvision

    published = torchvision.models.get_model_weights(name)[weights]
    cached = Path(torch.hub.get_dir(), "checkpoints", published.url.rpartition("/")[2])
    advice = (
        f"Download that file on a machine with network access and store it as {cached}, or convert it with "
        f"`python -m core convert` and give that file in teacher.weights"
    )
    if not cached.exists() and not allow_download:
        raise WeightsError(
            f"the weights of {name} are not on this machine, and downloads are off. "
            f"They are at {published.url}. "
            f"{advice}; or set DKD_DOWNLOAD=1"
        )
    try:
        tensors: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            published.url, map_location="cpu", weights_only=True, check_hash=True, progress=False
        )
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum is a RuntimeError
        raise WeightsError(f"cannot load {published.url}: {error}. {advice}") from error
    return tensors


class _Swin(TorchvisionNetwork):
    def with_head(self, head: nn.Module, linear: nn.Linear) -> Network:
        return Network.with_head(self, head, linear)  # the maps have their channels last

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        # Swin has channels last; the result has the layout of the other networks.
        return {name: _channels_first(maps) for name, maps in super().stages(images).items()}

    def tap_points(self) -> dict[str, TapPoint]:
        points = super().tap_points()
        return {
            name: point if point.takes_input else replace(point, convert=_channels_first)
            for name, point in points.items()
        }


def _channels_first(maps: Tensor) -> Tensor:
    return maps.permute(0, 3, 1, 2)


def _create(name: str, num_classes: int) -> Any:
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=num_classes)


def _with_input_channels(convolution: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """Return the convolution, or a newly initialised one if the images do not have three channels."""
    if in_channels == convolution.in_channels:
        return convolution
    replacement = nn.Conv2d(
        in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    std = float(convolution.weight.detach().std()) * (convolution.in_channels / in_channels) ** 0.5
    nn.init.normal_(replacement.weight, std=std)
    if replacement.bias is not None:
        nn.init.zeros_(replacement.bias)
    return replacement


def _resnet(name: str) -> Callable[..., TorchvisionNetwork]:
    def make(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
        net = _create(name, num_classes)
        net.conv1 = _with_input_channels(net.conv1, in_channels)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        stages = (net.layer1, net.layer2, net.layer3, net.layer4)
        return TorchvisionNetwork(name, net, stem, stages, nn.Sequential(net.avgpool, nn.Flatten()), net.fc)

    return make


resnet18 = _resnet("resnet18")
resnet34 = _resnet("resnet34")
resnet50 = _resnet("resnet50")
resnet101 = _resnet("resnet101")


def shufflenet_v2_x1_0(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
    """Build ShuffleNetV2 1×; features (N, 1024)."""
    net = _create("shufflenet_v2_x1_0", num_classes)
    net.conv1[0] = _with_input_channels(net.conv1[0], in_channels)
    head = nn.Sequential(net.conv5, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stages = (net.stage2, net.stage3, net.stage4)
    return TorchvisionNetwork("shufflenet_v2_x1_0", net, nn.Sequential(net.conv1, net.maxpool), stages, head, net.fc)


def mobilenet_v2(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
    """Build MobileNetV2; features (N, 1280). A stage ends before the unit that halves the image."""
    net = _create("mobilenet_v2", num_classes)
    net.features[0][0] = _with_input_channels(net.features[0][0], in_channels)
    stages = [net.features[start:end] for start, end in ((1, 2), (2, 4), (4, 7), (7, 14), (14, 18))]
    head = nn.Sequential(net.features[18], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return TorchvisionNetwork("mobilenet_v2", net, net.features[0], stages, head, net.classifier)


def convnext_tiny(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
    """Build ConvNeXt-T; features (N, 768), normalised after the pooling."""
    net = _create("convnext_tiny", num_classes)
    net.features[0][0] = _with_input_channels(net.features[0][0], in_channels)
    stages = [net.features[1], net.features[2:4], net.features[4:6], net.features[6:8]]
    norm, flatten, linear = net.classifier
    head = nn.Sequential(net.avgpool, norm, flatten)
    return TorchvisionNetwork("convnext_tiny", net, net.features[0], stages, head, linear)


def swin_s(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
    """Build Swin-S; features (N, 768)."""
    net = _create("swin_s", num_classes)
    net.features[0][0] = _with_input_channels(net.features[0][0], in_channels)
    stages = [net.features[1], net.features[2:4], net.features[4:6], net.features[6:8]]
    head = nn.Sequential(net.norm, net.permute, net.avgpool, net.flatten)
    return _Swin("swin_s", net, net.features[0], stages, head, net.head)
