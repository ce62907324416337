"""The data sets: their parameters, and the facts that are known before they are read.

The code is in ``core.tasks.classification.data``. The data sets of object detection are in
``core.catalog.detection_datasets``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, field_validator, model_serializer

from core.catalog.path_rules import relative_data_path
from core.catalog.registry import Entry, Params, Registry
from core.catalog.tasks import CLASSIFICATION, TASKS, TaskEntry


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of a data set that a spec is checked against before images are read.

    Attributes:
        num_classes: Number of classes, C, the width of the logits. Of a detection set, C = K + 1: the K kinds of
            objects and the background.
        channels: Channels of an image: 1 for grey, 3 for colour.
        image_size: Side of the square images in pixels; of images of unequal size, their short side.
        train_size: Training images, without those that are held out for validation.
        test_size: Test images.
    """

    num_classes: int
    channels: int
    image_size: int
    train_size: int
    test_size: int


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(Entry):
    """A data set. ``target`` is a callable ``(params) -> core.tasks.classification.data.Dataset``.

    Of a detection set, it returns ``core.tasks.detection.data.DetectionData``.

    Attributes:
        reads_files: Whether ``target`` also takes the settings of the training, which name the folders of this machine:
            ``(params, settings: core.settings.TrainingSettings)``.
        facts: Returns the facts for given parameters; None if only the worker can know them (a folder of images).
        task: Name of the task that the data set is for.
    """

    facts: Callable[[Any], DatasetFacts | None]
    reads_files: bool = False
    task: str = CLASSIFICATION.name

    def describe(self) -> dict[str, Any]:
        # Facts are shown for the default parameters; a data set with a required parameter shows none.
        required = any(field.is_required() for field in self.params.model_fields.values())
        facts = None if required else self.facts(self.params())
        return super().describe() | {"facts": asdict(facts) if facts else None, "task": self.task}


DATASETS: Registry[DatasetEntry] = Registry("dataset")


def task_of(dataset: str) -> TaskEntry:
    """Return the task of a data set; classification for a name that is not in the catalog.

    Stored experiments may name the data set of a plug-in that is no longer loaded.
    """
    return TASKS[DATASETS[dataset].task] if dataset in DATASETS else CLASSIFICATION


def headline_of(dataset: str, params: Mapping[str, Any] | None = None) -> str:
    """Return the name of the metric by which results on a data set are judged.

    Args:
        dataset: The name of the data set.
        params: Its parameters, which say on which images the reports measure.
    """
    task = task_of(dataset)
    return task.validation if (params or {}).get("evaluate") == "validation" else task.headline


Views = Literal["shift", "resized_crop"]


class SplitParams(Params):
    """Base of every data set's parameters: a validation split, which is held out of the training images.

    What does not differ from its default is left out of the dump, so that a training without a split keeps its
    fingerprint.
    """

    val_fraction: float = Field(
        0.0, ge=0, le=0.5, description="Share of the training images held out for validation, class by class."
    )
    val_seed: int = Field(0, ge=0, lt=2**31, description="Seed that determines which images are held out.")
    evaluate: Literal["test", "validation"] = Field(
        "test",
        description="Which images the network is measured on. validation: those that are held out take the place of "
        "the test images, of which none is used; a choice between settings should be made so.",
    )

    @field_validator("evaluate")
    @classmethod
    def _has_held_out_images(cls, evaluate: str, info: ValidationInfo) -> str:
        if evaluate == "validation" and info.data.get("val_fraction") == 0:
            raise ValueError("no training images are held out to measure on; give val_fraction, such as 0.1")
        return evaluate

    @model_serializer(mode="wrap")
    def _without_split(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        left_out = set(self._left_out())
        return {name: value for name, value in values.items() if name not in left_out}

    def _left_out(self) -> Iterable[str]:
        """Return the fields that are left out of the dump, so that older trainings keep their fingerprints."""
        if not self.val_fraction:
            return SplitParams.model_fields
        return ("evaluate",) if self.evaluate == "test" else ()

    def facts(self, num_classes: int, channels: int, image_size: int, train_size: int, test_size: int) -> DatasetFacts:
        """Return facts in which ``train_size`` is reduced by the images that are held out.

        If the network is measured on these, ``test_size`` is their number.
        """
        held_out = round(self.val_fraction * train_size)
        measured_on = held_out if self.evaluate == "validation" else test_size
        return DatasetFacts(num_classes, channels, image_size, train_size - held_out, measured_on)


class ImageParams(SplitParams):
    """Parameters of images of any size, which are made square when they are packed."""

    image_size: int = Field(
        224,
        ge=8,
        le=1024,
        description="Side in pixels. The short side of an image is resized to it, and the centre square is cropped.",
    )
    views: Views = Field(
        "shift",
        description="Augmentation of training images. shift: the image moved by up to an eighth of its side. "
        "resized_crop: crops of 8-100 % of the area, resized; tests use the centre 7/8 of a side (224 px of 256).",
    )

    def _left_out(self) -> Iterable[str]:
        return (*super()._left_out(), *(("views",) if self.views == "shift" else ()))


class CroppedParams(ImageParams):
    """Parameters of photographs, which the literature trains on with resized crops. ``views`` is always written out."""

    image_size: int = Field(224, ge=8, le=1024, description="Side in pixels of the network's input.")
    views: Views = Field(
        "resized_crop",
        description="Augmentation of training images. resized_crop: crops of 8-100 % of the area, resized; "
        "tests use the "
        "centre 7/8 of a side (224 px of 256). shift: the short side resized to image_size, moved by up to an eighth.",
    )

    def _left_out(self) -> Iterable[str]:
        return SplitParams._left_out(self)


class CIFARParams(SplitParams):
    """Parameters of CIFAR-10 and CIFAR-100."""

    image_size: int = Field(
        32,
        ge=32,
        le=512,
        description="Side in pixels. If it is above 32, the images of each batch are enlarged to it (bilinear).",
    )


class TinyImageParams(ImageParams):
    """Parameters of Tiny ImageNet."""

    image_size: int = Field(
        64,
        ge=8,
        le=1024,
        description="Side in pixels. The short side of an image is resized to it, and the centre square is cropped.",
    )


class FolderParams(ImageParams):
    """Parameters of a folder of images."""

    path: str = Field(
        min_length=1,
        max_length=500,
        description="Folder below the worker's DATA_DIR that contains train/<class>/ and test/<class>/. "
        "\\xNN in its name is a byte that is not UTF-8.",
        examples=["pets"],
    )
    image_size: int = Field(
        ge=8,
        le=1024,
        description="Side in pixels. The short side of an image is resized to it, and the centre square is cropped.",
    )
    flip: bool = Field(
        True, description="Mirror training images at random. Switch it off if left and right have different meanings."
    )

    @field_validator("path")
    @classmethod
    def _below_data_dir(cls, path: str) -> str:
        return relative_data_path(path)


class SyntheticParams(SplitParams):
    """Parameters of the synthetic data set."""

    num_classes: int = Field(10, ge=2, le=10_000, description="Number of classes.")
    image_size: int = Field(16, ge=4, le=224, description="Side of the square image, pixels.")
    channels: int = Field(3, ge=1, le=4, description="Channels of an image.")
    train_size: int = Field(2000, ge=2, le=1_000_000, description="Training images.")
    test_size: int = Field(1000, ge=1, le=1_000_000, description="Test images.")
    noise: float = Field(1.0, ge=0, le=100, description="Standard deviation of the noise; that of the prototypes is 1.")


def _synthetic_facts(params: SyntheticParams) -> DatasetFacts:
    return params.facts(params.num_classes, params.channels, params.image_size, params.train_size, params.test_size)


DATASETS.add(
    DatasetEntry(
        name="digits",
        title="Digits",
        summary="1,797 real images of handwritten digits, grey, 8 px, bundled with scikit-learn. Half of them are the "
        "test split.",
        target="core.tasks.classification.data.digits:load",
        params=SplitParams,
        facts=lambda params: params.facts(num_classes=10, channels=1, image_size=8, train_size=896, test_size=901),
        source="UCI Optical Recognition of Handwritten Digits, test part",
    )
)
DATASETS.add(
    DatasetEntry(
        name="synthetic",
        title="Synthetic",
        summary="One random smooth prototype per class plus noise, for tests and for studying losses.",
        target="core.tasks.classification.data.synthetic:load",
        params=SyntheticParams,
        facts=_synthetic_facts,
    )
)
DATASETS.add(
    DatasetEntry(
        name="mnist",
        title="MNIST",
        summary="60,000 training and 10,000 test images of handwritten digits, grey, 28 px.",
        target="core.tasks.classification.data.mnist:load_mnist",
        reads_files=True,
        params=SplitParams,
        facts=lambda params: params.facts(10, 1, 28, 60_000, 10_000),
        source="LeCun, Bottou, Bengio and Haffner, Proc. IEEE 1998",
    )
)
DATASETS.add(
    DatasetEntry(
        name="fashion_mnist",
        title="Fashion-MNIST",
        summary="60,000 training and 10,000 test images of clothes, grey, 28 px.",
        target="core.tasks.classification.data.mnist:load_fashion_mnist",
        reads_files=True,
        params=SplitParams,
        facts=lambda params: params.facts(10, 1, 28, 60_000, 10_000),
        source="Xiao, Rasul and Vollgraf, arXiv 1708.07747",
    )
)
DATASETS.add(
    DatasetEntry(
        name="cifar10",
        title="CIFAR-10",
        summary="50,000 training and 10,000 test images of ten classes, colour, 32 px, from the official files or "
        "class folders.",
        target="core.tasks.classification.data.cifar:load_cifar10",
        reads_files=True,
        params=CIFARParams,
        facts=lambda params: params.facts(10, 3, params.image_size, 50_000, 10_000),
        source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    )
)
DATASETS.add(
    DatasetEntry(
        name="cifar100",
        title="CIFAR-100",
        summary="50,000 training and 10,000 test images of 100 classes, colour, 32 px, from the official files or "
        "class folders.",
        target="core.tasks.classification.data.cifar:load_cifar100",
        reads_files=True,
        params=CIFARParams,
        facts=lambda params: params.facts(100, 3, params.image_size, 50_000, 10_000),
        source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    )
)
DATASETS.add(
    DatasetEntry(
        name="svhn",
        title="SVHN",
        summary="73,257 training and 26,032 test images of the digits of house numbers, colour, 32 px.",
        target="core.tasks.classification.data.svhn:load",
        reads_files=True,
        params=SplitParams,
        facts=lambda params: params.facts(10, 3, 32, 73_257, 26_032),
        source="Netzer et al., NIPS workshop 2011",
    )
)
DATASETS.add(
    DatasetEntry(
        name="food101",
        title="Food-101",
        summary="75,750 training and 25,250 test photographs of 101 dishes.",
        target="core.tasks.classification.data.food101:load",
        reads_files=True,
        params=CroppedParams,
        facts=lambda params: params.facts(101, 3, params.image_size, 75_750, 25_250),
        source="Bossard, Guillaumin and Van Gool, ECCV 2014",
    )
)
DATASETS.add(
    DatasetEntry(
        name="tiny_imagenet",
        title="Tiny ImageNet",
        summary="100,000 training and 10,000 test images of 200 ImageNet classes, colour, 64 px. The test split is "
        "ImageNet's validation split.",
        target="core.tasks.classification.data.tiny_imagenet:load",
        reads_files=True,
        params=TinyImageParams,
        facts=lambda params: params.facts(200, 3, params.image_size, 100_000, 10_000),
        source="Stanford CS231n",
    )
)
DATASETS.add(
    DatasetEntry(
        name="animals10",
        title="Animals-10",
        summary="26,179 photographs of ten animals. A fifth of each class is the test split.",
        target="core.tasks.classification.data.animals10:load",
        reads_files=True,
        params=ImageParams,
        facts=lambda params: params.facts(10, 3, params.image_size, 20_943, 5_236),
        source="Alessio, Kaggle, Animals-10",
    )
)
DATASETS.add(
    DatasetEntry(
        name="imagenet",
        title="ImageNet-1k",
        summary="1,281,167 training and 50,000 test photographs of 1000 classes. The test split is ImageNet's "
        "validation split.",
        target="core.tasks.classification.data.imagenet:load",
        reads_files=True,
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
        target="core.tasks.classification.data.folder:load",
        reads_files=True,
        params=FolderParams,
        facts=lambda _: None,
    )
)
