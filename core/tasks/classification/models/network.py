"""The interface of the networks of the catalog, and its common implementation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from core.catalog.taps import FEATURES
from core.weights.errors import WeightsError
from core.weights.key_matching import KeyMap


def _unchanged(output: Tensor) -> Tensor:
    return output


@dataclass(frozen=True)
class TapPoint:
    """Where in a network a tap is.

    Attributes:
        module: The layer.
        takes_input: Whether the tap is the layer's input; if not, it is its output.
        convert: Maps what the layer gives to a tensor (B, channels, height, width) or (B, D).
    """

    module: nn.Module
    takes_input: bool = False
    convert: Callable[[Any], Tensor] = _unchanged


class Network(nn.Module, ABC):
    """A classifier that maps images (N, channels, H, W) to logits (N, num_classes).

    Attributes:
        allow_download: Whether ``load_pretrained`` may download weights that are not on this machine.
    """

    allow_download: bool = False

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features (N, D), which are the input of the last linear layer."""

    @abstractmethod
    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """Return the output of each stage by name, in order; feature maps are (N, channels, height, width)."""

    @property
    @abstractmethod
    def linear(self) -> nn.Linear:
        """The last linear layer, from features to logits."""

    def tap_points(self) -> dict[str, TapPoint]:
        """Return the layers that methods may read by name, in order. The last one is that of the features."""
        return {FEATURES: TapPoint(self.linear, takes_input=True)}

    def with_head(self, head: nn.Module, linear: nn.Linear) -> Network:
        """Return a network of the same stages, not copies of them, that ends in another head and another classifier.

        Args:
            head: Maps the last stage's output to features (N, D).
            linear: Maps the features to logits.

        Raises:
            ValueError: The network is not divided into stages and a head.
        """
        raise ValueError("its head cannot be replaced, because it is not divided into stages of maps and a head")

    def pooling_point(self) -> TapPoint | None:
        """Return the input of global average pooling; None if there is no such layer."""
        return None

    def preactivation_point(self, stage: str) -> TapPoint:
        """Return where the map of a stage is before the activation that ends it; its output if no activation does.

        Args:
            stage: A name in ``tap_points``, except that of the features.
        """
        point = self.tap_points()[stage]
        activation = _last_activation(point.module)
        if activation is None:
            return point
        # An activation that works in place would overwrite what is tapped.
        convert = torch.clone if getattr(activation, "inplace", False) else _unchanged
        return replace(point, module=activation, takes_input=True, convert=lambda value: point.convert(convert(value)))

    def preactivation_norm(self, stage: str) -> nn.Module | None:
        """Return the last batch norm before the activation that ends a stage; None if it cannot be seen.

        In a residual block it is that of the branch, whose output is then added to the shortcut.

        Args:
            stage: A name in ``tap_points``, except that of the features.
        """
        return _last_norm(self.tap_points()[stage].module)

    def map_published_key(self, key: str) -> str:
        """Return the network's key for a key of published checkpoints of it."""
        return key

    def load_pretrained(self) -> None:
        """Load the published weights, except a last layer with another number of classes.

        Weights that are not on this machine are downloaded only if ``allow_download`` is set.

        Raises:
            WeightsError: there are no published weights, or they are not available on this machine.
        """
        raise WeightsError(
            "this network has no published weights; give a file, for example one "
            "that `python -m core convert` made of a checkpoint"
        )


_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish)
_LAST_IN_BLOCK = ("act3", "act2", "relu")
"""Names of the activation that a residual block of timm, of torchvision and of this package applies last."""


def _last_activation(module: nn.Module) -> nn.Module | None:
    """Return the activation that ends a stage; None if there is none, or it cannot be seen in the modules."""
    while isinstance(module, nn.Sequential | nn.ModuleList) and len(module):
        module = module[-1]
    if isinstance(module, _ACTIVATIONS):
        return module
    if children := getattr(module, "blocks", None):  # a stage of timm
        return _last_activation(children) if isinstance(children, nn.Sequential | nn.ModuleList) else None
    named = (getattr(module, name, None) for name in _LAST_IN_BLOCK)
    return next((child for child in named if isinstance(child, _ACTIVATIONS)), None)


_BRANCHES = ("bn3", "bn2", "conv", "expand")
"""Names of the batch norm, or of the layers that end in it, of a residual branch in torchvision, timm and here."""


def _last_norm(module: nn.Module) -> nn.Module | None:
    """Return the batch norm that ends a module, before an activation if there is one; None if it cannot be seen."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module
    if isinstance(module, nn.Sequential | nn.ModuleList):
        layers = [layer for layer in module if not isinstance(layer, _ACTIVATIONS)]
        return _last_norm(layers[-1]) if layers else None
    branches = [child for name in _BRANCHES if isinstance(child := getattr(module, name, None), nn.Module)]
    return _last_norm(branches[0]) if branches else None


class StagedNetwork(Network):
    """A stem, stages, a head that ends in penultimate features, and a linear classifier.

    Args:
        stem: maps images to the first feature maps.
        stages: the stages, which are named stage1, stage2, …
        head: maps the output of the last stage to features (N, D).
        classifier: a linear layer, or a sequence that ends in one.
        keys: maps keys of published checkpoints, see ``Network.map_published_key``.
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
        """Return the output of the stem, if there is one, and of each stage by name, in order."""
        outputs: dict[str, Tensor] = {}
        maps = self.stem(images)
        if not isinstance(self.stem, nn.Identity):
            outputs["stem"] = maps
        for name, layer in self.layers.items():
            maps = outputs[name] = layer(maps)
        return outputs

    def tap_points(self) -> dict[str, TapPoint]:
        stem = {} if isinstance(self.stem, nn.Identity) else {"stem": TapPoint(self.stem)}
        return stem | {name: TapPoint(layer) for name, layer in self.layers.items()} | super().tap_points()

    def pooling_point(self) -> TapPoint | None:
        pooling = [module for module in self.head.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
        return TapPoint(pooling[-1], takes_input=True) if pooling else None

    def with_head(self, head: nn.Module, linear: nn.Linear) -> Network:
        return StagedNetwork(self.stem, self.layers.values(), head, linear)

    def features(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        for layer in self.layers.values():
            maps = layer(maps)
        features: Tensor = self.head(maps)
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
    """Return global average pooling, which maps (N, D, H, W) to features (N, D)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def conv_bn_relu(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    """Return a convolution without bias and with 'same' padding, batch norm, and optionally ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]
    return [*layers, nn.ReLU()] if relu else layers


def initialise_convolutions(network: nn.Module) -> None:
    """Apply He initialisation by fan-out, N(0, 2 / (k²·out)) with zero biases, as in the distillation literature."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
