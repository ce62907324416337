"""The catalog: methods, models, data sets, optimisers, augmentations, metrics and example specs."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from core.protocol.base import Message


class CatalogExample(Message):
    """An example spec to start from."""

    name: str
    group: str
    title: str
    summary: str
    spec: dict[str, Any] = Field(description="The spec as its file has it; a preset that it names is not filled in.")


class Catalog(Message):
    """Everything that a spec can name, with parameters as JSON schemas."""

    methods: list[dict[str, Any]]
    models: list[dict[str, Any]]
    datasets: list[dict[str, Any]]
    optimizers: list[dict[str, Any]] = Field(default_factory=list)
    augmentations: list[dict[str, Any]] = Field(default_factory=list)
    metrics: list[dict[str, Any]]
    tasks: list[dict[str, Any]] = Field(
        default_factory=list, description="What a data set can be for, and the metric that results are judged by."
    )
    examples: list[CatalogExample] = Field(default_factory=list)
    experiment_schema: dict[str, Any] = Field(description="JSON schema of a spec.")
