"""A small convolutional network for small images."""

from __future__ import annotations

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """conv–BN–ReLU–pool, conv–BN–ReLU, global average pool, linear.

    Input (N, in_channels, H, W), output logits (N, num_classes); features (N, 2·width).
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.stage = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, 2·width)."""
        pooled: Tensor = self.pool(self.stage(self.stem(images)))
        return pooled.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits
