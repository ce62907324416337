"""Whether weights belong to the data that a run uses: the same classes, and the same images."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import TrainingError
from core.weights.metadata import Metadata, describe_class_differences


def compare_teacher(
    metadata: Metadata, classes: Sequence[str], content_hash: str, *, trained_here: bool = True
) -> list[str]:
    """Return warnings if a teacher was trained on other images than its student's; none if that is not known.

    Args:
        metadata: The metadata of the teacher's weights.
        classes: The names of the student's classes.
        content_hash: What identifies the student's images; "" if it is not known.
        trained_here: Whether the teacher was trained for this data set, and not supplied from elsewhere.

    Raises:
        TrainingError: The teacher has other classes, so its logits mean something else.
    """
    teacher_classes = metadata.classes or metadata.assumed_classes
    if teacher_classes and (difference := describe_class_differences(teacher_classes, classes)):
        raise TrainingError(
            "spec",
            f"the teacher was trained on other classes: {difference}. Give the data set a folder of another name, so "
            "that it gets a teacher of its own",
        )
    if not metadata.content_hash or not content_hash or metadata.content_hash == content_hash:
        return []
    if not trained_here:
        return ["the teacher was trained on other images than this run, of the same classes"]
    return [
        "the teacher was trained on other images than this run: the files of the data set have changed since, or are "
        "different on its worker; the students compared here did not learn from the same teacher"
    ]


def compare_checkpoint(metadata: Metadata, classes: Sequence[str], content_hash: str) -> list[str]:
    """Return warnings if a run continues with other images than those it began with.

    Args:
        metadata: The metadata of its checkpoint; empty in checkpoints of early versions.
        classes: The names of its classes now.
        content_hash: What identifies its images now; "" if it is not known.

    Raises:
        TrainingError: The classes are others: the network has learnt the names of the old ones.
    """
    difference = describe_class_differences(metadata.classes, classes) if metadata.classes else ""
    if difference:
        raise TrainingError("spec", f"the run began on other classes than are here now: {difference}")
    if metadata.content_hash and content_hash and metadata.content_hash != content_hash:
        return [
            "the run continues with other images than it began with: the files of the data set have changed, or are "
            "different on this worker"
        ]
    return []
