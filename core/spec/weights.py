"""Weights that a teacher starts from, and whether networks and images fit each other."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from core.catalog import MODELS, DatasetFacts, ModelEntry
from core.spec.parts import ModelChoice, SpecModel

PRETRAINED = "pretrained"

Found = tuple[tuple[int | str, ...], str, Any]
"""A problem as ``core.spec.problems.refuse`` takes it: path, message, the value refused."""


class Weights(SpecModel):
    """Weights from elsewhere; a bare string is short for a source used as it is."""

    source: str = Field(
        min_length=1,
        max_length=1000,
        pattern=r"^[^\s\x00](.*\S)?$",
        description="pretrained: the published ones of that name. Else a file on the worker, absolute or under its "
        "DATA_DIR (safetensors, or a checkpoint of PyTorch), or an address of https, s3, gs or file. "
        "upload:NAME: weights that were uploaded to the backend.",
        examples=[PRETRAINED],
    )
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Of the file; it is refused where it is another one."
    )
    fine_tune: bool = Field(
        False, description="Train on from these weights, as training says. Without it they are used as they are."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _a_name_has_no_checksum(self) -> Weights:
        if self.source == PRETRAINED and self.sha256:
            raise ValueError("sha256 is for a file; published weights are checked by who publishes them")
        return self


def weights_problems(model: ModelChoice, weights: Weights, facts: DatasetFacts | None) -> list[Found]:
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


def size_problem(model: ModelChoice, dataset: str, facts: DatasetFacts) -> str | None:
    """Why the network cannot read the data set's images, or None where it can."""
    refusal = MODELS[model.name].refusal(facts.image_size, facts.channels)
    if refusal is None:
        return None
    return f"{refusal}; {dataset} has {facts.channels} × {facts.image_size} × {facts.image_size} px"


def size_warning(model: ModelChoice, facts: DatasetFacts) -> str | None:
    """Where a network made for large images would see small ones, and which one is made for them."""
    entry: ModelEntry = MODELS[model.name]
    if not entry.small_images or facts.image_size >= 64:
        return None
    return (
        f"{entry.name} is made for images of {entry.usual_image_size} px and leaves little of {facts.image_size} px; "
        f"{entry.small_images} is its form for small ones"
    )
