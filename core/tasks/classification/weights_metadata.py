"""The images and classes that a network was trained on, compared with those of the run that uses the network.

A spec names a folder of images by its path, so the fingerprint of the spec does not identify its content; a teacher and
its student may be trained weeks or machines apart; and weights may come from anywhere. So the facts travel with the
weights.
"""

from __future__ import annotations

import hashlib

from core.errors import TrainingError
from core.events import DECODING_KEY, IMAGES_KEY
from core.specs import RunSpec
from core.tasks.classification.data import Dataset
from core.tasks.classification.data.class_names import class_names
from core.tasks.classification.data.fingerprint import digest
from core.tasks.classification.data.packing import decoder_description
from core.tasks.classification.teacher_input import input_format_of
from core.weights.metadata import Metadata, describe_class_differences


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
    """Return what identifies the images, and what decoded them if they are files, for ``Started.environment``.

    Images without a pack are hashed, which takes a second per gigabyte.
    """
    if dataset.content_hash:
        return {IMAGES_KEY: dataset.content_hash[:16], DECODING_KEY: decoder_description()}
    parts = [digest(part) for split in (dataset.train, dataset.test) for part in (split.images, split.labels)]
    return {IMAGES_KEY: hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]}


def compare_teacher(metadata: Metadata, spec: RunSpec, dataset: Dataset, *, trained_here: bool = True) -> list[str]:
    """Return warnings if a teacher was trained on other images than its student's; none if that is not known.

    Args:
        metadata: The metadata of the teacher's weights.
        spec: The student's run.
        dataset: The student's images.
        trained_here: Whether the teacher was trained for this data set, and not supplied from elsewhere.

    Raises:
        TrainingError: The teacher has other classes, so its logits mean something else.
    """
    classes = class_names(spec.dataset, dataset)
    teacher_classes = metadata.classes or metadata.assumed_classes
    if teacher_classes and (difference := describe_class_differences(teacher_classes, classes)):
        raise TrainingError(
            "spec",
            f"the teacher was trained on other classes: {difference}. Give the data set a folder of another name, so "
            "that it gets a teacher of its own",
        )
    if not metadata.content_hash or not dataset.content_hash or metadata.content_hash == dataset.content_hash:
        return []
    if not trained_here:
        return ["the teacher was trained on other images than this run, of the same classes"]
    return [
        "the teacher was trained on other images than this run: the files of the data set have changed since, or are "
        "different on its worker; the students compared here did not learn from the same teacher"
    ]


def compare_checkpoint(metadata: Metadata, spec: RunSpec, dataset: Dataset) -> list[str]:
    """Return warnings if a run continues with other images than those it began with.

    Args:
        metadata: The metadata of its checkpoint; empty in checkpoints of early versions.
        spec: The run.
        dataset: Its images now.

    Raises:
        TrainingError: The classes are others: the network has learnt the names of the old ones.
    """
    classes = class_names(spec.dataset, dataset)
    difference = describe_class_differences(metadata.classes, classes) if metadata.classes else ""
    if difference:
        raise TrainingError("spec", f"the run began on other classes than are here now: {difference}")
    if metadata.content_hash and dataset.content_hash and metadata.content_hash != dataset.content_hash:
        return [
            "the run continues with other images than it began with: the files of the data set have changed, or are "
            "different on this worker"
        ]
    return []
