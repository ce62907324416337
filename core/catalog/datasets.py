"""The data sets: their parameters and what is known of them before they are read. The code is in ``core.data``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

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
        return values if self.val_fraction else {k: v for k, v in values.items() if k not in SplitParams.model_fields}

    def facts(self, num_classes: int, channels: int, image_size: int, train_size: int, test_size: int) -> DatasetFacts:
        """Facts whose training images are those that are left after the split, of ``train_size``."""
        held_out = round(self.val_fraction * train_size)
        return DatasetFacts(num_classes, channels, image_size, train_size - held_out, test_size)


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
