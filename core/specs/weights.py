"""Weights that a teacher starts from, and whether networks and images fit each other."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from core.catalog import MODELS, DatasetFacts, ModelEntry
from core.specs.components import ModelRef, SpecModel

PRETRAINED = "pretrained"

Found = tuple[tuple[int | str, ...], str, Any]
"""A problem as ``core.specs.problems.refuse`` takes it: path, message, the value refused."""


Numbers = Annotated[tuple[float, ...], Field(min_length=1, max_length=16)]

_ADDED = ("mean", "std", "image_size", "interpolation")
"""Fields that came later: where they are not set they are not written out, so that fingerprints stay."""


class Weights(SpecModel):
    """Weights from elsewhere; a bare string is short for a source used as it is."""

    source: str = Field(
        min_length=1,
        max_length=1000,
        pattern=r"^[^\s\x00](.*\S)?$",
        description="pretrained: the published ones of that name. Else a file below the worker's DATA_DIR "
        "(safetensors, or a checkpoint of PyTorch), or an address of https, s3, gs or file. "
        "upload:NAME: weights that were uploaded to the backend.",
        examples=[PRETRAINED],
    )
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Of the file; it is refused where it is another one."
    )
    fine_tune: bool = Field(
        False, description="Train on from these weights, as training says. Without it they are used as they are."
    )
    mean: Numbers | None = Field(
        None,
        description="Of the images that the weights expect, per channel, scaled to 0-1. Left out: what the file or its "
        "publisher says, else the data set's own, with a warning.",
        examples=[[0.485, 0.456, 0.406]],
    )
    std: Numbers | None = Field(
        None, description="Standard deviation of these images; goes with mean.", examples=[[0.229, 0.224, 0.225]]
    )
    image_size: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="Side in pixels of the images that the weights expect; those of the data set are resized to it.",
        examples=[224],
    )
    interpolation: str | None = Field(
        None,
        pattern="^(bilinear|bicubic|nearest)$",
        description="How they are resized: bilinear, bicubic or nearest; bilinear where nobody knows better.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("source")
    @classmethod
    def _a_path_below_data_dir(cls, source: str, info: ValidationInfo) -> str:
        # A spec that was taken before this was checked is still shown; where it trains, the file is refused.
        if (info.context or {}).get("stored"):
            return source
        if "\0" in source:
            raise ValueError("holds a character of code 0")
        if "://" not in source and ".." in PurePosixPath(source).parts:
            raise ValueError("must be a path below the worker's DATA_DIR, without '..'")
        return source

    @field_validator("std")
    @classmethod
    def _above_zero(cls, std: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if std and min(std) <= 0:
            raise ValueError("must be above 0")
        return std

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> Weights:
        if len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std go together, one number a channel")
        if self.fine_tune and (self.image_size or self.interpolation):
            raise ValueError("image_size and interpolation are for weights used as they are, without fine_tune")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name not in _ADDED or value is not None}

    @model_validator(mode="after")
    def _a_name_has_no_checksum(self) -> Weights:
        if self.source == PRETRAINED and self.sha256:
            raise ValueError("sha256 is for a file; published weights are checked by who publishes them")
        return self


def weights_problems(model: ModelRef, weights: Weights, facts: DatasetFacts | None) -> list[Found]:
    """What keeps these weights from being this teacher's, as far as it can be known without reading them."""
    if weights.source != PRETRAINED:
        return []
    entry: ModelEntry = MODELS[model.name]
    path = ("teacher", "weights")
    if entry.pretrained_classes is None:
        text = (
            f"{model.name} has no published weights; name a file (`python -m core convert` makes one of a checkpoint)"
        )
        return [(path, text, weights.source)]
    problems: list[Found] = []
    if facts and facts.channels != 3:
        text = f"published weights are for images of 3 channels; these have {facts.channels}"
        problems.append((path, text, weights.source))
    if facts and entry.pretrained_classes and not weights.fine_tune and facts.num_classes != entry.pretrained_classes:
        text = (
            f"the published weights of {model.name} are for {entry.pretrained_classes} classes, not for "
            f"{facts.num_classes}; give them as {{source: {PRETRAINED}, fine_tune: true}}"
        )
        problems.append((path, text, weights.source))
    return problems


def size_problem(model: ModelRef, dataset: str, facts: DatasetFacts) -> str | None:
    """Why the network cannot read the data set's images, or None where it can."""
    refusal = MODELS[model.name].refusal(facts.image_size, facts.channels)
    if refusal is None:
        return None
    return f"{refusal}; {dataset} has {facts.channels} × {facts.image_size} × {facts.image_size} px"


def size_warning(model: ModelRef, facts: DatasetFacts) -> str | None:
    """Where a network made for large images would see small ones, and which one is made for them."""
    entry: ModelEntry = MODELS[model.name]
    if not entry.small_images or facts.image_size >= 64:
        return None
    return (
        f"{entry.name} is made for images of {entry.usual_image_size} px and leaves little of {facts.image_size} px; "
        f"{entry.small_images} is its form for small ones"
    )
