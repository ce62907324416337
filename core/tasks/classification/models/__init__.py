"""The networks of the catalog, which return logits, penultimate features and the outputs of their stages."""

from __future__ import annotations

from typing import Any

from torch import nn

from core.catalog import MODELS
from core.tasks.classification.models.network import Network
from core.tasks.classification.models.weights import SuppliedWeights, load_supplied, read_source
from core.weights.errors import WeightsError

__all__ = [
    "Network",
    "SuppliedWeights",
    "WeightsError",
    "build",
    "count_parameters",
    "load_supplied",
    "read_source",
]


def build(name: str, *, num_classes: int, image_size: int, in_channels: int = 3, **params: Any) -> Network:
    """Build a network with new weights from torch's current random state.

    Args:
        name: name of the catalog entry.
        num_classes: number of classes C, the width of the logits.
        image_size: side of the square images in pixels.
        in_channels: number of channels of an image.
        params: parameters of the catalog entry.

    Raises:
        UnknownNameError: there is no such model; the message suggests similar names.
        ValueError: the network does not accept such images, or a parameter is invalid (a pydantic ValidationError).
    """
    entry = MODELS[name]
    if refusal := entry.refusal(image_size, in_channels):
        raise ValueError(f"{refusal}, not {in_channels} × {image_size} × {image_size}")
    complete = entry.params.model_validate(params).model_dump()
    model: Network = entry.load()(num_classes=num_classes, in_channels=in_channels, image_size=image_size, **complete)
    return model


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
