"""torchvision's ImageNet networks, cut into stem, stages and head. torchvision has their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.models.network import StagedNetwork, WeightsError
from core.models.weights import load_state

WEIGHTS = "IMAGENET1K_V1"  # the ones the distillation literature starts from, not torchvision's later recipes


class TorchvisionNetwork(StagedNetwork):
    """A network of torchvision, regrouped; its tensors keep torchvision's names as their foreign keys."""

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
        ours = {id(tensor): key for key, tensor in self.state_dict(keep_vars=True).items()}
        self._theirs = {key: ours[id(tensor)] for key, tensor in network.state_dict(keep_vars=True).items()}

    def map_published_key(self, key: str) -> str:
        return self._theirs.get(key, key)

    def load_pretrained(self, *, allow_download: bool = False) -> None:
        import torchvision

        weights = torchvision.models.get_model_weights(self.name)[WEIGHTS]
        cached = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
        advice = (
            f"Fetch that file where there is network and put it there as {cached}, or make a file of it with "
            f"`python -m core convert` and name that in teacher.weights"
        )
        if not cached.exists() and not allow_download:
            raise WeightsError(
                f"the weights of {self.name} are not on this machine, and downloads are off. "
                f"They are at {weights.url}. "
                f"{advice}; or set DKD_DOWNLOAD=1"
            )
        try:
            tensors = torch.hub.load_state_dict_from_url(
                weights.url, map_location="cpu", weights_only=True, check_hash=True, progress=False
            )
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum is a RuntimeError
            raise WeightsError(f"cannot load {weights.url}: {error}. {advice}") from error
        load_state(self, tensors, any_classes=True)


class _Swin(TorchvisionNetwork):
    def stages(self, images: Tensor) -> dict[str, Tensor]:
        # Swin keeps channels last; what is handed out has them where every other network has them.
        return {name: maps.permute(0, 3, 1, 2) for name, maps in super().stages(images).items()}


def _made(name: str, num_classes: int) -> Any:
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=num_classes)


def _reading(convolution: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """The same convolution, fresh, for images of other than three channels."""
    if in_channels == convolution.in_channels:
        return convolution
    fresh = nn.Conv2d(
        in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    std = float(convolution.weight.detach().std()) * (convolution.in_channels / in_channels) ** 0.5
    nn.init.normal_(fresh.weight, std=std)
    if fresh.bias is not None:
        nn.init.zeros_(fresh.bias)
    return fresh


def _resnet(name: str) -> Callable[..., TorchvisionNetwork]:
    def make(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
        net = _made(name, num_classes)
        net.conv1 = _reading(net.conv1, in_channels)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        stages = (net.layer1, net.layer2, net.layer3, net.layer4)
        return TorchvisionNetwork(name, net, stem, stages, nn.Sequential(net.avgpool, nn.Flatten()), net.fc)

    return make


resnet18 = _resnet("resnet18")
resnet34 = _resnet("resnet34")
resnet50 = _resnet("resnet50")
resnet101 = _resnet("resnet101")


def shufflenet_v2_x1_0(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
    """ShuffleNetV2 1×; features (N, 1024)."""
    net = _made("shufflenet_v2_x1_0", num_classes)
    net.conv1[0] = _reading(net.conv1[0], in_channels)
    head = nn.Sequential(net.conv5, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stages = (net.stage2, net.stage3, net.stage4)
    return TorchvisionNetwork("shufflenet_v2_x1_0", net, nn.Sequential(net.conv1, net.maxpool), stages, head, net.fc)


def mobilenet_v2(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
    """MobileNetV2; features (N, 1280). A stage ends where the next unit halves the image."""
    net = _made("mobilenet_v2", num_classes)
    net.features[0][0] = _reading(net.features[0][0], in_channels)
    stages = [net.features[start:end] for start, end in ((1, 2), (2, 4), (4, 7), (7, 14), (14, 18))]
    head = nn.Sequential(net.features[18], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return TorchvisionNetwork("mobilenet_v2", net, net.features[0], stages, head, net.classifier)


def convnext_tiny(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
    """ConvNeXt-T; features (N, 768), normalised after the pooling as there."""
    net = _made("convnext_tiny", num_classes)
    net.features[0][0] = _reading(net.features[0][0], in_channels)
    stages = [net.features[1], net.features[2:4], net.features[4:6], net.features[6:8]]
    norm, flatten, linear = net.classifier
    head = nn.Sequential(net.avgpool, norm, flatten)
    return TorchvisionNetwork("convnext_tiny", net, net.features[0], stages, head, linear)


def swin_s(num_classes: int, in_channels: int, image_size: int) -> TorchvisionNetwork:
    """Swin-S; features (N, 768)."""
    net = _made("swin_s", num_classes)
    net.features[0][0] = _reading(net.features[0][0], in_channels)
    stages = [net.features[1], net.features[2:4], net.features[4:6], net.features[6:8]]
    head = nn.Sequential(net.norm, net.permute, net.avgpool, net.flatten)
    return _Swin("swin_s", net, net.features[0], stages, head, net.head)
