"""What identifies the images and objects of a detection set."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, fields
from typing import Any

import torch

from core.events import DECODING_KEY, IMAGES_KEY
from core.tasks.classification.data.fingerprint import digest
from core.tasks.detection.data.dataset import DetectionData, DetectionSplit
from core.tasks.detection.data.packing import decoder_description
from core.tasks.detection.data.views import VIEWS_VERSION


def describe_training_images(data: DetectionData) -> dict[str, Any]:
    """Return all that determines the training images and boxes that a network receives, except seed and ``augment``.

    It is equal only for data sets that give a network the same images, so that outputs of a teacher can be cached by
    it. Images are identified by the key of their pack, or else by a hash of their bytes, which takes about a second
    per gigabyte.
    """
    return {
        "views_version": VIEWS_VERSION,
        "images": data.pack_key or _digest(data.train),
        "rows": hashlib.sha256(data.train.offsets.tobytes()).hexdigest(),
        "resize": list(astuple(data.resize)),
        "flip": data.flip,
        "canvas": list(data.canvas) if data.canvas else None,
    }


def image_identity(data: DetectionData) -> dict[str, str]:
    """Return the identity of images and objects, and of the decoder of files, for ``Started.environment``.

    Images without a pack are hashed, which takes a second per gigabyte.
    """
    if data.content_hash:
        return {IMAGES_KEY: data.content_hash[:16], DECODING_KEY: decoder_description()}
    parts = " ".join(map(_digest, (data.train, data.test)))
    return {IMAGES_KEY: hashlib.sha256(parts.encode()).hexdigest()[:16]}


def _digest(split: DetectionSplit) -> str:
    """Return a hash of the images and objects of a split."""
    objects = split.objects
    arrays = (split.stored, *(getattr(objects, column.name) for column in fields(objects)))
    parts = [digest(split.pixels), *(digest(torch.from_numpy(array)) for array in arrays)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
