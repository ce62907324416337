"""What identifies the data of a run, for its first event, its weights and the outputs of its teacher."""

from __future__ import annotations

import hashlib
from typing import Any

from core.events import DECODING_KEY, IMAGES_KEY
from core.specs import RunSpec
from core.tasks.classification.data.fingerprint import digest
from core.tasks.classification.data.packing import decoder_description
from core.tasks.detection.data import DetectionData, DetectionSplit
from core.weights.metadata import Metadata

_VIEWS_VERSION = 1
"""Increased when the same images come to be shown otherwise; cached outputs of teachers are then not reused."""


def training_metadata(spec: RunSpec, data: DetectionData) -> Metadata:
    """Return the metadata for the weights of a training."""
    return Metadata(classes=data.classes, content_hash=data.content_hash, dataset=spec.dataset.name)


def data_identity(data: DetectionData) -> dict[str, str]:
    """Return what identifies images and objects, and what decoded the images if they are files."""
    if data.content_hash:
        return {IMAGES_KEY: data.content_hash[:16], DECODING_KEY: decoder_description()}
    parts = [_split_digest(split) for split in (data.train, data.test)]
    return {IMAGES_KEY: hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]}


def describe_training_views(data: DetectionData) -> dict[str, Any]:
    """Return all that determines the images and boxes of a training view, except the seed and ``augment``."""
    return {
        "views_version": _VIEWS_VERSION,
        "images": data.pack_key or _split_digest(data.train),
        "rows": hashlib.sha256(data.train.ids.tobytes()).hexdigest(),
        "objects": _objects_digest(data.train),
        "resize": repr(data.resize),
        "flip": data.flip,
    }


def _split_digest(split: DetectionSplit) -> str:
    return hashlib.sha256(f"{digest(split.pixels)} {_objects_digest(split)}".encode()).hexdigest()


def _objects_digest(split: DetectionSplit) -> str:
    objects, found = split.objects, hashlib.sha256()
    for array in (objects.image, objects.boxes, objects.labels, objects.ignored):
        found.update(array.tobytes())
    return found.hexdigest()
