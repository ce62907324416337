"""Decoding of a photograph of any size, in the orientation that its boxes are of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling

from core.tasks.classification.data.decoding import AS_STORED, UPRIGHT, library_versions, load_rgb, turned_upright
from core.tasks.detection.data.resizing import ResizeRule
from core.tasks.detection.types import Size


@dataclass(frozen=True)
class Photo:
    """A decoded photograph.

    Attributes:
        pixels: (3, height, width), resized if that makes it smaller.
        original: Height and width before it was resized.
        notes: Properties to report, see ``core.tasks.classification.data.decoding``.
    """

    pixels: NDArray[np.uint8]
    original: Size
    notes: frozenset[str]


def decode_photo(path: Path, stated: Size | None, rule: ResizeRule) -> Photo:
    """Decode an image file.

    Boxes are of the pixels as they are stored, so an EXIF orientation is not applied. There is one exception: if the
    annotations give the size that the image has after it is rotated upright, and not that of the stored pixels, then
    their boxes are of the upright image. A rotation by 180° and a reflection do not show in the size.

    Args:
        path: The file.
        stated: Height and width as the annotations have it; None if they do not say.
        rule: The size in which a network sees the image. It is only made smaller here: an image that the rule enlarges
            is enlarged when a batch is made, so that a pack has no pixels that were not in the file.

    Raises:
        ValueError: The annotations give another size. Other exceptions as in
            ``core.tasks.classification.data.decoding.decode_image``.
    """
    image, orientation, notes = load_rgb(path)
    if stated in (None, (image.height, image.width)):
        notes |= {AS_STORED} if orientation != 1 else set()
    else:
        found = f"{image.width}×{image.height}"
        image = turned_upright(image, orientation) if orientation != 1 else image
        notes |= {UPRIGHT}
        if stated != (image.height, image.width):
            assert stated is not None
            height, width = stated
            raise ValueError(f"the image has {found} px, and its annotations are for {width}×{height} px")
    original = (image.height, image.width)
    ((height, width),) = rule.stored(np.array([original], dtype=np.int64)).tolist()
    if (height, width) != original:
        image = image.resize((width, height), Resampling.BILINEAR)
    return Photo(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), original, frozenset(notes))


def decoder_version() -> str:
    """Return the versions that determine the pixels of a file: of Pillow, its JPEG library, and the resizing."""
    return f"{library_versions()} bilinear, whole and smaller"
