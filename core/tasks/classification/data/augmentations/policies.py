"""RandAugment, TrivialAugment and FixMatch's augmentation: random operations on uint8 images.

The ranges of the first two are torchvision's, those of the third are of the code that MLKD uses.

Images that get the same operation with the same strength are changed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from core.catalog.augmentations import FixMatchParams, RandAugmentParams
from core.catalog.registry import NoParams
from core.tasks.classification.data.augmentations.erasing import inside_boxes
from core.tasks.classification.data.augmentations.pipeline import Table
from core.tasks.classification.data.transfer import upload
from core.tasks.hashing import hashed_randint

STRENGTHS = 31
"""Steps of an operation's strength, 0 to 30."""


@dataclass(frozen=True)
class Operation:
    """An operation of a policy.

    Attributes:
        apply: changes images (B, channels, side, side) by a strength.
        strength: returns the strength of a step in [0, 1] for images of a side.
        signed: whether the strength is negative for half of the images.
    """

    apply: Callable[[Tensor, float], Tensor]
    strength: Callable[[float, int], float] = lambda step, side: 0.0
    signed: bool = False


def _affine(
    images: Tensor, *, angle: float = 0.0, shift: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    sheared = shear != (0.0, 0.0)
    # Torchvision shears by an angle, the policies by its tangent, around the corner.
    degrees = [math.degrees(math.atan(tangent)) for tangent in shear]
    moved: Tensor = functional.affine(
        images, angle=angle, translate=list(shift), scale=1.0, shear=degrees, center=[0.0, 0.0] if sheared else None
    )
    return moved


def _equalize(images: Tensor) -> Tensor:
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # it counts in integers, whose sums do not depend on the order
    try:
        equalized: Tensor = functional.equalize(images)
        return equalized
    finally:
        torch.use_deterministic_algorithms(deterministic)


def operations(
    shear: float, shift: Callable[[int], float], angle: float, colour: float, bits: int, solarize: float
) -> Mapping[str, Operation]:
    """Return the operations of a policy by name, in the order of torchvision.

    Args:
        shear: greatest shear, the tangent of the angle.
        shift: greatest shift in pixels for images of a side.
        angle: greatest rotation in degrees.
        colour: greatest change of brightness, colour, contrast and sharpness.
        bits: bits of a pixel that the strongest posterisation removes.
        solarize: share of the range of values from which the strongest solarisation inverts no pixel.
    """

    def upto(greatest: float) -> Callable[[float, int], float]:
        return lambda step, side: greatest * step

    def pixels(step: float, side: int) -> float:
        return int(shift(side) * step)

    return {
        "identity": Operation(lambda images, _: images),
        "shear_x": Operation(lambda images, value: _affine(images, shear=(value, 0.0)), upto(shear), signed=True),
        "shear_y": Operation(lambda images, value: _affine(images, shear=(0.0, value)), upto(shear), signed=True),
        "translate_x": Operation(lambda images, value: _affine(images, shift=(int(value), 0)), pixels, signed=True),
        "translate_y": Operation(lambda images, value: _affine(images, shift=(0, int(value))), pixels, signed=True),
        "rotate": Operation(functional.rotate, upto(angle), signed=True),
        "brightness": Operation(
            lambda images, value: functional.adjust_brightness(images, 1 + value), upto(colour), signed=True
        ),
        "color": Operation(
            lambda images, value: functional.adjust_saturation(images, 1 + value), upto(colour), signed=True
        ),
        "contrast": Operation(
            lambda images, value: functional.adjust_contrast(images, 1 + value), upto(colour), signed=True
        ),
        "sharpness": Operation(
            lambda images, value: functional.adjust_sharpness(images, 1 + value), upto(colour), signed=True
        ),
        "posterize": Operation(
            lambda images, value: functional.posterize(images, int(value)), lambda step, _: 8 - round(bits * step)
        ),
        "solarize": Operation(
            lambda images, value: functional.solarize(images, 255 * value), lambda step, _: 1 - (1 - solarize) * step
        ),
        "autocontrast": Operation(lambda images, _: functional.autocontrast(images)),
        "equalize": Operation(lambda images, _: _equalize(images)),
    }


class _Policy:
    """Random operations, each column triple of the table one: operation, step of its strength, sign."""

    def __init__(self, choices: Mapping[str, Operation], count: int, strength: int | None, name: str) -> None:
        self._choices, self._count, self._strength, self._name = tuple(choices.values()), count, strength, name

    def table(self, size: int, side: int, data_seed: int, epoch: int) -> Table:
        """Return (size, 3·operations): operation, step of its strength in 0 to 30, and 1 if it is negative, else 0."""
        columns = []
        for number in range(self._count):
            purpose = f"{self._name} {number}"
            columns.append(hashed_randint(len(self._choices), size, data_seed, epoch, purpose))
            if self._strength is None:
                columns.append(hashed_randint(STRENGTHS, size, data_seed, epoch, f"{purpose} strength"))
            else:
                columns.append(np.full(size, self._strength, dtype=np.int64))
            columns.append(hashed_randint(2, size, data_seed, epoch, f"{purpose} sign"))
        return np.stack(columns, axis=1)

    def apply(self, images: Tensor, rows: Table) -> Tensor:
        """Return the changed images (B, channels, side, side) uint8."""
        images = images.clone()
        for first in range(0, rows.shape[1], 3):
            settings = rows[:, first : first + 3]
            for setting in np.unique(settings, axis=0):
                operation, step, negative = (int(value) for value in setting)
                chosen = upload(np.flatnonzero((settings == setting).all(axis=1)), images.device)
                images[chosen] = self._change(images[chosen], operation, step, bool(negative))
        return images

    def _change(self, images: Tensor, number: int, step: int, negative: bool) -> Tensor:
        operation = self._choices[number]
        value = operation.strength(step / (STRENGTHS - 1), images.shape[-1])
        return operation.apply(images, -value if negative and operation.signed else value)


class RandAugment(_Policy):
    """RandAugment (Cubuk et al. 2020): several operations of one strength."""

    def __init__(self, params: RandAugmentParams) -> None:
        choices = operations(
            shear=0.3, shift=lambda side: 150 / 331 * side, angle=30.0, colour=0.9, bits=4, solarize=0.0
        )
        super().__init__(choices, params.num_ops, params.magnitude, "randaugment")


class TrivialAugment(_Policy):
    """TrivialAugmentWide (Müller and Hutter 2021): one operation of random strength.

    A shift has at most 32 pixels, and at most the side of the image.
    """

    def __init__(self, params: NoParams) -> None:
        choices = operations(
            shear=0.99, shift=lambda side: min(32, side), angle=135.0, colour=0.99, bits=6, solarize=0.0
        )
        super().__init__(choices, 1, None, "trivialaugment")


_GREY = (125, 123, 114)
"""The colour of the square, by channel."""


class FixMatch(_Policy):
    """The strong view of FixMatch (Sohn et al. 2020): operations of random strength, then cutout.

    Brightness, colour, contrast and sharpness are only lowered, to 5–95 %. The square of cutout has its centre anywhere
    and a side of up to half of the image; what is beyond the lower and the right border is cut off.
    """

    def __init__(self, params: FixMatchParams) -> None:
        choices = dict(
            operations(shear=0.3, shift=lambda side: 0.3 * side, angle=30.0, colour=0.0, bits=4, solarize=0.0)
        )
        for name in ("brightness", "color", "contrast", "sharpness"):
            choices[name] = replace(choices[name], strength=lambda step, side: -0.05 - 0.9 * step, signed=False)
        choices["posterize"] = replace(choices["posterize"], strength=lambda step, side: 4 + int(4 * step))
        super().__init__(choices, params.num_ops, None, "fixmatch")
        self._cutout = params.cutout

    def table(self, size: int, side: int, data_seed: int, epoch: int) -> Table:
        """Return (size, 3·operations + 4): the operations, then top, left, height and width of the square."""
        length = hashed_randint(math.floor(self._cutout * side) + 1, size, data_seed, epoch, "fixmatch cutout")
        firsts = [
            np.maximum(hashed_randint(side, size, data_seed, epoch, f"fixmatch cutout {place}") - length // 2, 0)
            for place in ("top", "left")
        ]
        extents = [np.minimum(first + length, side) - first for first in firsts]
        return np.column_stack((super().table(size, side, data_seed, epoch), *firsts, *extents))

    def apply(self, images: Tensor, rows: Table) -> Tensor:
        """Return the changed images (B, channels, side, side) uint8."""
        images = super().apply(images, rows[:, :-4])
        channels = images.shape[1]
        colour = _GREY if channels == len(_GREY) else (round(sum(_GREY) / len(_GREY)),) * channels
        grey = torch.tensor(colour, dtype=torch.uint8).to(images.device, non_blocking=True).view(1, -1, 1, 1)
        return torch.where(inside_boxes(rows[:, -4:], images.shape[-1], images.device), grey, images)
