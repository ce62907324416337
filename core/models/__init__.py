"""The networks, by name: logits, penultimate features by ``features(images)``, stages by ``stages(images)``."""

from __future__ import annotations

from typing import Any

from torch import nn

from core.catalog import MODELS
from core.models.network import Network, WeightsError
from core.models.weights import SuppliedWeights, load_supplied, read_source

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
    """Build a network with fresh weights from torch's current random state.

    Args:
        name: from the catalog; ``params`` are that entry's own.
        num_classes: C, width of the logits.
        image_size: side of the square images, pixels.
        in_channels: of an image.

    Raises:
        UnknownNameError: no such model; the message offers the nearest names.
        ValueError: it cannot read such images, or a parameter is refused (a pydantic ValidationError).
    """
    entry = MODELS[name]
    if refusal := entry.refusal(image_size, in_channels):
        raise ValueError(f"{refusal}, not {in_channels} × {image_size} × {image_size}")
    complete = entry.params.model_validate(params).model_dump()
    model: Network = entry.load()(num_classes=num_classes, in_channels=in_channels, image_size=image_size, **complete)
    return model


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
