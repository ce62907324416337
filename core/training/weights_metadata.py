"""Which images and classes a network was trained on, compared with those of the run that uses it.

A spec names a folder of images by its path, so its fingerprint cannot tell what lies in it; a teacher and its student
may be trained weeks or machines apart; and weights may come from anywhere. So the facts travel with the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from core.data import Dataset
from core.data.class_names import class_names
from core.data.fingerprint import digest
from core.data.packing import decoder_description
from core.events import DECODING_KEY, IMAGES_KEY, Record, Started
from core.models.metadata import Metadata, describe_class_differences
from core.specs import RunSpec
from core.training.errors import TrainingError
from core.training.teacher_input import input_format_of


def training_metadata(spec: RunSpec, dataset: Dataset, top1: float | None = None) -> Metadata:
    """What the weights of a training should say of themselves.

    Args:
        top1: their accuracy on the test images, %.
    """
    return Metadata(
        classes=class_names(spec.dataset, dataset),
        content_hash=dataset.content_hash,
        dataset=spec.dataset.name,
        input=input_format_of(dataset),
        top1=top1,
    )


def image_identity(dataset: Dataset) -> dict[str, str]:
    """For ``Started.environment``: what tells the images from others, and what decoded them where these are files.

    Images without a pack count by their bytes, which takes a second for a gigabyte.
    """
    if dataset.content_hash:
        return {IMAGES_KEY: dataset.content_hash[:16], DECODING_KEY: decoder_description()}
    parts = [digest(part) for split in (dataset.train, dataset.test) for part in (split.images, split.labels)]
    return {IMAGES_KEY: hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]}


def resumed_image_identity(earlier: Iterable[Record], images: Mapping[str, str]) -> dict[str, str]:
    """``image_identity`` for a run that goes on: one that has seen two sets of images is of a set of its own.

    Args:
        earlier: what its journal says of the attempts before.
        images: of this attempt.
    """
    started = (record.event.environment for record in earlier if isinstance(record.event, Started))
    seen = {environment[IMAGES_KEY] for environment in started if IMAGES_KEY in environment} | {images[IMAGES_KEY]}
    if len(seen) == 1:
        return dict(images)
    return {**images, IMAGES_KEY: hashlib.sha256(" ".join(sorted(seen)).encode()).hexdigest()[:16]}


def compare_teacher(told: Metadata, spec: RunSpec, dataset: Dataset, *, trained_here: bool = True) -> list[str]:
    """Warnings where a teacher was trained on other images than these; none where it was not, or where nobody knows.

    Args:
        told: what the teacher's weights say.
        trained_here: whether the teacher was trained for this data set and not given from elsewhere.

    Raises TrainingError where its classes are others, since its logits then are of something else.
    """
    ours = class_names(spec.dataset, dataset)
    theirs = told.classes or told.assumed_classes
    if theirs and (difference := describe_class_differences(theirs, ours)):
        raise TrainingError(
            "spec",
            f"the teacher was trained on other classes: {difference}. Give the data set a folder of another name, so "
            "that it gets a teacher of its own",
        )
    if not told.content_hash or not dataset.content_hash or told.content_hash == dataset.content_hash:
        return []
    if not trained_here:
        return ["the teacher was trained on other images than this run, of the same classes"]
    return [
        "the teacher was trained on other images than this run: the files of the data set have changed since, or are "
        "not the same on its worker; what is compared here was not taught alike"
    ]


def compare_checkpoint(before: Metadata, spec: RunSpec, dataset: Dataset) -> list[str]:
    """Warnings where a run goes on with other images than those it began with.

    Args:
        before: what its checkpoint says; empty of one that was written before checkpoints said it.

    Raises TrainingError where the classes are others: the network has learnt the names of the old ones.
    """
    difference = (
        describe_class_differences(before.classes, class_names(spec.dataset, dataset)) if before.classes else ""
    )
    if difference:
        raise TrainingError("spec", f"the run began on other classes than are here now: {difference}")
    if before.content_hash and dataset.content_hash and before.content_hash != dataset.content_hash:
        return [
            "the run goes on with other images than it began with: the files of the data set have changed, or are not "
            "the same on this worker"
        ]
    return []
