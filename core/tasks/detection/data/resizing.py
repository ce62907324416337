"""The size in which a network sees an image, and boxes in the pixels of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.tasks.detection.types import Size

PAD_MULTIPLE = 32
"""Height and width of a batch are multiples of it, so that every level of a pyramid has a whole number of pixels."""


@dataclass(frozen=True)
class ResizeRule:
    """Torchvision's rule for detectors (``GeneralizedRCNNTransform``).

    The short side gets ``min_size`` pixels, unless the long side would then exceed ``max_size``; the long side then
    gets ``max_size``. Small images are enlarged. The sizes are equal to torchvision's to the pixel.
    """

    min_size: int
    max_size: int

    def sizes(self, originals: NDArray[np.int64], short: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return the resized heights and widths (N, 2).

        Args:
            originals: (N, 2), heights and widths of the images.
            short: (N,), for each image another number in the place of ``min_size``.
        """
        least = self.min_size if short is None else short
        # Divisions and products of float64 are the same on every machine.
        scale = np.minimum(least / originals.min(axis=1), self.max_size / originals.max(axis=1))
        resized: NDArray[np.int64] = np.maximum(np.floor(originals * scale[:, None]), 1).astype(np.int64)
        return resized

    def stored(self, originals: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sizes (N, 2) in which images are kept: resized if that makes them smaller, else the original."""
        resized = self.sizes(originals)
        smaller = (resized < originals).any(axis=1, keepdims=True)
        return np.where(smaller, resized, originals)


def padded(sizes: NDArray[np.int64], canvas: Size | None = None) -> Size:
    """Return the height and width to which a batch of images of the sizes (B, 2) is padded.

    Raises:
        ValueError: An image is larger than the canvas.
    """
    largest = sizes.max(axis=0)
    if canvas is None:
        height, width = (-(-int(side) // PAD_MULTIPLE) * PAD_MULTIPLE for side in largest)
        return height, width
    if (largest > canvas).any():
        shown, given = ("×".join(map(str, size)) for size in (largest.tolist(), canvas))
        raise ValueError(f"images of up to {shown} px (height × width) do not fit in the network's input of {given} px")
    return canvas


def scale_boxes(
    boxes: NDArray[np.floating], before: NDArray[np.int64], after: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return boxes (n, 4) in pixels of resized images.

    Args:
        boxes: (n, 4) float, left, top, right and bottom.
        before: (2,) or (n, 2), height and width of the image of each box.
        after: The same of the resized image.
    """
    ratio = (np.asarray(after) / np.asarray(before))[..., [1, 0, 1, 0]]
    scaled: NDArray[np.float64] = boxes.astype(np.float64) * ratio
    return scaled
