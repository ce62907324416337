"""The networks, by name. Each gives logits, and its penultimate features by ``features(images)``."""

from __future__ import annotations

from typing import Any

from torch import nn

from core.catalog import MODELS


def build(name: str, *, num_classes: int, image_size: int, in_channels: int = 3, **params: Any) -> nn.Module:
    """Build a network with fresh weights from torch's current random state.

    Args:
        name: from the catalog; ``params`` are that entry's own.
        num_classes: C, width of the logits.
        image_size: side of the square images, pixels.
        in_channels: of an image.

    Raises:
        UnknownNameError: no such model; the message offers the nearest names.
        ValueError: the images are too small for it, or a parameter is refused (a pydantic ValidationError).
    """
    entry = MODELS[name]
    if image_size < entry.min_image_size:
        raise ValueError(f"{name} needs images of at least {entry.min_image_size} px, not {image_size} px")
    complete = entry.params.model_validate(params).model_dump()
    model: nn.Module = entry.load()(num_classes=num_classes, in_channels=in_channels, image_size=image_size, **complete)
    return model


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
