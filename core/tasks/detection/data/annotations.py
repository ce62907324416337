"""What annotation files say of the images of a data set, in one form for every format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.tasks.classification.data.decoding_notes import DecodingNotes
from core.tasks.detection.data.objects import ImageObjects
from core.tasks.detection.types import Size
from core.undecodable import visible

CUT, DROPPED, IGNORED, REPEATED, SAME_ID, SHARED = "cut", "dropped", "ignored", "repeated", "same id", "shared"

_SENTENCES = {
    CUT: ("boxes reach out of their image and are cut off at its border", True),
    DROPPED: ("boxes have no area within their image and are left out", True),
    IGNORED: ("objects are crowds or difficult: they are neither trained on nor counted as missed", False),
    REPEATED: ("annotations repeat another one with the same id and are left out", True),
    SAME_ID: ("annotations have the id of another one and other content; both are used", True),
    SHARED: ("images are in both the training and the test split", True),
}


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its objects, before its file is read.

    Attributes:
        path: The file, relative to the root of the data set, with forward slashes.
        objects: The objects. Boxes may reach out of the image or have no area; an area that the annotations do not
            give is NaN.
        id: The image's id in the data set; its number where it has none.
        size: Height and width as the annotations have it; None if they do not say.
    """

    path: str
    objects: ImageObjects
    id: int
    size: Size | None = None


@dataclass(frozen=True)
class Annotations:
    """The annotations of both splits.

    Attributes:
        classes: The names of the classes 1 to K.
        category_ids: Their ids in the data set.
        train: The training images.
        test: The test images.
        notes: How many boxes or images of a kind there are, with the path of one of them.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    train: tuple[AnnotatedImage, ...]
    test: tuple[AnnotatedImage, ...]
    notes: DecodingNotes = field(default_factory=DecodingNotes)


@dataclass(frozen=True)
class AnnotationFiles:
    """The files with the annotations of a data set. They are only read if no pack was made of them before.

    Attributes:
        name: Name of the data set, for the pack and for messages.
        root: The folder of the data set.
        files: The files, each in ``root``; if one changes, the data set is packed again.
        layout: The other settings that decide what the files mean.
        read: Reads them, or raises DatasetError.
    """

    name: str
    root: Path
    files: tuple[Path, ...]
    layout: str
    read: Callable[[], Annotations]


def within_image(objects: ImageObjects, size: Size, path: str) -> tuple[ImageObjects, DecodingNotes]:
    """Return the objects of an image with their boxes cut off at its border, without those that then have no area.

    Args:
        objects: The objects as the annotations have them.
        size: Height and width of the image.
        path: The file, for the notes.
    """
    height, width = size
    boxes = objects.boxes.clip(0, np.array([width, height, width, height], np.float32))
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = np.isfinite(objects.boxes).all(axis=1) & (sides > 0).all(axis=1)
    cut = kept & (boxes != objects.boxes).any(axis=1)
    area = np.where(np.isfinite(objects.area), objects.area, sides.prod(axis=1)).astype(np.float32)
    columns = (boxes, objects.labels, objects.ignored, area, objects.crowd)
    inside = ImageObjects(*(column[kept] for column in columns))
    counts = ((CUT, cut.sum()), (DROPPED, (~kept).sum()), (IGNORED, inside.ignored.sum()))
    return inside, DecodingNotes(tuple((kind, int(count), path) for kind, count in counts if count))


def note_shared_images(annotations: Annotations) -> DecodingNotes:
    """Return the notes of the annotations, with the images that are in both splits."""
    shared = sorted({image.path for image in annotations.train} & {image.path for image in annotations.test})
    return annotations.notes + DecodingNotes(((SHARED, len(shared), shared[0]),)) if shared else annotations.notes


def sentences(notes: DecodingNotes) -> Iterator[tuple[str, bool]]:
    """Yield a sentence for each note about boxes, and whether it is a warning."""
    for kind, count, example in notes.counts:
        if kind in _SENTENCES:
            text, is_warning = _SENTENCES[kind]
            yield f"{count} {text} (for example in {visible(example)})", is_warning
