"""Experiments: a comparison of methods, with all its runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from common.report_bounds import Finite
from core.protocol.base import Message, Page, ProblemField
from core.protocol.people import DEFAULT_PROJECT
from core.protocol.runs import RunSummary


class StateCounts(Message):
    """The number of runs in each state."""

    waiting: int = 0
    queued: int = 0
    paused: int = 0
    running: int = 0
    cancelling: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """The number of all runs."""
        return sum(self.model_dump().values())


class ExperimentSummary(Message):
    """An experiment as lists show it."""

    id: str
    name: str
    state: Literal["active", "finished", "failed", "cancelled"] = Field(
        description="active until every run has ended and no seed is to be added; then failed if any run failed, else "
        "cancelled if any run was cancelled, else finished."
    )
    dataset: str
    teacher_model: str | None = Field(
        description="Name of the network, followed by the backbone of a detector; with + between several; null without "
        "a teacher."
    )
    student_model: str = Field(description="Name of the student's network, followed by the backbone of a detector.")
    methods: list[str] = Field(description="Labels in the order of the spec; the first is the baseline.")
    tags: list[str] = Field(default_factory=list)
    counts: StateCounts
    progress: Finite = Field(description="Share of all training steps that are done, 0 to 1.")
    notes: str = ""
    sweep: str = Field("", description="Name of the sweep that created the experiment; empty if none did.")
    parent: str = Field(
        "", description="Id of the experiment that it was copied from, which may be deleted; empty if it is no copy."
    )
    submitted_by: str = Field("", description="Name of the person who submitted it, or of a service's token.")
    project: str = Field(DEFAULT_PROJECT, description="Name of its project.")
    archived_at: datetime | None = Field(
        None, description="When the experiment was archived. Archived experiments are kept, but not listed by default."
    )
    created_at: datetime
    ended_at: datetime | None = None


class ChosenSettings(Message):
    """The settings that were chosen for a method."""

    label: str
    trial: int = Field(description="Number of the trial that was best, counted from 1: the settings of the spec.")
    trials: int = Field(description="Number of its trials.")
    settings: dict[str, Any] = Field(description="What was searched, by the path within the method.")
    score: Finite = Field(description="Mean of the best trial's seeds on the images held out.")
    score_of_spec: Finite | None = Field(None, description="That of the settings of the spec; null if it failed.")


class SettingsChoice(Message):
    """The choice of settings of an experiment, made once from its trials, before the first test evaluation."""

    error: str = Field("", description="Why no settings could be chosen; else empty.")
    metric: str = Field("", description="Metric by which settings were compared.")
    images: int = Field(0, description="Number of images held out; 0 if it is not known.")
    seeds: int = Field(0, description="Number of seeds of each trial.")
    methods: list[ChosenSettings] = Field(default_factory=list)
    hash: str = Field("", description="SHA-256 of the choice, by which tables name it.")
    sentences: list[str] = Field(default_factory=list, description="The choice in words.")


class Experiment(ExperimentSummary):
    """An experiment with its spec and its runs."""

    spec: dict[str, Any] = Field(description="The complete ExperimentSpec, as plain data.")
    runs: list[RunSummary]
    warnings: list[ProblemField] = Field(default_factory=list)
    choice: SettingsChoice | None = Field(
        None, description="How the settings of its methods were chosen; null if they were given, or are not chosen yet."
    )

    @property
    def results(self) -> list[RunSummary]:
        """The runs without those from which settings are chosen, which are no results of their methods."""
        return [run for run in self.runs if not run.trial]


class TimeLeft(Message):
    """An estimate of the time until every run of an experiment has ended."""

    seconds: Finite | None = Field(
        description="Seconds until the last run ends, if no other experiment takes the slots; null without an estimate."
    )
    teacher_seconds: Finite | None = Field(
        None, description="Seconds of these until the last teacher ends; null if no teacher trains, waits or follows."
    )
    parallel: int = Field(description="Number of runs that are assumed to train at once.")
    runs: int = Field(description="Number of runs that have not ended, including teachers.")
    paused: int = Field(
        0, description="Number of these that are paused; the estimate assumes that they are resumed now."
    )
    unknown: int = Field(
        0,
        description="Number of these and of the following ones without an estimate, because nothing like them has been "
        "trained; not counted.",
    )
    following: int = Field(
        0, description="Number of further runs, which will be added when the settings of the methods have been chosen."
    )


class ExperimentPage(Page):
    items: list[ExperimentSummary]
