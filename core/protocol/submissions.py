"""Requests that create or edit several experiments, and their answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from core.protocol.base import Message, ProblemField, RequestBody
from core.protocol.people import ProjectName
from core.protocol.previews import PlannedTeacher
from core.specs.text_rules import VisibleLines, require_visible

MAX_EXPERIMENTS = 1000
"""Experiments in one request."""
MAX_RUNS = 10_000
"""Runs in one request, over all its experiments."""

MAX_TAGS = 20
"""Tags of one experiment."""
TagText = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[^\s,\x00]+$")]
NewTag = Annotated[TagText, AfterValidator(require_visible)]


class SubmittedExperiment(Message):
    """An experiment that was created."""

    id: str
    name: str
    runs: int = Field(description="Number of its runs, including the teacher.")


class SubmittedExperiments(Message):
    """The experiments that a bulk submission or a sweep created, in the order of the request."""

    items: list[SubmittedExperiment]
    runs: int = Field(description="Number of runs over all experiments. A teacher that several share is counted once.")


class SweepPoint(Message):
    """An experiment that a sweep would create."""

    name: str
    runs: int
    changes: dict[str, Any] = Field(default_factory=dict, description="Values of the fields that vary, by path.")


class SweepPreview(Message):
    """What a sweep would create. Nothing is created by the preview."""

    items: list[SweepPoint]
    runs: int = Field(description="Number of runs over all experiments. A teacher that several share is counted once.")
    teachers: list[PlannedTeacher] = Field(
        default_factory=list, description="The first twenty teachers, each once, in the order of the experiments."
    )
    teacher_count: int = Field(0, description="Number of all teachers.")
    new_teachers: int = Field(0, description="Number of teachers that do not exist and would be trained.")
    warnings: list[ProblemField] = Field(default_factory=list)


class CloneRequest(RequestBody):
    """POST /experiments/{key}/clone."""

    name: str | None = Field(
        None, min_length=1, max_length=100, description="Name of the clone; if left out, the old name with a number."
    )
    changes: dict[str, Any] = Field(
        default_factory=dict,
        max_length=1000,
        description="New values of fields of the spec, by path.",
        examples=[{"training.epochs": 60, "seeds": "0..4"}],
    )


class ExperimentEdit(RequestBody):
    """PATCH /experiments/{key}. Fields that are left out stay as they are."""

    tags: list[NewTag] | None = Field(None, max_length=MAX_TAGS, description="Replaces all tags.")
    add_tags: list[NewTag] = Field(
        default_factory=list,
        max_length=MAX_TAGS,
        description="Tags to add to the present ones, even if somebody else changes these at the same time.",
    )
    remove_tags: list[TagText] = Field(
        default_factory=list, max_length=1000, description="Tags to remove from the present ones."
    )
    notes: VisibleLines | None = Field(None, max_length=10_000)
    parent: str | None = Field(
        None, max_length=100, description="Id or name of the experiment that it was copied from; empty for none."
    )
    project: ProjectName | None = Field(None, description="Name of the project that it is moved to.")
