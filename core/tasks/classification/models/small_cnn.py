"""A small convolutional network for small images."""

from __future__ import annotations

from torch import nn

from core.tasks.classification.models.network import StagedNetwork, conv_bn_relu, pool_to_features


class SmallCNN(StagedNetwork):
    """conv–BN–ReLU–pool, conv–BN–ReLU, global average pool, linear.

    Input (N, in_channels, H, W), output logits (N, num_classes); features (N, 2·width).
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: int) -> None:
        super().__init__(
            nn.Sequential(*conv_bn_relu(in_channels, width, 3), nn.MaxPool2d(2)),
            [nn.Sequential(*conv_bn_relu(width, 2 * width, 3))],
            pool_to_features(),
            nn.Linear(2 * width, num_classes),
        )
