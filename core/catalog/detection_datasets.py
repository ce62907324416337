"""The data sets of object detection: images with boxes. The code is in ``core.tasks.detection.data``.

``DatasetFacts.num_classes`` of these sets is the width of the logits, C = K + 1: the K kinds of objects, and the
background, which is class 0.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from core.catalog.datasets import DATASETS, DatasetEntry, DatasetFacts, SplitParams
from core.catalog.detection_task import DETECTION
from core.catalog.path_rules import relative_data_path

_ROOM = "core.tasks.detection.data"


class BoxSplitParams(SplitParams):
    """Parameters of every detection set: a validation split. An image has several classes, so it is drawn over all."""

    val_fraction: float = Field(0.0, ge=0, le=0.5, description="Share of the training images held out for validation.")


class PhotoParams(BoxSplitParams):
    """Parameters of photographs, which a network sees resized, each with its own aspect ratio."""

    min_size: int = Field(
        800,
        ge=32,
        le=4096,
        description="Side in pixels to which the short side of an image is resized, unless its long side would "
        "then exceed max_size.",
    )
    max_size: int = Field(
        1333,
        ge=32,
        le=8192,
        description="Maximum long side in pixels. An image whose long side would exceed it is resized so that its "
        "long side has this length.",
    )
    flip: bool = Field(
        True, description="Mirror training images at random. Switch it off if left and right have different meanings."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_size < self.min_size:
            raise ValueError("max_size should not be smaller than min_size")
        return self


class CocoParams(PhotoParams):
    """Parameters of COCO, and of any folder with images and COCO's JSON."""

    path: str = Field(
        "",
        max_length=500,
        description="Folder below the worker's DATA_DIR. Leave it out for COCO 2017 in its usual folders.",
        examples=["helmets"],
    )
    train_annotations: str = Field(
        "annotations/instances_train2017.json",
        min_length=1,
        max_length=500,
        description="COCO JSON file of the training split, relative to the folder.",
    )
    train_images: str = Field(
        "train2017", min_length=1, max_length=500, description="Folder of the training images, relative to the folder."
    )
    test_annotations: str = Field(
        "annotations/instances_val2017.json",
        min_length=1,
        max_length=500,
        description="COCO JSON file of the test split, relative to the folder.",
    )
    test_images: str = Field(
        "val2017", min_length=1, max_length=500, description="Folder of the test images, relative to the folder."
    )

    @field_validator("path", "train_annotations", "train_images", "test_annotations", "test_images")
    @classmethod
    def _below_data_dir(cls, path: str) -> str:
        return relative_data_path(path) if path else path


VocYear = Literal["2007", "2012", "2007+2012"]


class VocParams(PhotoParams):
    """Parameters of Pascal VOC, and of any folder in its layout."""

    path: str = Field(
        "",
        max_length=500,
        description="Folder below the worker's DATA_DIR. Leave it out for Pascal VOC in its usual folders.",
        examples=["bccd"],
    )
    year: VocYear = Field(
        "2007",
        description="Without path: 2007 trains on trainval and tests on test; 2012 trains on train and tests on val; "
        "2007+2012 trains on both trainval splits and tests on the test split of 2007.",
    )
    train: str = Field(
        "",
        max_length=100,
        description="Name of the training split, which is a list in the folder of lists. By default trainval, or "
        "train for 2012.",
    )
    test: str = Field(
        "",
        max_length=100,
        description="Name of the test split, which is a list in the folder of lists. By default test, or val for 2012.",
    )
    annotations: str = Field(
        "Annotations", min_length=1, max_length=200, description="Subfolder with one XML file per image."
    )
    images: str = Field("JPEGImages", min_length=1, max_length=200, description="Subfolder with the images.")
    lists: str = Field(
        "ImageSets/Main", min_length=1, max_length=200, description="Subfolder with one list of names per split."
    )

    @field_validator("path", "train", "test", "annotations", "images", "lists")
    @classmethod
    def _below_data_dir(cls, path: str) -> str:
        return relative_data_path(path) if path else path

    @model_validator(mode="after")
    def _year_of_the_usual_folders(self) -> Self:
        if self.year == "2007+2012" and (self.path or self.train or self.test):
            raise ValueError("year 2007+2012 stands for its own folders and splits; leave path, train and test out")
        return self


class DigitScenesParams(BoxSplitParams):
    """Parameters of scenes of handwritten digits."""

    train_size: int = Field(1000, ge=2, le=100_000, description="Training images.")
    test_size: int = Field(500, ge=1, le=100_000, description="Test images.")
    image_size: int = Field(96, ge=32, le=1024, description="Side of the square images in pixels.")
    min_digit: int = Field(12, ge=6, le=1024, description="Smallest long side of a digit in pixels.")
    max_digit: int = Field(36, ge=6, le=1024, description="Largest long side of a digit in pixels.")
    min_digits: int = Field(1, ge=0, le=100, description="Minimum number of digits in an image.")
    max_digits: int = Field(6, ge=1, le=100, description="Maximum number of digits in an image.")
    overlap: float = Field(
        0.2, ge=0, le=1, description="Maximum share of a digit's box that is also in the box of another digit."
    )
    clutter: int = Field(
        6,
        ge=0,
        le=200,
        description="Number of fragments of digits in an image. A fragment is an object of no class.",
    )
    noise: float = Field(8.0, ge=0, le=64, description="Standard deviation of the pixels' noise, on a scale of 0-255.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the scenes. The seeds of runs do not change them.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for smaller, larger in (("min_digit", "max_digit"), ("min_digits", "max_digits"), ("max_digit", "image_size")):
            if getattr(self, smaller) > getattr(self, larger):
                raise ValueError(f"{smaller} should not be greater than {larger}")
        return self


def _coco_facts(params: CocoParams) -> DatasetFacts | None:
    if params.path or any(
        getattr(params, name) != CocoParams.model_fields[name].default
        for name in ("train_annotations", "train_images", "test_annotations", "test_images")
    ):
        return None
    return params.facts(num_classes=81, channels=3, image_size=params.min_size, train_size=118_287, test_size=5_000)


_VOC_SIZES: dict[VocYear, tuple[int, int]] = {
    "2007": (5_011, 4_952),
    "2012": (5_717, 5_823),
    "2007+2012": (16_551, 4_952),
}


def _voc_facts(params: VocParams) -> DatasetFacts | None:
    if params.path or params.train or params.test:
        return None
    train_size, test_size = _VOC_SIZES[params.year]
    return params.facts(21, 3, params.min_size, train_size, test_size)


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
DATASETS.add(
    DatasetEntry(
        name="voc",
        title="Pascal VOC",
        summary="Photographs with one XML file of boxes each: Pascal VOC 2007 or 2012, or any folder in this layout.",
        target=f"{_ROOM}.voc:load",
        reads_files=True,
        params=VocParams,
        facts=_voc_facts,
        source="Everingham et al., IJCV 2010",
        task=DETECTION.name,
        aliases=("pascal_voc", "voc2007", "voc2012"),
    )
)
DATASETS.add(
    DatasetEntry(
        name="coco",
        title="COCO",
        summary="Photographs with a JSON of boxes per split: COCO 2017, or any folder with images and COCO's JSON.",
        target=f"{_ROOM}.coco:load",
        reads_files=True,
        params=CocoParams,
        facts=_coco_facts,
        source="Lin et al., ECCV 2014",
        task=DETECTION.name,
        aliases=("coco2017", "ms_coco"),
    )
)
