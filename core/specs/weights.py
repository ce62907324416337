"""Existing weights of a teacher, and checks that networks and images fit each other."""

from __future__ import annotations

import re
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

from core.catalog import DATASETS, MODELS, DatasetFacts, ModelEntry
from core.specs.components import ModelRef, SpecModel

PRETRAINED = "pretrained"

HUB_ADDRESS = re.compile(
    r"hf://(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w.-]+))?(/(?P<file>[\w.-]+(/[\w.-]+)*))?",
    re.ASCII,
)
"""Address of a file of the Hugging Face Hub. A revision is a branch, a tag without slashes, or a commit."""

FieldProblem = tuple[tuple[int | str, ...], str, Any]
"""A problem for ``core.specs.problems.validation_error``: path, message and the refused value."""


Numbers = Annotated[tuple[float, ...], Field(min_length=1, max_length=16)]

_ADDED = ("mean", "std", "image_size", "interpolation")
"""Fields that were added later. They are written out only if they are set, so that fingerprints stay the same."""


class Weights(SpecModel):
    """Existing weights. A bare string is short for a source that is used as it is."""

    source: str = Field(
        min_length=1,
        max_length=1000,
        pattern=r"^[^\s\x00](.*\S)?$",
        description="pretrained: the published weights of the model. Otherwise a file below the worker's DATA_DIR "
        "(safetensors or a PyTorch checkpoint), or a URL of https, s3, gs or file, or hf://OWNER/NAME for the "
        "Hugging Face Hub. "
        "upload:NAME: weights that were uploaded to the backend.",
        examples=[PRETRAINED],
    )
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file. A file with another hash is refused."
    )
    fine_tune: bool = Field(
        False, description="Continue training from these weights. Otherwise they are used as they are."
    )
    mean: Numbers | None = Field(
        None,
        description="Mean per channel of the images that the weights expect, scaled to 0-1. By default the "
        "value that the "
        "file or its publisher states, otherwise that of the data set, with a warning.",
        examples=[[0.485, 0.456, 0.406]],
    )
    std: Numbers | None = Field(
        None,
        description="Standard deviation per channel of the images that the weights expect; given together with mean.",
        examples=[[0.229, 0.224, 0.225]],
    )
    image_size: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="Side in pixels of the images that the weights expect. Images of the data set are resized to it.",
        examples=[224],
    )
    interpolation: str | None = Field(
        None,
        pattern="^(bilinear|bicubic|nearest)$",
        description="How images are resized: bilinear, bicubic or nearest. By default as the publisher states, "
        "otherwise bilinear.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("source")
    @classmethod
    def _path_below_data_dir(cls, source: str, info: ValidationInfo) -> str:
        # A stored spec may be older than this check. It is still shown; its training refuses the file.
        if (info.context or {}).get("stored"):
            return source
        if "\0" in source:
            raise ValueError("contains a character of code 0")
        if source.startswith("hf://") and (not HUB_ADDRESS.fullmatch(source) or ".." in source.split("/")):
            raise ValueError("must have the form hf://OWNER/NAME, hf://OWNER/NAME@REVISION or hf://OWNER/NAME/FILE")
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
            raise ValueError("mean and std must be given together, one number per channel each")
        if self.fine_tune and (self.image_size or self.interpolation):
            raise ValueError(
                "image_size and interpolation are only for weights that are used as they are, without fine_tune"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unset_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name not in _ADDED or value is not None}

    @model_validator(mode="after")
    def _published_weights_have_no_checksum(self) -> Weights:
        if self.source == PRETRAINED and self.sha256:
            raise ValueError("sha256 is only for a file; published weights are checked by their publisher")
        return self


def weights_problems(
    model: ModelRef, weights: Weights, facts: DatasetFacts | None, teacher: tuple[int | str, ...]
) -> list[FieldProblem]:
    """Return why a teacher cannot have these weights, as far as it can be known without reading them.

    Args:
        model: The teacher's network.
        weights: The weights.
        facts: What is known of the data set; None if only the worker can know it.
        teacher: The teacher's path in the spec.
    """
    if weights.source != PRETRAINED:
        return []
    entry: ModelEntry = MODELS[model.name]
    path = (*teacher, "weights")
    if entry.pretrained_classes is None:
        text = (
            f"{model.name} has no published weights; name a file (`python -m core convert` makes one from a checkpoint)"
        )
        return [(path, text, weights.source)]
    problems: list[FieldProblem] = []
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


def network_problem(model: ModelRef, dataset: str, facts: DatasetFacts | None) -> str | None:
    """Return why a network cannot be trained on a data set; None if it can.

    Args:
        model: The network.
        dataset: The name of the data set.
        facts: What is known of it; None if only the worker can know it.
    """
    task, entry = DATASETS[dataset].task, MODELS[model.name]
    # A plug-in's task without networks of its own builds what it is given.
    if task not in entry.tasks and (fitting := [other.name for other in MODELS if task in other.tasks]):
        text = f"{model.name} is a network for {' and '.join(entry.tasks)}, and {dataset} is a data set of {task}"
        return f"{text}; choose one such as {', '.join(fitting[:3])}"
    if facts is None:
        return None
    refusal = MODELS[model.name].refusal(facts.image_size, facts.channels)
    if refusal is None:
        return None
    return f"{refusal}; {dataset} has {facts.channels} × {facts.image_size} × {facts.image_size} px"


def size_warning(model: ModelRef, facts: DatasetFacts) -> str | None:
    """Return a warning if a network for large images would read small ones, with the network for small images."""
    entry: ModelEntry = MODELS[model.name]
    if not entry.small_images or facts.image_size >= 64:
        return None
    return (
        f"{entry.name} is designed for images of {entry.usual_image_size} px and reduces {facts.image_size} px to very "
        f"few; {entry.small_images} is its variant for small images"
    )
