"""The images and classes that a network was trained on, compared with those of the run that uses the network.

A spec names a folder of images by its path, so the fingerprint of the spec does not identify its content; a teacher and
its student may be trained weeks or machines apart; and weights may come from anywhere. So the facts travel with the
weights.
"""

from __future__ import annotations

import hashlib

from core.events import DECODING_KEY, IMAGES_KEY
from core.specs import RunSpec
from core.tasks.classification.data import Dataset
from core.tasks.classification.data.class_names import class_names
from core.tasks.classification.data.fingerprint import digest
from core.tasks.classification.data.packing import decoder_description
from core.tasks.classification.teacher_input import input_format_of
from core.weights.metadata import Metadata


def training_metadata(spec: RunSpec, dataset: Dataset, top1: float | None = None) -> Metadata:
    """Return the metadata for the weights of a training.

    Args:
        spec: The run.
        dataset: The images that it is trained on.
        top1: The accuracy of the weights on the test images, %; None if it is not known yet.
    """
    return Metadata(
        classes=class_names(spec.dataset, dataset),
        content_hash=dataset.content_hash,
        dataset=spec.dataset.name,
        input=input_format_of(dataset),
        top1=top1,
    )


def image_identity(dataset: Dataset) -> dict[str, str]:
    """Return the identity of the images, and of their decoder if they are files, for ``Started.environment``.

    Images without a pack are hashed, which takes a second per gigabyte.
    """
    if dataset.content_hash:
        return {IMAGES_KEY: dataset.content_hash[:16], DECODING_KEY: decoder_description()}
    parts = [digest(part) for split in (dataset.train, dataset.test) for part in (split.images, split.labels)]
    return {IMAGES_KEY: hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]}
