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
from core.data.packing import decoded_by
from core.events import DECODING_KEY, IMAGES_KEY, Record, Started
from core.models.metadata import Metadata, other_classes
from core.specs import RunSpec
from core.training.errors import TrainingError
from core.training.teacher_input import input_of


def origin_of(spec: RunSpec, dataset: Dataset, top1: float | None = None) -> Metadata:
    """What the weights of a training should say of themselves.

    Args:
        top1: their accuracy on the test images, %.
    """
    return Metadata(
        classes=class_names(spec.dataset, dataset),
        content=dataset.content,
        dataset=spec.dataset.name,
        input=input_of(dataset),
        top1=top1,
    )


def images_of(dataset: Dataset) -> dict[str, str]:
    """For ``Started.environment``: what tells the images from others, and what decoded them where these are files.

    Images without a pack count by their bytes, which takes a second for a gigabyte.
    """
    if dataset.content:
        return {IMAGES_KEY: dataset.content[:16], DECODING_KEY: decoded_by()}
    parts = [digest(part) for split in (dataset.train, dataset.test) for part in (split.images, split.labels)]
    return {IMAGES_KEY: hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]}


def images_over(earlier: Iterable[Record], images: Mapping[str, str]) -> dict[str, str]:
    """``images_of`` for a run that goes on: one that has seen two sets of images is of a set of its own.

    Args:
        earlier: what its journal says of the attempts before.
        images: of this attempt.
    """
    started = (record.event.environment for record in earlier if isinstance(record.event, Started))
    seen = {environment[IMAGES_KEY] for environment in started if IMAGES_KEY in environment} | {images[IMAGES_KEY]}
    if len(seen) == 1:
        return dict(images)
    return {**images, IMAGES_KEY: hashlib.sha256(" ".join(sorted(seen)).encode()).hexdigest()[:16]}


def compare_origin(told: Metadata, spec: RunSpec, dataset: Dataset, *, trained_here: bool = True) -> list[str]:
    """Warnings where a teacher was trained on other images than these; none where it was not, or where nobody knows.

    Args:
        told: what the teacher's weights say.
        trained_here: whether the teacher was trained for this data set and not given from elsewhere.

    Raises TrainingError where its classes are others, since its logits then are of something else.
    """
    ours = class_names(spec.dataset, dataset)
    theirs = told.classes or told.taken_for
    if theirs and (difference := other_classes(theirs, ours)):
        raise TrainingError(
            "spec",
            f"the teacher was trained on other classes: {difference}. Give the data set a folder of another name, so "
            "that it gets a teacher of its own",
        )
    if not told.content or not dataset.content or told.content == dataset.content:
        return []
    if not trained_here:
        return ["the teacher was trained on other images than this run, of the same classes"]
    return [
        "the teacher was trained on other images than this run: the files of the data set have changed since, or are "
        "not the same on its worker; what is compared here was not taught alike"
    ]


def compare_resumed(before: Metadata, spec: RunSpec, dataset: Dataset) -> list[str]:
    """Warnings where a run goes on with other images than those it began with.

    Args:
        before: what its checkpoint says; empty of one that was written before checkpoints said it.

    Raises TrainingError where the classes are others: the network has learnt the names of the old ones.
    """
    difference = other_classes(before.classes, class_names(spec.dataset, dataset)) if before.classes else ""
    if difference:
        raise TrainingError("spec", f"the run began on other classes than are here now: {difference}")
    if before.content and dataset.content and before.content != dataset.content:
        return [
            "the run goes on with other images than it began with: the files of the data set have changed, or are not "
            "the same on this worker"
        ]
    return []
