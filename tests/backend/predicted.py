"""Files of predictions, correlations and pictures, as a run of classification leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.items.correlation_file import encode_correlations
from core.items.correlations import CORRELATIONS_NAME, Correlations
from core.items.file import encode_items
from core.items.picture_choice import PICTURES_NAME
from core.items.pictures import encode_pictures
from core.items.table import ITEMS_NAME, Items

CLASSES = ("cat", "dog", "owl")
TARGET = (0, 0, 0, 0, 1, 1, 1, 2)
STUDENT = (0, 0, 1, 1, 1, 1, 0, 0)
TEACHER = (0, 0, 0, 1, 1, 2, 0, 1)


def items(
    predicted: Sequence[int] = STUDENT,
    teacher: Sequence[int] | None = TEACHER,
    *,
    images: str = "0123456789abcdef",
    confidence: bool = True,
) -> Items:
    """Return what eight images of three classes got: four cats, three dogs, one owl.

    A network gives 0.8 to a right class and 0.1 to the image's class where it is wrong; its confidence is 0.8 or 0.6.
    """
    target = np.array(TARGET, np.uint8)
    columns = {"item": np.arange(8, dtype=np.uint8), "target": target}
    for prefix, classes in (("", predicted), ("teacher_", teacher)):
        if classes is not None:
            right = np.array(classes) == target
            columns[f"{prefix}predicted"] = np.array(classes, np.uint8)
            columns[f"{prefix}probability"] = np.where(right, 0.8, 0.1).astype(np.float16)
            if confidence:
                columns[f"{prefix}confidence"] = np.where(right, 0.8, 0.6).astype(np.float16)
    return Items(columns, "classification", images, "of a run", CLASSES)


def correlations(student: Sequence[float], teacher: Sequence[float] | None = None) -> Correlations:
    """Return the correlations of cat and dog, cat and owl, dog and owl."""
    networks = {"student": np.array(student, np.float16)}
    if teacher is not None:
        networks["teacher"] = np.array(teacher, np.float16)
    return Correlations(networks, "0123456789abcdef", "of a run", CLASSES)


def write_files(
    folder: Path,
    results: Items | None = None,
    *,
    correlated: Correlations | None = None,
    pictures: Sequence[int] = (),
) -> None:
    """Write the files of a run into the folder of its attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    if results is not None:
        (folder / ITEMS_NAME).write_bytes(encode_items(results))
    if correlated is not None:
        (folder / CORRELATIONS_NAME).write_bytes(encode_correlations(correlated))
    if pictures:
        pixels = np.full((8, 8, 3), 90, np.uint8)
        (folder / PICTURES_NAME).write_bytes(encode_pictures([(number, pixels) for number in pictures]))
