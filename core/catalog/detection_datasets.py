"""The data sets of object detection: images with boxes. The code is in ``core.tasks.detection.data``.

``DatasetFacts.num_classes`` of these sets is the width of the logits, C = K + 1: the K kinds of objects, and the
background, which is class 0.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from core.catalog.datasets import DATASETS, DatasetEntry, SplitParams
from core.catalog.detection_task import DETECTION

_ROOM = "core.tasks.detection.data"


class BoxSplitParams(SplitParams):
    """Parameters of every detection set: a validation split. An image has several classes, so it is drawn over all."""

    val_fraction: float = Field(0.0, ge=0, le=0.5, description="Share of the training images held out for validation.")


class DigitScenesParams(BoxSplitParams):
    """Parameters of scenes of handwritten digits."""

    train_size: int = Field(1000, ge=2, le=100_000, description="Training images.")
    test_size: int = Field(500, ge=1, le=100_000, description="Test images.")
    image_size: int = Field(96, ge=32, le=1024, description="Side of the square images in pixels.")
    min_digit: int = Field(12, ge=6, le=1024, description="Least long side of a digit in pixels.")
    max_digit: int = Field(36, ge=6, le=1024, description="Greatest long side of a digit in pixels.")
    min_digits: int = Field(1, ge=0, le=100, description="Least number of digits in an image.")
    max_digits: int = Field(6, ge=1, le=100, description="Greatest number of digits in an image.")
    overlap: float = Field(
        0.2, ge=0, le=1, description="Greatest share of a digit's box that is also in the box of another one."
    )
    clutter: int = Field(6, ge=0, le=200, description="Fragments of digits in an image, which are objects of no class.")
    noise: float = Field(8.0, ge=0, le=64, description="Standard deviation of the pixels' noise, of 255 levels.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the scenes. The seeds of runs do not change them.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for smaller, larger in (("min_digit", "max_digit"), ("min_digits", "max_digits"), ("max_digit", "image_size")):
            if getattr(self, smaller) > getattr(self, larger):
                raise ValueError(f"{smaller} should not be greater than {larger}")
        return self


DATASETS.add(
    DatasetEntry(
        name="digit_scenes",
        title="Digit scenes",
        summary="Real handwritten digits, bundled with scikit-learn, among fragments of others, with exact boxes.",
        target=f"{_ROOM}.digit_scenes:load",
        params=DigitScenesParams,
        facts=lambda params: params.facts(11, 3, params.image_size, params.train_size, params.test_size),
        source="UCI Optical Recognition of Handwritten Digits, test part",
        task=DETECTION.name,
    )
)
