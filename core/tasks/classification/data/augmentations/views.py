"""Which of a data set's own shifts, crops and flips are used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images.

    Attributes:
        pad: largest random shift in pixels; the border is filled with zeros.
        flip: whether images are mirrored left to right with probability 1/2.
        resized_crop: random resized crops instead of shifts (``core.tasks.classification.data.random_resized_crop``).
    """

    pad: int = 0
    flip: bool = False
    resized_crop: bool = False


def standard(augmentation: Augmentation) -> Augmentation:
    """Return all of it."""
    return augmentation


def flip(augmentation: Augmentation) -> Augmentation:
    """Return the flips alone."""
    return Augmentation(flip=augmentation.flip)


def none(augmentation: Augmentation) -> Augmentation:
    """Return nothing of it."""
    return Augmentation()
