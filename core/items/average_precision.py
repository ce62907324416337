"""Average precision from matches, and its bootstrap over images. Free of torch.

AP is not a mean over images, so it is computed from the matches of all images in a resample. An interval over images
describes how much AP would vary with other test images, for the trained networks that were compared. It contains
nothing of the variation between seeds or teachers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.items.boxes import Detections, GroundTruth
from core.items.matching import THRESHOLDS, Matches, match
from core.items.table import ItemsError

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which COCO reads the precision."""

_RESAMPLED_VALUES = 2**21
"""Detections that are counted at once; they take 16 MB in each array."""


@dataclass(frozen=True)
class APDifference:
    """The difference of AP on the same images, in %, with its percentile bootstrap interval over images.

    Attributes:
        mean: Mean AP of the runs minus that of the references.
        low: Lower end of its interval.
        high: Upper end.
        ap: Mean AP of the runs.
        reference: Mean AP of the references.
        resamples: Number of resamples of the images.
    """

    mean: float
    low: float
    high: float
    ap: float
    reference: float
    resamples: int


def average_precisions(detections: Detections, truth: GroundTruth, matches: Matches) -> NDArray[np.float64]:
    """Return AP by threshold and class, (T, K), in [0, 1]; NaN for a class without objects that count."""
    once = np.ones((1, truth.images))
    return np.stack([of_class[0] for of_class in _class_precisions(detections, truth, matches, once)], 1)


def paired_ap_bootstrap(
    runs: Sequence[Detections],
    references: Sequence[Detections],
    truth: GroundTruth,
    seed: int,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    level: float = 0.95,
) -> APDifference:
    """Compare the mean AP of some runs with that of others, by a bootstrap that draws the same images for all.

    Args:
        runs: What each run found, such as those of a method with several seeds. Where an image is drawn twice, equal
            scores in it are ordered by detection, and not by copy.
        references: What the runs found that they are compared with.
        truth: The objects of the images.
        seed: The seed of the resampling; the same seed gives the same interval.
        thresholds: The IoU thresholds that AP is averaged over; ``(0.5,)`` for AP50.
        resamples: Number of resamples.
        level: Probability that the interval has under the bootstrap distribution, in (0, 1).

    Raises:
        ItemsError: There are no objects that count, or no runs.
    """
    if not (runs and references):
        raise ItemsError("there are no runs to compare")
    ours, theirs = (
        [ap_resamples(found, truth, seed, thresholds=thresholds, resamples=resamples) for found in side]
        for side in (runs, references)
    )
    return difference_of_resamples(ours, theirs, level=level)


def ap_resamples(
    found: Detections,
    truth: GroundTruth,
    seed: int,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
) -> NDArray[np.float64]:
    """Return AP in %, (1 + resamples,): first of the images themselves, then of each resample of them.

    Runs on the same images have the same resamples if the seed is the same. Most of the time of a comparison is spent
    here, once for each run, however many runs it is compared with.

    Args:
        found: What a run found.
        truth: The objects of the images.
        seed: The seed of the resampling.
        thresholds: The IoU thresholds that AP is averaged over.
        resamples: Number of resamples.

    Returns:
        The APs; NaN for a resample without any object.

    Raises:
        ItemsError: There are no objects that count.
    """
    if truth.ignored.all():
        raise ItemsError("there are no objects, and so there is no average precision")
    weights = np.concatenate([np.ones((1, truth.images)), image_counts(truth.images, seed, resamples)])
    return _ap_of(found, truth, thresholds, weights)


def difference_of_resamples(
    runs: Sequence[NDArray[np.float64]], references: Sequence[NDArray[np.float64]], *, level: float = 0.95
) -> APDifference:
    """Compare the mean AP of some runs with that of others, from the results of ``ap_resamples`` with one seed."""
    ours, theirs = (np.mean(side, axis=0) for side in (runs, references))
    differences = (ours - theirs)[1:]
    tail = (1 - level) / 2
    # A resample of images without any object has no AP.
    low, high = np.nanquantile(differences, (tail, 1 - tail))
    return APDifference(
        float(ours[0] - theirs[0]), float(low), float(high), float(ours[0]), float(theirs[0]), len(differences)
    )


def image_counts(images: int, seed: int, resamples: int) -> NDArray[np.float64]:
    """Return how often each image is in each resample, (resamples, images)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def _ap_of(
    detections: Detections, truth: GroundTruth, thresholds: Sequence[float], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return AP in % under each of the weights of the images, (B,): the mean over thresholds and classes."""
    matches = match(detections, truth, thresholds)
    total, classes = np.zeros(len(weights)), np.zeros(len(weights))
    for of_class in _class_precisions(detections, truth, matches, weights):
        ap = of_class.mean(1)
        total += np.nan_to_num(ap)
        classes += ~np.isnan(ap)
    means: NDArray[np.float64] = np.divide(total, classes, out=np.full(len(weights), np.nan), where=classes > 0)
    return 100 * means


def _class_precisions(
    detections: Detections, truth: GroundTruth, matches: Matches, weights: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """Yield for each class AP by row of ``weights`` and threshold, (B, T); NaN in rows without its objects.

    Args:
        detections: The detections.
        truth: The objects.
        matches: Their matches.
        weights: (B, images), how often each image is counted.
    """
    right, ignored = matches.right, matches.ignored
    for label in range(1, len(truth.classes) + 1):
        objects = truth.image[(truth.labels == label) & ~truth.ignored]
        found = np.flatnonzero(detections.labels == label)
        # If scores are equal, those of earlier images come first, as in pycocotools.
        found = found[np.argsort(-detections.scores[found], kind="stable")]
        positives = weights @ np.bincount(objects, minlength=truth.images)
        precisions = np.full((len(weights), len(matches.thresholds)), np.nan)
        rows = max(1, _RESAMPLED_VALUES // max(len(found), 1))
        for start in range(0, len(weights), rows):
            part = slice(start, start + rows)
            counts = weights[part].T[detections.image[found]]
            totals = np.cumsum(counts, axis=0)
            for level in range(len(matches.thresholds)):
                of_class = right[level, found], ignored[level, found]
                precisions[part, level] = _interpolated(*of_class, counts, totals, positives[part])
        yield precisions


def _interpolated(
    right: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    counts: NDArray[np.float64],
    totals: NDArray[np.float64],
    positives: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the mean over ``RECALLS`` of the largest precision at that recall or above, (B,).

    Args:
        right: (D,), which detections are right, best score first.
        ignored: (D,), which do not count.
        counts: (D, B), how often each detection is counted.
        totals: (D, B), their sums up to each detection.
        positives: (B,), how many objects there are; NaN is returned where there is none.
    """
    hits, skipped = np.flatnonzero(right), np.flatnonzero(ignored)
    # Between right detections precision falls, so its largest values are at them.
    found, counted = np.cumsum(counts[hits], axis=0), totals[hits]
    if len(skipped):
        before = np.concatenate([np.zeros((1, len(positives))), np.cumsum(counts[skipped], axis=0)])
        counted -= before[np.searchsorted(skipped, hits)]
    precision = np.divide(found, counted, out=np.zeros_like(found), where=counted > 0)
    highest = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = np.divide(found, positives, out=np.zeros_like(found), where=positives > 0)
    # The number of recalls that are reached for the first time at each right detection.
    reached = np.diff(_recalls_reached(recall), axis=0, prepend=0)
    means: NDArray[np.float64] = np.where(positives > 0, (highest * reached).sum(0) / len(RECALLS), np.nan)
    return means


def _recalls_reached(recall: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many of ``RECALLS`` are not above each recall, as a binary search, which takes five times as long."""
    guess = (recall * (len(RECALLS) - 1)).astype(np.intp)
    # The product is rounded, so the guess may be one too low or too high.
    following = np.append(RECALLS, np.inf)[guess + 1]
    reached: NDArray[np.intp] = guess + 1 + (following <= recall) - (RECALLS[guess] > recall)
    return reached
