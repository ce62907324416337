"""The detectors of the catalog, built on the parts of torchvision."""

from __future__ import annotations

from typing import Any

from core.catalog import MODELS
from core.tasks.detection.models.detector import CANVAS, DEEPEST, Detector, NoRegionsError

__all__ = ["CANVAS", "DEEPEST", "Detector", "NoRegionsError", "build"]


def build(name: str, *, num_classes: int, **params: Any) -> Detector:
    """Build a detector with new weights from torch's current random state.

    Args:
        name: Name of the catalog entry.
        num_classes: C, the number of classes with the background.
        params: Parameters of the catalog entry.

    Raises:
        UnknownNameError: There is no such model; the message suggests similar names.
        ValueError: The model is no detector, or a parameter is invalid (a pydantic ValidationError).
        ImportError: The backbone needs a package that is not installed.
    """
    entry = MODELS[name]
    if "detection" not in entry.tasks:
        raise ValueError(f"{name} is no detector")
    if num_classes < 2:
        raise ValueError("a detector needs at least one class beside the background")
    detector: Detector = entry.load()(num_classes, entry.params.model_validate(params))
    return detector
