"""AP and AR by the COCO protocol, as faster-coco-eval computes them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.catalog.detection_task import SIZES
from core.errors import TrainingError
from core.items.boxes import Detections, GroundTruth

_NEVER_COUNTED = 1e11
"""An area beyond every range of COCO's evaluation. Its field ``ignore`` has no effect, for crowds overwrite it."""


@dataclass(frozen=True)
class CocoScores:
    """The scores of a detector in %.

    Attributes:
        overall: ``ap``, ``ap50``, ``ap75``, ``ar1``, ``ar10``, ``ar100``; NaN if there are no objects. Those by size,
            as ``ap_small`` and ``ar_small``, are left out if there are no objects of that size.
        by_class: AP by the name of a class, without the classes that have no objects.
    """

    overall: Mapping[str, float]
    by_class: Mapping[str, float]


def check_library() -> None:
    """Check before the training that detections can be evaluated after an epoch of it.

    Raises:
        TrainingError: The library is not installed.
    """
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise TrainingError(
            "error", "AP is computed by faster-coco-eval, which is not installed: pip install faster-coco-eval"
        )


def coco_scores(detections: Detections, truth: GroundTruth) -> CocoScores:
    """Return AP and AR. A difficult object is neither counted as missed, nor a detection of it as false."""
    # Imported here, because it takes a second, and other measurements do not need it.
    from faster_coco_eval import COCO, COCOeval_faster

    labelled = COCO(as_coco(truth))
    evaluation = COCOeval_faster(labelled, labelled.loadRes(as_results(detections)), "bbox", print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    return _summary(evaluation.eval["precision"], evaluation.eval["recall"], truth.classes)


def _silent(*_: Any) -> None:
    """Print nothing."""


def _summary(precision: NDArray[Any], recall: NDArray[Any], classes: tuple[str, ...]) -> CocoScores:
    """Return the usual means.

    Args:
        precision: (thresholds, recalls, classes, sizes, numbers of detections), −1 where there are no objects.
        recall: (thresholds, classes, sizes, numbers of detections), likewise.
        classes: The names of the classes.
    """
    whole, half, three_quarters = slice(None), slice(0, 1), slice(5, 6)
    thresholds = {"ap": whole, "ap50": half, "ap75": three_quarters}
    overall = {name: _mean(precision[part, :, :, 0, 2]) for name, part in thresholds.items()}
    overall |= {f"ar{count}": _mean(recall[:, :, 0, at]) for at, count in enumerate((1, 10, 100))}
    for at, size in enumerate(SIZES, 1):
        by_size = {f"ap_{size}": _mean(precision[:, :, :, at, 2]), f"ar_{size}": _mean(recall[:, :, at, 2])}
        overall |= {name: value for name, value in by_size.items() if not np.isnan(value)}
    of_classes = {name: _mean(precision[:, :, at, 0, 2]) for at, name in enumerate(classes)}
    return CocoScores(overall, {name: value for name, value in of_classes.items() if not np.isnan(value)})


def _mean(values: NDArray[Any]) -> float:
    defined = values[values > -1]
    return 100 * float(defined.mean()) if len(defined) else float("nan")


def as_coco(truth: GroundTruth) -> dict[str, Any]:
    """Return the objects as a COCO data set. Images are identified by their numbers in the split."""
    difficult = truth.ignored & ~truth.crowds
    area = np.where(difficult, _NEVER_COUNTED, truth.area.astype(np.float64))
    columns = truth.image.tolist(), _corner_and_size(truth.boxes), truth.labels.tolist(), area.tolist(), truth.crowds
    return {
        "images": [{"id": number} for number in range(truth.images)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(truth.classes, 1)],
        # An annotation 0 would count as none.
        "annotations": [
            {"id": number, "image_id": image, "bbox": box, "category_id": label, "area": size, "iscrowd": int(crowd)}
            for number, (image, box, label, size, crowd) in enumerate(zip(*columns, strict=True), 1)
        ],
    }


def as_results(detections: Detections) -> list[dict[str, Any]]:
    """Return the detections as COCO's list of results."""
    boxes, scores = _corner_and_size(detections.boxes), detections.scores.astype(np.float64).tolist()
    columns = detections.image.tolist(), boxes, detections.labels.tolist(), scores
    return [
        {"image_id": image, "bbox": box, "category_id": label, "score": score}
        for image, box, label, score in zip(*columns, strict=True)
    ]


def _corner_and_size(boxes: NDArray[np.float32]) -> list[list[float]]:
    wide = boxes.astype(np.float64)
    corners: list[list[float]] = np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], 1).tolist()
    return corners
