"""The predictions of one network, and of what it is compared with, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.artifacts.finished_runs import unreadable
from backend.artifacts.run_results import RunResults
from backend.errors import ApiError, invalid
from core.catalog.tasks import CLASSIFICATION
from core.items.statistics import check_same_data
from core.items.table import Items, ItemsError
from core.protocol.base import ProblemField

_MOST_CLASSES = 100_000
TEACHER = "teacher"
NONE_KEPT = "this run kept no predictions of its test images: an older version trained it, or they could not be written"


class NotKeptError(ItemsError):
    """A run kept no such results; its file is not damaged."""


@dataclass(frozen=True)
class Predictions:
    """What one network predicts for the test images.

    Attributes:
        target: (N,) classes of the images.
        predicted: (N,) predicted classes.
        probability: (N,) probabilities of the image's own class.
        confidence: (N,) probabilities of the predicted class; None if they were not kept.
    """

    target: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    confidence: NDArray[np.float64] | None

    @property
    def right(self) -> NDArray[np.bool_]:
        """Return for which images the class is predicted, (N,)."""
        right: NDArray[np.bool_] = self.target == self.predicted
        return right


@dataclass(frozen=True)
class Compared:
    """A run's predictions, and those that they are compared with.

    Attributes:
        run: The run's.
        other: Those of its reference; None without one.
        reference: ``teacher``, the id of a run, or empty.
        classes: Names of the classes.
    """

    run: Predictions
    other: Predictions | None
    reference: str
    classes: tuple[str, ...]


def items_of(results: RunResults, run_id: str, attempt: int) -> Items:
    """Return the per-item results of a run of classification, whose classes are known to be in range.

    Raises:
        NotKeptError: There are none.
        ItemsError: They cannot be read.
    """
    items = results.items(run_id, attempt)
    if items is None:
        raise NotKeptError(NONE_KEPT)
    if items.task != CLASSIFICATION.name:
        raise NotKeptError("this run does not predict one class for each image")
    size = class_count(items)
    for name in ("target", "predicted", *(["teacher_predicted"] if "teacher_predicted" in items.columns else [])):
        column = items.column(name)
        if column.dtype.kind not in "iu" or (len(column) and not 0 <= int(column.min()) <= int(column.max()) < size):
            raise ItemsError(f"items.parquet: its column {name!r} has numbers that are no classes")
    return items


def class_count(items: Items) -> int:
    """Return the number of classes: of the names, or, without names, the largest number of a class plus 1.

    Raises:
        ItemsError: It is larger than any data set's.
    """
    if items.classes:
        return len(items.classes)
    named = [name for name in ("target", "predicted", "teacher_predicted") if name in items.columns]
    size = 1 + max((int(items.column(name).max()) for name in named if len(items)), default=-1)
    if size > _MOST_CLASSES:
        raise ItemsError(f"items.parquet: it has {size:,} classes, and {_MOST_CLASSES:,} is the limit here")
    return size


def class_names(items: Items) -> tuple[str, ...]:
    """Return the names of the classes, or their numbers if they have no names."""
    return items.classes or tuple(map(str, range(class_count(items))))


def own(items: Items) -> Predictions:
    """Return the predictions of a run's network."""
    return _predictions(items, "")


def of_teacher(items: Items) -> Predictions | None:
    """Return the predictions of a run's teacher; None without one."""
    return _predictions(items, "teacher_") if "teacher_predicted" in items.columns else None


def compared(results: RunResults, run: tuple[str, int], against: str | None, other: tuple[str, int] | None) -> Compared:
    """Return a run's predictions beside those of its reference.

    Args:
        results: The files of runs.
        run: Id and attempt of the run.
        against: ``teacher`` or the id of a run; None for the teacher, if the run has one.
        other: Id and attempt of the reference, if it is a run.

    Raises:
        ApiError: 404 if a run kept no predictions, 422 if the two cannot be compared, 409 if a file is damaged.
    """
    items = read(results, *run)
    if other is None:
        teacher = of_teacher(items)
        if against == TEACHER and teacher is None:
            text = "this run has no teacher whose predictions it kept"
            raise invalid(text, ProblemField(path="against", message=text))
        return Compared(own(items), teacher, TEACHER if teacher else "", class_names(items))
    second = read(results, *other)
    try:
        check_same_data(items, second)
        if class_names(items) != class_names(second):
            raise ItemsError("the runs cannot be compared item by item: their classes differ")
    except ItemsError as error:
        raise invalid(str(error), ProblemField(path="against", message=str(error))) from error
    return Compared(own(items), own(second), other[0], class_names(items))


def read(results: RunResults, run_id: str, attempt: int) -> Items:
    """Return the per-item results of a run of classification.

    Raises:
        ApiError: 404 if it kept none, 409 if they cannot be read.
    """
    try:
        return items_of(results, run_id, attempt)
    except NotKeptError as error:
        raise ApiError(404, str(error)) from error
    except ItemsError as error:
        raise unreadable(error) from error


def _predictions(items: Items, prefix: str) -> Predictions:
    def floats(name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = items.column(name).astype(np.float64)
        return values

    def classes(name: str) -> NDArray[Any]:
        return items.column(name).astype(np.int64)

    confidence = floats(f"{prefix}confidence") if f"{prefix}confidence" in items.columns else None
    return Predictions(classes("target"), classes(f"{prefix}predicted"), floats(f"{prefix}probability"), confidence)
