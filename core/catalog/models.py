"""The models: their limits. The code is in ``core.models``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from core.catalog.registry import Entry, Params, Registry


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Entry):
    """A network. ``target`` is a callable ``(num_classes, in_channels, image_size, **params) -> nn.Module``.

    Attributes:
        min_image_size: the smallest square image, in pixels, that leaves it something to pool.
    """

    min_image_size: int

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"min_image_size": self.min_image_size}


MODELS: Registry[ModelEntry] = Registry("model")


class SmallCNNParams(Params):
    width: int = Field(16, ge=1, le=1024, description="Channels of the first stage; the second has twice as many.")


MODELS.add(
    ModelEntry(
        name="small_cnn",
        title="Small CNN",
        summary="Two convolutions with batch norm and pooling, then a linear layer: for digits and quick looks.",
        target="core.models.small_cnn:SmallCNN",
        params=SmallCNNParams,
        min_image_size=4,
    )
)
for _depth in (8, 14, 20):
    MODELS.add(
        ModelEntry(
            name=f"resnet{_depth}",
            title=f"ResNet-{_depth}",
            summary=f"CIFAR ResNet of depth {_depth}: three stages of 16, 32 and 64 channels.",
            target=f"core.models.resnet_cifar:resnet{_depth}",
            source="He et al. 2016, arXiv 1512.03385, section 4.2",
            min_image_size=8,
        )
    )
