"""What is sent to make and change experiments beyond a single spec, and what is answered."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from core.protocol.base import Message, RequestBody
from core.protocol.public import PlannedTeacher, ProblemField
from core.specs.text_rules import VisibleLines, require_visible

MAX_EXPERIMENTS = 1000
"""In one request."""
MAX_RUNS = 10_000
"""In one request, over all its experiments."""

MAX_TAGS = 20
"""Of an experiment."""
TagText = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[^\s,\x00]+$")]
NewTag = Annotated[TagText, AfterValidator(require_visible)]


class SubmittedExperiment(Message):
    """An experiment that was made, in short."""

    id: str
    name: str
    runs: int = Field(description="How many it has, the teacher included.")


class SubmittedExperiments(Message):
    """What a bulk or a sweep has made, in the order it was asked for."""

    items: list[SubmittedExperiment]
    runs: int = Field(description="Over all experiments; a teacher that several share is counted once.")


class SweepPoint(Message):
    """An experiment that a sweep would make."""

    name: str
    runs: int
    changes: dict[str, Any] = Field(default_factory=dict, description="The fields that vary, by path.")


class SweepPreview(Message):
    """What a sweep would make, without making it."""

    items: list[SweepPoint]
    runs: int = Field(description="Over all experiments; a teacher that several share is counted once.")
    teachers: list[PlannedTeacher] = Field(
        default_factory=list, description="The first twenty, each once, in the order of the experiments."
    )
    teacher_count: int = Field(0, description="All of them.")
    new_teachers: int = Field(0, description="Those that do not exist yet and would be trained.")
    warnings: list[ProblemField] = Field(default_factory=list)


class CloneRequest(RequestBody):
    """POST /experiments/{key}/clone."""

    name: str | None = Field(None, min_length=1, max_length=100, description="Left out, the old one with a number.")
    changes: dict[str, Any] = Field(
        default_factory=dict,
        max_length=1000,
        description="By path: the new value of a field of the spec.",
        examples=[{"training.epochs": 60, "seeds": "0..4"}],
    )


class ExperimentEdit(RequestBody):
    """PATCH /experiments/{key}. What is left out stays."""

    tags: list[NewTag] | None = Field(None, max_length=MAX_TAGS, description="All of its tags from now on.")
    add_tags: list[NewTag] = Field(
        default_factory=list,
        max_length=MAX_TAGS,
        description="To those that it has, whoever changes them meanwhile.",
    )
    remove_tags: list[TagText] = Field(default_factory=list, max_length=1000, description="From those that it has.")
    notes: VisibleLines | None = Field(None, max_length=10_000)
