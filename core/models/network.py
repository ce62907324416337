"""What every network of the catalog offers beside its logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from torch import Tensor, nn

KeyMap = Callable[[str], str]
"""From a key of a published checkpoint to the network's own."""


class WeightsError(ValueError):
    """Weights that cannot be used, with what to do about it or the keys that do not fit."""


class Network(nn.Module, ABC):
    """Images (N, channels, H, W) in, logits (N, num_classes) out."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, D): what the last linear layer reads."""

    @abstractmethod
    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """The output of each stage by name, in order; maps (N, channels, height, width) wherever it has maps."""

    @property
    @abstractmethod
    def linear(self) -> nn.Linear:
        """The last linear layer, from features to logits."""

    def map_published_key(self, key: str) -> str:
        """The network's own name for a key of the checkpoints that others publish of it."""
        return key

    def load_pretrained(self, *, allow_download: bool = False) -> None:
        """Load the published weights, except a last layer of another number of classes.

        Args:
            allow_download: Whether weights that are not on this machine may be downloaded.

        Raises:
            WeightsError: There are no published weights, or they are not on this machine and cannot be downloaded.
        """
        raise WeightsError(
            "this network has no published weights; give a file, which `python -m core convert` makes from a checkpoint"
        )


class StagedNetwork(Network):
    """A stem, stages, a head that ends in penultimate features, and a linear classifier.

    Args:
        stem: images to the first maps.
        stages: one module each; they are named stage1, stage2, …
        head: the last stage's output to features (N, D).
        classifier: ends in a linear layer, with dropout before it or nothing.
        keys: names in published checkpoints, see ``Network.map_published_key``.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        head: nn.Module,
        classifier: nn.Linear | nn.Sequential,
        keys: KeyMap | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.layers = nn.ModuleDict({f"stage{number}": stage for number, stage in enumerate(stages, start=1)})
        self.head = head
        self.classifier = classifier
        self._keys = keys

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """The output of the stem, where there is one, and of each stage by name, in order."""
        outputs: dict[str, Tensor] = {}
        last = self.stem(images)
        if not isinstance(self.stem, nn.Identity):
            outputs["stem"] = last
        for name, layer in self.layers.items():
            last = outputs[name] = layer(last)
        return outputs

    def features(self, images: Tensor) -> Tensor:
        last = self.stem(images)
        for layer in self.layers.values():
            last = layer(last)
        features: Tensor = self.head(last)
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits

    @property
    def linear(self) -> nn.Linear:
        last = self.classifier if isinstance(self.classifier, nn.Linear) else self.classifier[-1]
        assert isinstance(last, nn.Linear)
        return last

    def map_published_key(self, key: str) -> str:
        return self._keys(key) if self._keys else key


def pool_to_features() -> nn.Sequential:
    """Global average pooling: maps (N, D, H, W) to features (N, D)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def conv_bn_relu(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    """A convolution without bias that keeps the image's size (stride aside), batch norm, and ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]
    return [*layers, nn.ReLU()] if relu else layers


def initialise_convolutions(network: nn.Module) -> None:
    """He initialisation by fan-out, N(0, 2 / (k²·out)), biases zero: what the distillation literature uses."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
