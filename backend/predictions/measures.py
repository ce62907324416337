"""Numbers about the predictions of one or two networks: by class, by confidence, confusion and correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.predictions.networks import Compared, Predictions
from core.items.calibration import BINS, bins_of
from core.items.correlations import Correlations
from core.items.statistics import disagreement_of
from core.protocol.predictions import (
    Agreement,
    ClassCounts,
    ConfidenceBin,
    ConfusionMatrix,
    CorrelationDifference,
    NetworkPredictions,
    RunPredictions,
    Side,
)

_MOST_CELLS = 100
"""Rows of a map of correlations."""
_DIGITS = 4


def run_reply(run_id: str, found: Compared, pictures: int) -> RunPredictions:
    """Return what a run predicts, beside its reference."""
    networks: dict[Side, NetworkPredictions] = {"run": network_reply(found.run, len(found.classes))}
    agreement = None
    if found.other is not None:
        networks["reference"] = network_reply(found.other, len(found.classes))
        agreement = agreement_reply(found.run, found.other)
    return RunPredictions(
        run_id=run_id,
        reference=found.reference,
        classes=list(found.classes),
        images=len(found.run.target),
        pictures=pictures,
        networks=networks,
        agreement=agreement,
    )


def network_reply(network: Predictions, classes: int) -> NetworkPredictions:
    """Return the numbers about one network."""
    counts = by_class(network, classes)
    bins = confidence_sums([network])
    return NetworkPredictions(
        right=int(network.right.sum()),
        by_class=[
            ClassCounts(images=images, right=right, predicted=predicted) for images, right, predicted in counts.tolist()
        ],
        calibration=None if bins is None else confidence_bins(bins),
        ece=None if bins is None else calibration_error(bins),
    )


def by_class(network: Predictions, classes: int) -> NDArray[np.int64]:
    """Return by class the number of images, of right ones and of images that are predicted to be of it, (C, 3)."""
    counted = (network.target, network.target[network.right], network.predicted)
    return np.stack([np.bincount(values, minlength=classes) for values in counted], axis=1)


def confidence_sums(networks: Sequence[Predictions]) -> NDArray[np.float64] | None:
    """Return by range of the confidence the number of images, the summed confidence and the right images, (bins, 3).

    Returns:
        None if a network kept no confidences, or one of them is no number.
    """
    sums = np.zeros((BINS, 3))
    for network in networks:
        if network.confidence is None or not np.isfinite(network.confidence).all():
            return None
        bin_of = bins_of(network.confidence)
        sums[:, 0] += np.bincount(bin_of, minlength=BINS)
        sums[:, 1] += np.bincount(bin_of, network.confidence, minlength=BINS)
        sums[:, 2] += np.bincount(bin_of[network.right], minlength=BINS)
    return sums


def confidence_bins(sums: NDArray[np.float64]) -> list[ConfidenceBin]:
    """Return the ranges in which there are images."""
    return [
        ConfidenceBin(
            low=at / BINS, high=(at + 1) / BINS, images=int(count), confidence=confidence / count, right=right / count
        )
        for at, (count, confidence, right) in enumerate(sums.tolist())
        if count
    ]


def calibration_error(sums: NDArray[np.float64]) -> float | None:
    """Return the expected calibration error in %, as ``calibration/ece``: Σ_b |right − confidence| / N."""
    count = sums[:, 0].sum()
    return float(100 * np.abs(sums[:, 2] - sums[:, 1]).sum() / count) if count else None


def agreement_reply(run: Predictions, other: Predictions) -> Agreement:
    """Return on how many images two networks are right or wrong."""
    found = disagreement_of(run.target, run.predicted, other.predicted)
    return Agreement(
        both_right=found.both_right,
        only_run_right=found.only_first_right,
        only_reference_right=found.only_second_right,
        same_error=found.same_error,
        different_errors=found.different_errors,
    )


def confusion_reply(
    run_id: str, reference: str, classes: Sequence[str], runs: Sequence[Compared], limit: int
) -> ConfusionMatrix:
    """Return how often each class is predicted for images of each, summed over runs.

    Args:
        run_id: The run, or the label of the method.
        reference: What it is compared with.
        classes: Names of the classes.
        runs: The runs, each with its reference, or all without one.
        limit: Most pairs of classes; those with the largest counts are kept.
    """
    size = len(classes)
    own = _pair_counts([found.run for found in runs], size)
    others = [found.other for found in runs if found.other is not None]
    theirs = _pair_counts(others, size) if others else None
    pairs = np.union1d(own[0], theirs[0]) if theirs else own[0]
    counts = [_spread(pairs, *side) for side in (own, theirs) if side is not None]
    largest = np.max(counts, axis=0) if len(pairs) else np.zeros(0, np.int64)
    kept = np.sort(np.argsort(-largest, kind="stable")[:limit])
    return ConfusionMatrix(
        run_id=run_id,
        reference=reference,
        runs=len(runs),
        classes=list(classes),
        target=(pairs[kept] // size).tolist() if size else [],
        predicted=(pairs[kept] % size).tolist() if size else [],
        run=counts[0][kept].tolist(),
        of_reference=counts[1][kept].tolist() if theirs else None,
        left_out=len(pairs) - len(kept),
    )


def _pair_counts(networks: Sequence[Predictions], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of classes that occur, as target · C + predicted in increasing order, and how often."""
    # A full matrix of a data set with 20,000 classes would take gigabytes.
    pairs = np.concatenate(
        [network.target * size + network.predicted for network in networks] or [np.zeros(0, np.int64)]
    )
    found, counts = np.unique(pairs, return_counts=True)
    return found, counts.astype(np.int64)


def _spread(pairs: NDArray[np.int64], found: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    spread = np.zeros(len(pairs), np.int64)
    spread[np.searchsorted(pairs, found)] = counts
    return spread


def correlation_difference(found: Correlations, other: Correlations | None = None) -> NDArray[np.float64]:
    """Return |own correlation − the reference's| of each two classes, (C, C).

    Args:
        found: The run's correlations.
        other: Those of a run that it is compared with; None for its teacher.
    """
    reference = found.matrix("teacher") if other is None else other.matrix("student")
    difference: NDArray[np.float64] = np.abs(found.matrix("student") - reference)
    return difference


def mean_difference(difference: NDArray[np.float64]) -> float | None:
    """Return the mean over all pairs of different classes; None if there is none."""
    values = difference[~np.eye(len(difference), dtype=bool)]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def correlation_reply(
    run_id: str, reference: str, classes: Sequence[str], differences: Sequence[NDArray[np.float64]]
) -> CorrelationDifference:
    """Return the map of differences, as the mean over runs, with at most 100 rows.

    Args:
        run_id: The run, or the label of the method.
        reference: What it is compared with.
        classes: Names of the classes.
        differences: (C, C) of each run.
    """
    difference = np.mean(differences, axis=0)
    size = len(difference)
    width = -(-size // _MOST_CELLS)
    names = list(classes) or list(map(str, range(size)))
    starts = range(0, size, width)
    return CorrelationDifference(
        run_id=run_id,
        reference=reference,
        runs=len(differences),
        classes=[names[at] if width == 1 else f"{names[at]} … {names[min(at + width, size) - 1]}" for at in starts],
        classes_per_cell=width,
        difference=[[_rounded(_block_mean(difference, row, column, width)) for column in starts] for row in starts],
        mean=mean_difference(difference),
    )


def _block_mean(values: NDArray[np.float64], row: int, column: int, width: int) -> float:
    block = values[row : row + width, column : column + width]
    finite = block[np.isfinite(block)]
    return float(finite.mean()) if len(finite) else float("nan")


def _rounded(value: float) -> float | None:
    return round(value, _DIGITS) if np.isfinite(value) else None
