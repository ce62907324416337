"""Checks of augmentations against the task of the data set."""

from __future__ import annotations

from collections.abc import Iterator

from core.catalog import AUGMENTATIONS, DATASETS
from core.catalog.augmentations import STRONG
from core.specs.augment import augmentations_of
from core.specs.components import DatasetRef
from core.specs.problems import ProblemParts
from core.specs.training import Training


def augment_problems(training: Training, dataset: DatasetRef) -> Iterator[ProblemParts]:
    """Yield the augmentations that are not for the images of a data set, with their paths in the training."""
    task = DATASETS[dataset.name].task
    suitable = [entry.name for entry in AUGMENTATIONS if task in entry.tasks]
    if not suitable:  # a plug-in's task, which reads the field as it likes
        return
    fields = {"augment": training.augment}
    if training.strong_augment != STRONG:
        fields["strong_augment"] = training.strong_augment
    for field, augment in fields.items():
        for ref in augmentations_of(augment):
            if task not in ref.entry.tasks:
                text = (
                    f"{ref.name} is for {' and '.join(ref.entry.tasks)}; {dataset.name} is a data set of {task}, for "
                    f"which there are {', '.join(suitable)}"
                )
                yield (field,), text, ref.name
