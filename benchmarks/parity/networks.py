"""Networks with the interfaces of public repositories that answer every image with given outputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from benchmarks.parity.inputs import Inputs, Network
from benchmarks.public_code import configuration
from core.catalog.taps import FEATURES, STEM, STRONG_LOGITS

STRONG = "strong"
"""The image of the second view."""


class Answers(nn.Module):
    """A network of mdistiller's interface, and of those of its forks.

    Args:
        network: The outputs.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.given, stem = network, network.outputs[STEM]
        self.features: dict[str, Any] = {
            "feats": [stem, *network.stages],
            "preact_feats": [stem, *network.preactivations],
            "pooled_feat": network.outputs[FEATURES],
        }

    def forward(self, image: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the logits and the features."""
        is_strong = isinstance(image, str) and image == STRONG
        return self.given.outputs[STRONG_LOGITS if is_strong else "logits"], self.features

    def get_stage_channels(self) -> list[int]:
        """Return the channels of the stem and the stages."""
        return [maps.shape[1] for maps in self.features["feats"]]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """Return the batch norm before the activation of each stage."""
        return list(self.given.norms)


class Overhauled(nn.Module):
    """A network of the interface of clovaai/overhaul-distillation.

    Args:
        network: The outputs.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._given = network

    def extract_feature(self, image: Any, preReLU: bool) -> tuple[list[Tensor], Tensor]:  # noqa: N803
        """Return the maps before the activation, and the logits."""
        return self._given.preactivations, self._given.outputs["logits"]

    def get_channel_num(self) -> list[int]:
        """Return the channels of the stages."""
        return [maps.shape[1] for maps in self._given.preactivations]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """Return the batch norm before the activation of each stage."""
        return list(self._given.norms)


def settings_of(inputs: Inputs, negatives: int) -> SimpleNamespace:
    """Return mdistiller's default settings for networks of these shapes."""
    sides = inputs.student, inputs.teacher
    channels = [(*(maps.shape[1] for maps in side.stages), side.outputs[FEATURES].shape[1]) for side in sides]
    heights = [(*(maps.shape[2] for maps in side.stages), 1) for side in sides]
    return configuration(channels[0], channels[1], negatives, (heights[0], heights[1]))
