"""The augmentations of images with boxes. The code is in ``core.tasks.detection.data.augmentations``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from core.catalog.augmentations import AUGMENTATIONS, AugmentationEntry, Stage
from core.catalog.detection_task import DETECTION
from core.catalog.registry import Params

_ROOM = "core.tasks.detection.data.augmentations"


class MultiScaleParams(Params):
    """Parameters of random short sides."""

    min_size: int = Field(640, ge=32, le=4096, description="Smallest short side in pixels.")
    max_size: int = Field(800, ge=32, le=4096, description="Largest short side in pixels.")
    step: int = Field(32, ge=1, le=4096, description="Difference between two neighbouring short sides in pixels.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_size < self.min_size:
            raise ValueError("max_size should not be smaller than min_size")
        return self

    @property
    def choices(self) -> tuple[int, ...]:
        """The short sides, of which each image gets one."""
        return tuple(range(self.min_size, self.max_size + 1, self.step))


class ScaleJitterParams(Params):
    """Parameters of large-scale jitter."""

    size: int = Field(1024, ge=32, le=4096, description="Side in pixels of the square that is cropped.")
    min_scale: float = Field(
        0.1,
        gt=0,
        le=4,
        description="Smallest long side of an image, as a share of the square's side.",
    )
    max_scale: float = Field(
        2.0,
        gt=0,
        le=4,
        description="Largest long side of an image, as a share of the square's side.",
    )
    min_visible: float = Field(
        0.1, ge=0, le=1, description="A box is dropped if less than this share of its area is in the crop."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_scale < self.min_scale:
            raise ValueError("max_scale should not be smaller than min_scale")
        return self


class ColourJitterParams(Params):
    """Parameters of random colours."""

    brightness: float = Field(0.4, ge=0, le=1, description="Maximum change of the brightness: 0.4 is 60-140 %.")
    contrast: float = Field(0.4, ge=0, le=1, description="Maximum change of the contrast.")
    saturation: float = Field(0.4, ge=0, le=1, description="Maximum change of the saturation.")
    hue: float = Field(0.0, ge=0, le=0.5, description="Maximum change of the hue, as a share of the colour circle.")


AUGMENTATIONS.add(
    AugmentationEntry(
        name="multi_scale",
        title="Multi-scale",
        summary="The short side of each image is resized to one of several sizes, drawn at random.",
        target=f"{_ROOM}:MultiScale",
        params=MultiScaleParams,
        source="detectron2: ResizeShortestEdge",
        aliases=("multiscale", "resize_shortest_edge"),
        stage=Stage.SCALE,
        tasks=(DETECTION.name,),
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="scale_jitter",
        title="Large-scale jitter",
        summary="Each image gets a random size, and a square is cropped from a large one.",
        target=f"{_ROOM}:ScaleJitter",
        params=ScaleJitterParams,
        source="Ghiasi et al. 2021, arXiv 2012.07177",
        aliases=("lsj", "large_scale_jitter"),
        stage=Stage.SCALE,
        tasks=(DETECTION.name,),
    )
)
AUGMENTATIONS.add(
    AugmentationEntry(
        name="colour_jitter",
        title="Colour jitter",
        summary="Random brightness, contrast, saturation and hue.",
        target=f"{_ROOM}:ColourJitter",
        params=ColourJitterParams,
        aliases=("color_jitter",),
        stage=Stage.IMAGE,
        tasks=(DETECTION.name,),
    )
)
