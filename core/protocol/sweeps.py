"""Sweeps: the experiments that one request created, with the fields in which they differ and their results."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from core.protocol.base import Message
from core.protocol.comparisons import Better
from core.protocol.experiments import StateCounts


class SweepSummary(Message):
    """A sweep as the list shows it."""

    name: str
    experiments: int = Field(description="Number of its experiments.")
    created_at: datetime = Field(description="When its first experiment was submitted.")


class SweepList(Message):
    items: list[SweepSummary] = Field(description="The newest first.")


class SweepField(Message):
    """A field of the spec that varies."""

    path: str = Field(description="Path of the field, such as training.optimizer.lr; of a varied method methods.1.")
    values: list[Any] = Field(description="Its values, each once, in the order of the experiments.")


class SettingResult(Message):
    """The result of one method in one experiment of a sweep."""

    label: str
    planned: int = Field(description="Number of its runs.")
    n: int = Field(description="Number of its runs with a value.")
    mean: float | None = None
    sd: float | None = Field(None, description="Sample standard deviation over the seeds; null below n = 2.")
    values: dict[int, float] = Field(default_factory=dict, description="Values by seed.")


class SweepSetting(Message):
    """One experiment of a sweep."""

    experiment_id: str
    name: str
    state: Literal["active", "finished", "failed", "cancelled"]
    archived: bool = False
    counts: StateCounts
    values: dict[str, Any] = Field(
        description="Value of each field that varies, by path. A field is missing if this experiment's spec lacks it."
    )
    results: list[SettingResult] = Field(description="Results in the order of the spec's methods.")


class Sweep(Message):
    """A sweep with its results."""

    name: str
    dataset: str = Field(description="Data set of its first experiment.")
    metric: str = Field(description="Name of the metric by which its runs are judged.")
    title: str
    unit: str
    better: Better | None
    fields: list[SweepField]
    settings: list[SweepSetting] = Field(description="Its experiments in the order of their creation.")
    total: int = Field(description="Number of its experiments; settings has the first thousand.")
    notes: list[str] = Field(default_factory=list, description="What must be known to interpret the results.")
