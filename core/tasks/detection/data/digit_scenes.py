"""Scenes of handwritten digits: scikit-learn's real digits on coloured canvases, with exact boxes.

Training scenes have the digits of the training half of the data set ``digits``, test scenes those of its test half.
Each scene is a pure function of its parameters, its split and its number.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.catalog.datasets import SplitParams
from core.catalog.detection_datasets import DigitScenesParams
from core.tasks.classification.data import digits
from core.tasks.detection.data.dataset import DetectionData, DetectionSplit
from core.tasks.detection.data.objects import ImageObjects, Objects
from core.tasks.detection.data.resizing import ResizeRule

_INK = 0.2
"""Share of black below which an enlarged digit is transparent. Its box is that of the rest."""
_ATTEMPTS = 50
"""Places that are tried for a digit; if none is free, the scene has one digit less."""
_FRAGMENT = 4
"""Greatest side of a fragment, of the at most 8 pixels of a digit."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Scene:
    """A scene.

    Attributes:
        pixels: (3, side, side).
        boxes: Left, top, right and bottom of each digit.
        digits: The digits, 0 to 9.
    """

    pixels: NDArray[np.uint8]
    boxes: list[Box]
    digits: list[int]


def load(params: DigitScenesParams) -> DetectionData:
    """Compute the scenes. Class 1 is the digit 0, and class 10 the digit 9."""
    source = digits.load(SplitParams())
    train, test = (
        _split(params, part.images.numpy()[:, 0], part.labels.numpy(), number, size)
        for number, (part, size) in enumerate(((source.train, params.train_size), (source.test, params.test_size)))
    )
    side = params.image_size
    # No flips, because a mirrored digit is a different symbol.
    return DetectionData(
        train, test, tuple("0123456789"), ResizeRule(side, side), flip=False, category_ids=tuple(range(1, 11))
    )


def _split(
    params: DigitScenesParams, images: NDArray[np.uint8], labels: NDArray[np.int64], number: int, size: int
) -> DetectionSplit:
    """Return the scenes of a split, of the digits ``images`` (M, 8, 8)."""
    side = params.image_size
    source = [_cropped(image / 255, _INK) for image in images]
    pixels = np.empty((size, 3, side, side), dtype=np.uint8)
    objects = []
    for index in range(size):
        scene = draw_scene(params, source, labels, np.random.default_rng((params.seed, number, index)))
        pixels[index] = scene.pixels
        boxes = np.array(scene.boxes, dtype=np.float32).reshape(-1, 4)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        classes = np.array(scene.digits, dtype=np.int64) + 1
        nothing = np.zeros(len(classes), bool)
        objects.append(ImageObjects(boxes, classes, ignored=nothing, area=area, crowd=nothing))
    sides = np.full((size, 2), side, dtype=np.int64)
    numbers = np.arange(size, dtype=np.int64)
    return DetectionSplit(
        torch.from_numpy(pixels.reshape(-1)),
        numbers * pixels[0].size,
        stored=sides,
        originals=sides,
        objects=Objects.joined(objects),
        ids=numbers,
    )


def draw_scene(
    params: DigitScenesParams,
    images: Sequence[NDArray[np.float64]],
    labels: NDArray[np.int64],
    random: np.random.Generator,
) -> _Scene:
    """Draw one scene: a background, fragments on it, then digits, and noise over all of it.

    Args:
        params: The parameters of the scenes.
        images: The ink of the M digits to choose from, 0 to 1, without empty borders.
        labels: (M,), 0 to 9.
        random: The numbers of the scene.
    """
    side = params.image_size
    canvas = background(side, random)
    for _ in range(params.clutter):
        ink = _fragment(images[int(random.integers(len(images)))], params, random)
        left, top = (int(random.integers(side - extent + 1)) for extent in (ink.shape[1], ink.shape[0]))
        _paste(canvas, ink, left, top, _colour(random))
    boxes: list[Box] = []
    drawn: list[int] = []
    for _ in range(int(random.integers(params.min_digits, params.max_digits + 1))):
        chosen = int(random.integers(len(images)))
        ink = enlarge(images[chosen], int(random.integers(params.min_digit, params.max_digit + 1)))
        box = next((box for box in _places(ink, side, random) if not _overlaps(box, boxes, params.overlap)), None)
        if box:
            _paste(canvas, ink, box[0], box[1], _colour(random))
            boxes.append(box)
            drawn.append(int(labels[chosen]))
    canvas += np.float32(params.noise) * random.standard_normal(canvas.shape, dtype=np.float32)
    return _Scene(np.rint(canvas).clip(0, 255).astype(np.uint8), boxes, drawn)


def enlarge(image: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return the ink of a digit or of a part of one, 0 to 1, with its long side enlarged to at most ``side`` pixels.

    Every border row and column of the result has ink in it, so its size is that of the digit's box.
    """
    long = max(image.shape)
    down, across = (_interpolation(extent, max(1, round(extent * side / long))) for extent in image.shape)
    ink = _cropped(down @ image @ across.T, _INK)
    visible: NDArray[np.float64] = np.where(ink >= _INK, ink, 0.0)
    return visible


@functools.cache
def _interpolation(before: int, after: int) -> NDArray[np.float64]:
    """Return the weights (after, before) of a linear interpolation of ``before`` pixels at the centres of ``after``."""
    centre = (np.arange(after) + 0.5) * before / after - 0.5
    distance = np.abs(centre.clip(0, before - 1)[:, None] - np.arange(before))
    weights: NDArray[np.float64] = (1 - distance).clip(0)
    return weights


def _cropped(image: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Return the smallest part that contains every pixel of at least a level; the whole image if there is none."""
    inked = image >= level
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else image


def background(side: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return a dark canvas (3, side, side) whose colour changes smoothly from corner to corner."""
    corners = random.uniform(0, 110, (3, 2, 2))
    along = np.linspace(0, 1, side)
    weights = np.stack((1 - along, along))
    canvas: NDArray[np.float32] = (weights.T @ corners @ weights).astype(np.float32)
    return canvas


def _colour(random: np.random.Generator) -> NDArray[np.float64]:
    """Return a bright colour (3,)."""
    colour: NDArray[np.float64] = random.uniform(140, 255, 3)
    return colour


def _fragment(
    image: NDArray[np.float64], params: DigitScenesParams, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return a part of a digit as large as in a digit of random size."""
    height, width = (int(random.integers(2, min(_FRAGMENT, extent) + 1)) for extent in image.shape)
    top, left = (
        int(random.integers(whole - extent + 1)) for whole, extent in zip(image.shape, (height, width), strict=True)
    )
    side = int(random.integers(params.min_digit, params.max_digit + 1)) * max(height, width) // max(image.shape)
    return enlarge(image[top : top + height, left : left + width], max(2, side))


def _paste(
    canvas: NDArray[np.float32], ink: NDArray[np.float64], left: int, top: int, colour: NDArray[np.float64]
) -> None:
    height, width = ink.shape
    part = canvas[:, top : top + height, left : left + width]
    part += ink * (colour[:, None, None] - part)


def _places(ink: NDArray[np.float64], side: int, random: np.random.Generator) -> Iterator[Box]:
    """Yield random boxes of the size of a digit."""
    height, width = ink.shape
    for _ in range(_ATTEMPTS):
        left, top = int(random.integers(side - width + 1)), int(random.integers(side - height + 1))
        yield left, top, left + width, top + height


def _overlaps(box: Box, others: list[Box], limit: float) -> bool:
    """Return whether the box and another one have more than a share of the smaller of them in common."""
    for other in others:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if width > 0 and height > 0 and width * height > limit * min(_area(box), _area(other)):
            return True
    return False


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
