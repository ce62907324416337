"""Statistics of per-item results: paired differences, bootstrap intervals, confusion and disagreement.

An interval over items describes how much a result would vary with other test images, for the trained networks that were
compared. It contains nothing of the variation between seeds or teachers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.items.table import ITEM, Items, ItemsError

Score = Literal["top1", "top5", "nll", "probability", "agreement", "kl"]
"""A number per item; ``agreement`` and ``kl`` compare with the teacher. ``top1``, ``top5`` and ``agreement`` are
0 or 1."""

_RESAMPLED_VALUES = 2**22
"""Values that are drawn at once; they take 64 MB."""


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval.

    Attributes:
        mean: Mean over the items.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Disagreement:
    """On how many items two networks are right or wrong.

    Attributes:
        both_right: Both predict the target.
        only_first_right: Only the first does.
        only_second_right: Only the second does.
        same_error: Both predict the same wrong class.
        different_errors: Both are wrong, with different classes.
    """

    both_right: int
    only_first_right: int
    only_second_right: int
    same_error: int
    different_errors: int


def item_scores(items: Items, score: Score) -> NDArray[np.float64]:
    """Return a score of every item, (N,).

    Raises:
        ItemsError: The run has no such score, as without a teacher.
    """
    if score == "top1":
        values = items.column("predicted") == items.column("target")
    elif score == "agreement":
        values = items.column("predicted") == items.column("teacher_predicted")
    else:
        values = items.column(score)
    scores: NDArray[np.float64] = values.astype(np.float64)
    return scores


def paired_differences(items: Items, reference: Items, score: Score) -> NDArray[np.float64]:
    """Return the score of every item minus that in a reference run, (N,).

    Raises:
        ItemsError: The runs were measured on different data, or one has no such score.
    """
    check_same_data(items, reference)
    return item_scores(items, score) - item_scores(reference, score)


def bootstrap_mean(values: NDArray[np.float64], seed: int, *, resamples: int = 10_000, level: float = 0.95) -> Interval:
    """Return the mean of values and its percentile bootstrap interval. For paired differences the bootstrap is paired.

    Args:
        values: (N,), one per item; N is at least 1.
        seed: The seed of the resampling; the same seed gives the same interval.
        resamples: Number of resamples.
        level: Probability that the interval has under the bootstrap distribution, in (0, 1).

    Raises:
        ItemsError: There are no items.
    """
    count = len(values)
    if not count:
        raise ItemsError("there are no items to resample")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _RESAMPLED_VALUES // count)
    for start in range(0, resamples, rows):
        part = means[start : start + rows]
        part[:] = values[generator.integers(count, size=(len(part), count))].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_mean_of_whole_numbers(
    values: NDArray[np.int64], seed: int, *, resamples: int = 10_000, level: float = 0.95
) -> Interval:
    """Return the mean of values, of which few are distinct, and its percentile bootstrap interval.

    Drawing items with replacement draws the number of items of each value from a multinomial distribution, so the time
    does not depend on the number of items.

    Args:
        values: (N,), one per item, such as in how many pairs of runs one is right and the other wrong.
        seed: The seed of the resampling.
        resamples: Number of resamples.
        level: Probability that the interval has under the bootstrap distribution, in (0, 1).

    Raises:
        ItemsError: There are no items.
    """
    if not len(values):
        raise ItemsError("there are no items to resample")
    distinct, counts = np.unique(values, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(draws @ distinct / len(values), (tail, 1 - tail))
    return Interval(float(values.mean()), float(low), float(high))


def confusion_matrix(items: Items, predicted: str = "predicted") -> NDArray[np.int64]:
    """Return the number of items by target (row) and predicted class (column), (C, C).

    C is the number of class names, or, if there are none, the largest class in the file plus 1.

    Args:
        items: The results.
        predicted: Name of the column with the predicted classes; ``teacher_predicted`` for the teacher's.

    Raises:
        ItemsError: There is no such column.
    """
    target, classes = (items.column(name).astype(np.int64) for name in ("target", predicted))
    largest = max((int(column.max()) for column in (target, classes) if len(column)), default=-1)
    size = max(len(items.classes), largest + 1)
    return np.bincount(target * size + classes, minlength=size * size).reshape(size, size)


def disagreement(first: Items, second: Items) -> Disagreement:
    """Compare the predicted classes of two runs.

    Raises:
        ItemsError: The runs were measured on different data.
    """
    check_same_data(first, second)
    return disagreement_of(first.column("target"), first.column("predicted"), second.column("predicted"))


def teacher_disagreement(items: Items) -> Disagreement:
    """Compare the predicted classes of a run's network (first) and of its teacher (second).

    Raises:
        ItemsError: The run has no teacher.
    """
    return disagreement_of(items.column("target"), items.column("predicted"), items.column("teacher_predicted"))


def disagreement_of(target: NDArray[Any], first: NDArray[Any], second: NDArray[Any]) -> Disagreement:
    """Compare two networks' predicted classes of the same items, all (N,)."""
    first_right, second_right, same = first == target, second == target, first == second
    both_wrong = ~first_right & ~second_right
    return Disagreement(
        both_right=int((first_right & second_right).sum()),
        only_first_right=int((first_right & ~second_right).sum()),
        only_second_right=int((second_right & ~first_right).sum()),
        same_error=int((both_wrong & same).sum()),
        different_errors=int((both_wrong & ~same).sum()),
    )


def check_same_data(first: Items, second: Items) -> None:
    """Check that two runs were measured on the same test data.

    Raises:
        ItemsError: The data differ.
    """
    for name, ours, theirs in (("task", first.task, second.task), ("data", first.images, second.images)):
        if ours != theirs:
            raise ItemsError(f"the runs cannot be compared item by item: their {name} differ: {ours!r}, {theirs!r}")
    if len(first) != len(second):
        raise ItemsError(f"the runs cannot be compared item by item: they have {len(first)} and {len(second)} items")
    for name in (name for name in (ITEM, "target", "objects") if name in first.columns or name in second.columns):
        if not np.array_equal(first.column(name), second.column(name)):
            raise ItemsError(f"the runs cannot be compared item by item: their columns {name!r} differ")
