"""What a file of weights says of the data that they were trained on."""

from __future__ import annotations

from core.specs import RunSpec
from core.tasks.detection.data import DetectionData
from core.weights.metadata import Metadata


def training_metadata(spec: RunSpec, data: DetectionData) -> Metadata:
    """Return the metadata for the weights of a training."""
    return Metadata(classes=data.classes, content_hash=data.content_hash, dataset=spec.dataset.name)
