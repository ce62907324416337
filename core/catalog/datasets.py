"""The data sets: their parameters and what is known of them before they are read. The code is in ``core.data``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from core.catalog.path_rules import relative_data_path
from core.catalog.registry import Entry, Params, Registry


@dataclass(frozen=True)
class DatasetFacts:
    """What a spec is checked against before anything is read.

    Attributes:
        num_classes: C.
        channels: of an image: 1 grey, 3 colour.
        image_size: side of the square image, pixels.
        train_size, test_size: images in each split; those held out for validation are in neither.
    """

    num_classes: int
    channels: int
    image_size: int
    train_size: int
    test_size: int


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(Entry):
    """A data set. ``target`` is a callable ``(params) -> core.data.Dataset``.

    Attributes:
        facts: what is known from the parameters alone; None where only the worker can know (a folder of images).
    """

    facts: Callable[[Any], DatasetFacts | None]

    def describe(self) -> dict[str, Any]:
        # Facts are shown for the default parameters; a data set whose parameters are all required shows none.
        required = any(field.is_required() for field in self.params.model_fields.values())
        facts = None if required else self.facts(self.params())
        return super().describe() | {"facts": asdict(facts) if facts else None}


DATASETS: Registry[DatasetEntry] = Registry("dataset")

Views = Literal["shift", "resized_crop"]


class SplitParams(Params):
    """Base of every data set's parameters: a validation split, held out of the training images.

    Where none is asked for, neither field is written out: a training without one keeps its fingerprint.
    """

    val_fraction: float = Field(
        0.0, ge=0, le=0.5, description="Share of the training images held out for validation, class by class."
    )
    val_seed: int = Field(0, ge=0, lt=2**31, description="Decides which images are held out.")

    @model_serializer(mode="wrap")
    def _without_split(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        left_out = set(self._left_out())
        return {name: value for name, value in values.items() if name not in left_out}

    def _left_out(self) -> Iterable[str]:
        """Fields that are not written out, so that a training from before they came keeps its fingerprint."""
        return () if self.val_fraction else SplitParams.model_fields

    def facts(self, num_classes: int, channels: int, image_size: int, train_size: int, test_size: int) -> DatasetFacts:
        """Facts whose training images are those that are left after the split, of ``train_size``."""
        held_out = round(self.val_fraction * train_size)
        return DatasetFacts(num_classes, channels, image_size, train_size - held_out, test_size)


class ImageParams(SplitParams):
    """Images of any size, made into squares when they are packed."""

    image_size: int = Field(
        224, ge=8, le=1024, description="Side in pixels: the short side is resized to it, the middle square cut out."
    )
    views: Views = Field(
        "shift",
        description="Training views: shift: the image moved by up to an eighth of its side; resized_crop: boxes of "
        "8-100 % of its area, resized, and tested on the middle 7/8 of a side (224 px of 256).",
    )

    def _left_out(self) -> Iterable[str]:
        return (*super()._left_out(), *(("views",) if self.views == "shift" else ()))


class CroppedParams(ImageParams):
    """Photographs that the literature trains on by resized crops; its trainings always say which views they saw."""

    image_size: int = Field(224, ge=8, le=1024, description="Side in pixels of what a network sees.")
    views: Views = Field(
        "resized_crop",
        description="Training views: resized_crop: boxes of 8-100 % of the area, resized, and tested on the middle 7/8 "
        "of a side (224 px of 256); shift: the short side resized to image_size, moved by up to an eighth.",
    )

    def _left_out(self) -> Iterable[str]:
        return SplitParams._left_out(self)


class CIFARParams(SplitParams):
    image_size: int = Field(
        32, ge=32, le=512, description="Side in pixels. Above 32 the images are enlarged batch by batch (bilinear)."
    )


class TinyImageParams(ImageParams):
    image_size: int = Field(
        64, ge=8, le=1024, description="Side in pixels: the short side is resized to it, the middle square cut out."
    )


class FolderParams(ImageParams):
    path: str = Field(
        min_length=1,
        max_length=500,
        description="Folder below the worker's DATA_DIR with train/<class>/ and test/<class>/ in it; "
        "\\xNN in its name is a byte that is no UTF-8.",
        examples=["pets"],
    )
    image_size: int = Field(
        ge=8, le=1024, description="Side in pixels: the short side is resized to it, the middle square cut out."
    )
    flip: bool = Field(True, description="Mirror images at random; off where left and right mean different things.")

    @field_validator("path")
    @classmethod
    def _below_data_dir(cls, path: str) -> str:
        return relative_data_path(path)


class SyntheticParams(SplitParams):
    num_classes: int = Field(10, ge=2, le=10_000, description="Number of classes.")
    image_size: int = Field(16, ge=4, le=224, description="Side of the square image, pixels.")
    channels: int = Field(3, ge=1, le=4, description="Channels of an image.")
    train_size: int = Field(2000, ge=2, le=1_000_000, description="Training images.")
    test_size: int = Field(1000, ge=1, le=1_000_000, description="Test images.")
    noise: float = Field(1.0, ge=0, le=100, description="Standard deviation of the noise, the prototypes having 1.")


def _synthetic_facts(params: SyntheticParams) -> DatasetFacts:
    return params.facts(params.num_classes, params.channels, params.image_size, params.train_size, params.test_size)


DATASETS.add(
    DatasetEntry(
        name="digits",
        title="Digits",
        summary="1,797 real 8×8 grey images of handwritten digits, bundled with scikit-learn, half held out.",
        target="core.data.digits:load",
        params=SplitParams,
        facts=lambda params: params.facts(num_classes=10, channels=1, image_size=8, train_size=896, test_size=901),
        source="UCI Optical Recognition of Handwritten Digits, test part",
    )
)
DATASETS.add(
    DatasetEntry(
        name="synthetic",
        title="Synthetic",
        summary="One random smooth prototype a class plus noise: for tests and for finding out what a loss does.",
        target="core.data.synthetic:load",
        params=SyntheticParams,
        facts=_synthetic_facts,
    )
)
DATASETS.add(
    DatasetEntry(
        name="mnist",
        title="MNIST",
        summary="60,000 + 10,000 grey 28 px images of handwritten digits.",
        target="core.data.mnist:load_mnist",
        params=SplitParams,
        facts=lambda params: params.facts(10, 1, 28, 60_000, 10_000),
        source="LeCun, Bottou, Bengio and Haffner, Proc. IEEE 1998",
    )
)
DATASETS.add(
    DatasetEntry(
        name="fashion_mnist",
        title="Fashion-MNIST",
        summary="60,000 + 10,000 grey 28 px images of clothes.",
        target="core.data.mnist:load_fashion_mnist",
        params=SplitParams,
        facts=lambda params: params.facts(10, 1, 28, 60_000, 10_000),
        source="Xiao, Rasul and Vollgraf, arXiv 1708.07747",
    )
)
DATASETS.add(
    DatasetEntry(
        name="cifar10",
        title="CIFAR-10",
        summary="50,000 + 10,000 colour 32 px images of ten classes; the official files, or a tree of images.",
        target="core.data.cifar:load_cifar10",
        params=CIFARParams,
        facts=lambda params: params.facts(10, 3, params.image_size, 50_000, 10_000),
        source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    )
)
DATASETS.add(
    DatasetEntry(
        name="cifar100",
        title="CIFAR-100",
        summary="50,000 + 10,000 colour 32 px images of 100 classes; the official files, or a tree of images.",
        target="core.data.cifar:load_cifar100",
        params=CIFARParams,
        facts=lambda params: params.facts(100, 3, params.image_size, 50_000, 10_000),
        source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    )
)
DATASETS.add(
    DatasetEntry(
        name="svhn",
        title="SVHN",
        summary="73,257 + 26,032 colour 32 px images of house numbers' digits.",
        target="core.data.svhn:load",
        params=SplitParams,
        facts=lambda params: params.facts(10, 3, 32, 73_257, 26_032),
        source="Netzer et al., NIPS workshop 2011",
    )
)
DATASETS.add(
    DatasetEntry(
        name="food101",
        title="Food-101",
        summary="75,750 + 25,250 photographs of 101 dishes.",
        target="core.data.food101:load",
        params=CroppedParams,
        facts=lambda params: params.facts(101, 3, params.image_size, 75_750, 25_250),
        source="Bossard, Guillaumin and Van Gool, ECCV 2014",
    )
)
DATASETS.add(
    DatasetEntry(
        name="tiny_imagenet",
        title="Tiny ImageNet",
        summary="100,000 + 10,000 colour 64 px images of 200 of ImageNet's classes; tested on its validation images.",
        target="core.data.tiny_imagenet:load",
        params=TinyImageParams,
        facts=lambda params: params.facts(200, 3, params.image_size, 100_000, 10_000),
        source="Stanford CS231n",
    )
)
DATASETS.add(
    DatasetEntry(
        name="animals10",
        title="Animals-10",
        summary="26,179 photographs of ten animals, a fifth of each class held out as the test split.",
        target="core.data.animals10:load",
        params=ImageParams,
        facts=lambda params: params.facts(10, 3, params.image_size, 20_943, 5_236),
        source="Alessio, Kaggle, Animals-10",
    )
)
DATASETS.add(
    DatasetEntry(
        name="imagenet",
        title="ImageNet-1k",
        summary="1,281,167 + 50,000 photographs of 1000 classes; tested on its validation images.",
        target="core.data.imagenet:load",
        params=CroppedParams,
        facts=lambda params: params.facts(1000, 3, params.image_size, 1_281_167, 50_000),
        source="Russakovsky et al., IJCV 2015",
    )
)
DATASETS.add(
    DatasetEntry(
        name="folder",
        title="Image folder",
        summary="Any images in train/<class>/ and test/<class>/ below the worker's DATA_DIR.",
        target="core.data.folder:load",
        params=FolderParams,
        facts=lambda _: None,
    )
)
