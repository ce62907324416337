"""The augmentations of training images: their parameters and their place in the pipeline.

The code is in ``core.tasks.classification.data.augmentations``; that of the augmentations of images with boxes, which
``core.catalog.detection_augmentations`` lists, in ``core.tasks.detection.data.augmentations``. All of them are pure
functions of (data seed, epoch, sample).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, model_validator

from core.catalog.detection_task import DETECTION
from core.catalog.registry import Entry, Params, Registry
from core.catalog.tasks import CLASSIFICATION


class Stage(StrEnum):
    """Where in the pipeline an augmentation acts, in the order of the pipeline."""

    VIEW = "view"
    """Which of the data set's own shifts, crops and flips are used."""
    SCALE = "scale"
    """Size and crop of images with boxes."""
    IMAGE = "image"
    """Operations on uint8 images; of images with boxes, operations on their colours."""
    NORMALISED = "normalised"
    """Operations on normalised images."""
    MIX = "mix"
    """A mixture of two images of a batch, with both labels."""


STANDARD = "standard"
"""The view of a spec that names none."""


@dataclass(frozen=True, kw_only=True)
class AugmentationEntry(Entry):
    """An augmentation of training images.

    ``target`` depends on the stage, see ``core.tasks.classification.data.augmentations`` and
    ``core.tasks.detection.data.augmentations``.

    Attributes:
        stage: Where in the pipeline it acts.
        tasks: Names of the tasks whose images it is for.
    """

    stage: Stage
    tasks: tuple[str, ...] = (CLASSIFICATION.name,)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"stage": self.stage.value, "tasks": list(self.tasks)}


AUGMENTATIONS: Registry[AugmentationEntry] = Registry("augmentation")

_ANY_IMAGE = (CLASSIFICATION.name, DETECTION.name)

_ROOM = "core.tasks.classification.data.augmentations"


class RandAugmentParams(Params):
    """Parameters of RandAugment."""

    num_ops: int = Field(
        2,
        ge=1,
        le=10,
        description="N, the number of operations that are applied to an image in sequence.",
    )
    magnitude: int = Field(9, ge=0, le=30, description="M, the strength of the operations, from 0 to 30.")


class FixMatchParams(Params):
    """Parameters of FixMatch's strong augmentation."""

    num_ops: int = Field(2, ge=1, le=10, description="Number of operations that are applied to an image in sequence.")
    cutout: float = Field(
        0.5, ge=0, le=1, description="Maximum side of the square that is painted over, as a share of the image's side."
    )


STRONG = (STANDARD, {"name": "fixmatch", "params": FixMatchParams().model_dump(mode="json")})
"""The second view of a spec that names none, for methods that read one, as a validated spec has it."""


class RandomErasingParams(Params):
    """Parameters of random erasing."""

    probability: float = Field(0.25, ge=0, le=1, description="Share of the images in which a rectangle is erased.")
    min_area: float = Field(0.02, gt=0, lt=1, description="Smallest area of the rectangle, as a share of the image.")
    max_area: float = Field(0.33, gt=0, lt=1, description="Largest area of the rectangle, as a share of the image.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_area < self.min_area:
            raise ValueError("max_area should not be smaller than min_area")
        return self


class MixupParams(Params):
    """Parameters of mixup."""

    alpha: float = Field(0.2, gt=0, le=100, description="α: the weight λ of an image is drawn from Beta(α, α).")


class CutMixParams(Params):
    """Parameters of CutMix."""

    alpha: float = Field(
        1.0, gt=0, le=100, description="α: the share λ of the image that stays is drawn from Beta(α, α)."
    )


AUGMENTATIONS.add(
    AugmentationEntry(
        name=STANDARD,
        title="Standard",
        summary="The augmentation of the data set: random shifts or resized crops, and flips if they keep the class.",
        target=f"{_ROOM}.views:standard",
        stage=Stage.VIEW,
        tasks=_ANY_IMAGE,
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="flip",
        title="Flips only",
        summary="Only the flips of the data set.",
        target=f"{_ROOM}.views:flip",
        stage=Stage.VIEW,
        tasks=_ANY_IMAGE,
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="none",
        title="None",
        summary="Neither shifts nor crops nor flips.",
        target=f"{_ROOM}.views:none",
        stage=Stage.VIEW,
        tasks=_ANY_IMAGE,
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="randaugment",
        title="RandAugment",
        summary="A few random operations (colour, contrast, rotation …) of one strength on each image.",
        target=f"{_ROOM}.policies:RandAugment",
        params=RandAugmentParams,
        source="Cubuk et al. 2020, arXiv 1909.13719",
        stage=Stage.IMAGE,
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="trivialaugment",
        title="TrivialAugment",
        summary="One random operation of random strength on each image (TrivialAugmentWide).",
        target=f"{_ROOM}.policies:TrivialAugment",
        source="Müller and Hutter 2021, arXiv 2103.10158",
        aliases=("trivial_augment_wide", "ta_wide"),
        stage=Stage.IMAGE,
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="fixmatch",
        title="FixMatch's strong augmentation",
        summary="A few random operations, each of random strength, then a grey square of random size and place.",
        target=f"{_ROOM}.policies:FixMatch",
        params=FixMatchParams,
        source="Sohn et al. 2020, arXiv 2001.07685, as in the code of MLKD",
        stage=Stage.IMAGE,
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="random_erasing",
        title="Random erasing",
        summary="A random rectangle of some images is set to the mean colour.",
        target=f"{_ROOM}.erasing:RandomErasing",
        params=RandomErasingParams,
        source="Zhong et al. 2020, arXiv 1708.04896",
        aliases=("cutout",),
        stage=Stage.NORMALISED,
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="mixup",
        title="Mixup",
        summary="Each image is averaged with another one of its batch, and so are the losses of the two labels.",
        target=f"{_ROOM}.mixing:Mixup",
        params=MixupParams,
        source="Zhang et al. 2018, arXiv 1710.09412",
        stage=Stage.MIX,
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="cutmix",
        title="CutMix",
        summary="A rectangle of each image comes from another one of its batch; the losses of the two labels are "
        "weighted by area.",
        target=f"{_ROOM}.mixing:CutMix",
        params=CutMixParams,
        source="Yun et al. 2019, arXiv 1905.04899",
        stage=Stage.MIX,
    )
)
