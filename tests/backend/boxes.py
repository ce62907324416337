"""Files of detections and pictures, as a run of object detection leaves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.items.boxes import Detections, GroundTruth
from core.items.detection_file import encode_detections
from core.items.detection_table import DETECTIONS_NAME, KINDS, DetectionTable, detection_table
from core.items.picture_choice import PICTURES_NAME
from core.items.pictures import encode_pictures

CLASSES = ("cat", "dog")
_Found = tuple[int, str, float, str, int]
"""Image, class, score, kind, and number of the object that it is about; −1 for none."""

STUDENT: list[_Found] = [
    (0, "cat", 0.9, "right", 0),
    (0, "dog", 0.3, "right", 1),
    (0, "dog", 0.2, "background", -1),
    (1, "cat", 0.8, "classification", 2),
    (3, "dog", 0.7, "ignored", 4),
]
TEACHER: list[_Found] = [
    (0, "cat", 0.95, "right", 0),
    (0, "dog", 0.9, "right", 1),
    (1, "dog", 0.9, "right", 2),
    (1, "dog", 0.6, "duplicate", 2),
]


def table(*, teacher: bool = True) -> DetectionTable:
    """Return the objects of four images, of which the third is empty, and what two networks found."""
    truth = GroundTruth(
        image=np.array([0, 0, 1, 3, 3]),
        boxes=np.array([[0, 0, 40, 50], [60, 60, 90, 90], [10, 10, 50, 50], [5, 5, 25, 25], [0, 0, 99, 79]], "f4"),
        labels=np.array([1, 2, 2, 1, 2]),
        ignored=np.array([False, False, False, False, True]),
        area=np.array([2000, 900, 1600, 400, 7821], np.float32),
        images=4,
        classes=CLASSES,
        ids=np.array([7, 8, 9, 10]),
        crowd=np.array([False, False, False, False, True]),
        names=("a.jpg", "b.jpg", "c.jpg", "d.jpg"),
        sizes=np.array([[80, 100]] * 4),
    )
    networks = {"student": STUDENT} | ({"teacher": TEACHER} if teacher else {})
    judged = {}
    for source, found in networks.items():
        image, labels, scores, kinds, about = (list(column) for column in zip(*found, strict=True))
        boxes = np.array([[1, 1, 41, 51]] * len(found), np.float32)
        numbers = np.array([CLASSES.index(label) + 1 for label in labels])
        detections = Detections(np.array(image), boxes, numbers, np.array(scores, np.float32))
        judged[source] = (detections, np.array([KINDS.index(kind) for kind in kinds], np.uint8), np.array(about))
    of_networks = {"student": {"ap": 40.0, "ap_class/cat": 50.0, "errors/missed": 9.0}, "teacher": {"ap": 60.0}}
    made = detection_table(truth, judged, {source: of_networks[source] for source in networks})
    return replace(made, task="detection", data="0123456789abcdef", fingerprint="of a run")


def one_object_each(finds: NDArray[np.bool_], scores: NDArray[np.float64]) -> DetectionTable:
    """Return images with a cat each, which a network finds with a score or misses, where it sees a dog instead."""
    images = np.arange(len(finds))
    box = np.array([[0, 0, 40, 50]] * len(finds), np.float32)
    nothing = np.zeros(len(finds), np.bool_)
    area = np.full(len(finds), 2000, np.float32)
    labels = np.ones(len(finds), np.int64)
    truth = GroundTruth(images, box, labels, nothing, area, len(finds), CLASSES, images + 1, nothing)
    detections = Detections(images, box, np.where(finds, 1, 2), 0.1 + 0.9 * scores.astype(np.float32))
    kinds = np.where(finds, KINDS.index("right"), KINDS.index("classification")).astype(np.uint8)
    made = detection_table(truth, {"student": (detections, kinds, images)}, {"student": {"ap": 50.0}})
    return replace(made, task="detection", data="0123456789abcdef", fingerprint="of a run")


def write_files(folder: Path, *, pictures: bool = True, teacher: bool = True) -> None:
    """Write the files of a run into the folder of its attempt; two of the four images have a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DETECTIONS_NAME).write_bytes(encode_detections(table(teacher=teacher)))
    if pictures:
        pixels = np.full((80, 100, 3), 90, np.uint8)
        (folder / PICTURES_NAME).write_bytes(encode_pictures([(0, pixels), (2, pixels)]))
