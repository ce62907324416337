"""The detections of one run on its test images, in memory: objects, and what student and teacher found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core.items.average_precision import APDifference, paired_ap_bootstrap
from core.items.boxes import Detections, GroundTruth
from core.items.matching import MOST_DETECTIONS, THRESHOLDS
from core.items.table import ItemsError

DETECTIONS_NAME = "detections.parquet"

LEAST_SCORE = 0.05
"""Detections below it are not kept; of the others the ``MOST_DETECTIONS`` best of an image."""

SOURCES = ("truth", "student", "teacher")

KINDS = ("right", "classification", "localisation", "both", "duplicate", "background", "ignored")
"""What a detection is: right, an error of a kind, or ignored, as on a crowd."""

OBJECT_KINDS = ("object", "difficult", "crowd")
"""What a labelled object is. Only an ``object`` can be missed."""

ALL_KINDS = (*KINDS, *OBJECT_KINDS)


@dataclass(frozen=True)
class DetectionTable:
    """Objects and detections of the test images, by image, source and falling score.

    Attributes:
        item: (n,) int64, position of the image in the test split.
        source: (n,) uint8, an index into ``SOURCES``.
        label: (n,) int64, 1 to K.
        score: (n,) float32; NaN for objects.
        boxes: (n, 4) float32, left, top, right, bottom in pixels of the original image.
        area: (n,) float32, of the mask of an object where the data set has one, else of its box; NaN for detections.
        kind: (n,) uint8, an index into ``ALL_KINDS``.
        matched: (n,) int64, the row of the object that a detection takes, or that its error is about; −1 for none.
        images: The number of test images.
        task: Name of the task.
        data: What identifies the data, see ``core.events.IMAGES_KEY``.
        fingerprint: Fingerprint of the run's spec.
        classes: Names of the classes 1 to K.
        ids: (images,) int64, the images' ids in their data set.
        names: File of each image, relative to the folder of the data set; empty where they are no files.
        sizes: (images, 2) int64, height and width of the original images; None if they are unknown.
        scores: By source, numbers about all its detections in %, such as ``ap`` and ``ap_class/NAME``.
    """

    item: NDArray[np.int64]
    source: NDArray[np.uint8]
    label: NDArray[np.int64]
    score: NDArray[np.float32]
    boxes: NDArray[np.float32]
    area: NDArray[np.float32]
    kind: NDArray[np.uint8]
    matched: NDArray[np.int64]
    images: int
    task: str = ""
    data: str = ""
    fingerprint: str = ""
    classes: tuple[str, ...] = ()
    ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    names: tuple[str, ...] = ()
    sizes: NDArray[np.int64] | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item)

    def rows_of(self, item: int) -> slice:
        """Return where the rows of an image are."""
        first, last = np.searchsorted(self.item, (item, item + 1)).tolist()
        return slice(first, last)

    def found(self, source: str) -> Detections:
        """Return the detections of the student or of the teacher.

        Raises:
            ItemsError: The run has no teacher.
        """
        rows = self.source == SOURCES.index(source)
        if source == "teacher" and "teacher" not in self.scores:
            raise ItemsError("these detections are of a run without a teacher")
        return Detections(self.item[rows], self.boxes[rows], self.label[rows], self.score[rows])

    def truth(self) -> GroundTruth:
        """Return the labelled objects."""
        rows = self.source == SOURCES.index("truth")
        kind = self.kind[rows]
        return GroundTruth(
            self.item[rows],
            self.boxes[rows],
            self.label[rows],
            kind != ALL_KINDS.index("object"),
            self.area[rows],
            self.images,
            self.classes,
            self.ids,
            kind == ALL_KINDS.index("crowd"),
            self.names,
            self.sizes,
        )


def ap_difference(
    runs: Sequence[DetectionTable],
    references: Sequence[DetectionTable],
    seed: int,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    resamples: int = 1000,
    level: float = 0.95,
) -> APDifference:
    """Compare the mean AP of some runs' students with that of others, by a paired bootstrap over the test images.

    AP is of the detections that the files contain: those with a score of at least 0.05. The interval is over images,
    for these trained networks. It is not the test over seeds, and says nothing of how much training again would change.

    Args:
        runs: The detections of the runs, such as those of a method with several seeds.
        references: Those of the runs that they are compared with.
        seed: The seed of the resampling.
        thresholds: The IoU thresholds that AP is averaged over; ``(0.5,)`` for AP50.
        resamples: Number of resamples.
        level: Probability that the interval has under the bootstrap distribution, in (0, 1).

    Raises:
        ItemsError: The runs were measured on different data, or there are no objects or no runs.
    """
    if not runs:
        raise ItemsError("there are no runs to compare")
    for other in (*runs[1:], *references):
        check_same_images(runs[0], other)
    ours, theirs = ([table.found("student") for table in side] for side in (runs, references))
    truth = runs[0].truth()
    return paired_ap_bootstrap(ours, theirs, truth, seed, thresholds=thresholds, resamples=resamples, level=level)


def check_same_images(first: DetectionTable, second: DetectionTable) -> None:
    """Check that two runs were measured on the same test images with the same objects.

    Raises:
        ItemsError: The images or the objects differ.
    """
    for name in ("task", "data", "classes", "images"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            raise ItemsError(f"the runs cannot be compared image by image: their {name} differ: {ours!r}, {theirs!r}")
    for name in ("image", "labels", "boxes", "ignored"):
        if not np.array_equal(getattr(first.truth(), name), getattr(second.truth(), name)):
            raise ItemsError("the runs cannot be compared image by image: the objects of their images differ")


def detection_table(
    truth: GroundTruth,
    judged: Mapping[str, tuple[Detections, NDArray[np.uint8], NDArray[np.int64]]],
    scores: Mapping[str, Mapping[str, float]],
) -> DetectionTable:
    """Return the table of objects and detections.

    Args:
        truth: The objects.
        judged: By source, its detections, and for each of them the index of its kind, and of the object that it takes
            or that its error is about. Those with low scores are left out.
        scores: By source, numbers about its detections.
    """
    object_kinds = np.where(truth.crowds, "crowd", np.where(truth.ignored, "difficult", "object"))
    codes = np.array([ALL_KINDS.index(kind) for kind in object_kinds.tolist()], np.uint8)
    nothing = np.full(len(truth), np.nan, np.float32)
    parts = [(truth.image, truth.labels, nothing, truth.boxes, truth.area, codes, np.full(len(truth), -1))]
    for found, kind_of, about_of in judged.values():
        rows = kept_rows(found)
        part, area_of = found.part(rows), np.full(len(rows), np.nan, np.float32)
        parts.append((part.image, part.labels, part.scores, part.boxes, area_of, kind_of[rows], about_of[rows]))
    image, label, score, boxes, area, kind, about = (np.concatenate(column) for column in zip(*parts, strict=True))
    numbers = [SOURCES.index(source) for source in ("truth", *judged)]
    source = np.repeat(np.array(numbers, np.uint8), [len(part[0]) for part in parts])
    order = np.lexsort((np.nan_to_num(-score), source, image))
    # Objects are the first rows before they are sorted, so that an object's index is its row.
    row_of = np.empty(len(order), np.int64)
    row_of[order] = np.arange(len(order))
    matched = np.where(about >= 0, row_of[about], -1)
    return DetectionTable(
        image[order].astype(np.int64),
        source[order],
        label[order].astype(np.int64),
        score[order].astype(np.float32),
        boxes[order].astype(np.float32),
        area[order].astype(np.float32),
        kind[order].astype(np.uint8),
        matched[order],
        truth.images,
        classes=truth.classes,
        ids=truth.ids,
        names=truth.names,
        sizes=truth.sizes,
        scores=scores,
    )


def kept_rows(found: Detections) -> NDArray[np.int64]:
    """Return which detections a table contains."""
    good = np.flatnonzero(found.scores >= LEAST_SCORE)
    image = found.image[good]
    return good[np.arange(len(good)) - np.searchsorted(image, image) < MOST_DETECTIONS]
