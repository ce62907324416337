"""Shapes of the tools' answers. All lists and texts are bounded; ``omitted`` counts what was left out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from client.referee import Decision


class Answer(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class CatalogLine(Answer):
    """An entry of the catalog in a list."""

    name: str
    summary: str = ""


class CatalogAnswer(Answer):
    """Names of one part of the catalog, or one entry."""

    part: str
    entries: list[CatalogLine] = Field(default_factory=list)
    entry: dict[str, Any] | None = Field(None, description="The complete entry, if a name was given.")
    omitted: int = 0


class PreviewAnswer(Answer):
    """What submitting a spec would create."""

    new_runs: int = Field(description="Number of runs that would be trained.")
    shared_runs: int = Field(description="Number of existing runs that would be used.")
    methods: list[str] = Field(description="Labels of the methods; the first is the baseline.")
    seeds: list[int]
    teachers: list[str] = Field(description="Which teacher is used or trained and why, one sentence for each.")
    estimate: list[str] = Field(description="Estimated training time by device.")
    warnings: list[str]


class SubmitAnswer(Answer):
    """The experiment that was created."""

    id: str
    name: str
    runs: int
    warnings: list[str]


class RunLine(Answer):
    """A run in a list."""

    id: str
    label: str
    seed: int
    state: str
    epoch: str = Field("", description="Completed epochs and all epochs, such as 12/40.")
    value: float | None = Field(None, description="The newest value of the metric by which the task is judged.")
    reason: str = Field("", description="Why the run failed or waits.")


class ExperimentLine(Answer):
    """An experiment in a list."""

    id: str
    name: str
    state: str
    progress: float = Field(description="Share of all training steps that are done, 0 to 1.")
    methods: list[str]


class StatusAnswer(Answer):
    """The state of an experiment, of a run, or of the whole lab."""

    kind: Literal["experiment", "run", "lab"]
    id: str = ""
    name: str = ""
    state: str = ""
    ended: bool = Field(False, description="Whether all runs have ended.")
    progress: float = Field(0.0, description="Share of all training steps that are done, 0 to 1.")
    counts: dict[str, int] = Field(default_factory=dict, description="Number of runs by state.")
    metric: str = Field("", description="Name of the metric of the runs' values.")
    runs: list[RunLine] = Field(
        default_factory=list,
        description="The runs; of those that have ended, the failed ones come first.",
    )
    experiments: list[ExperimentLine] = Field(default_factory=list, description="For the lab: the newest experiments.")
    workers_online: int | None = Field(None, description="For the lab: number of workers that are online.")
    omitted: int = 0


class LogsAnswer(Answer):
    """The last log lines of a run."""

    run_id: str
    state: str
    reason: str = ""
    lines: list[str]


class MethodLine(Answer):
    """One method of a comparison."""

    label: str
    n: int = Field(description="Number of runs with a value.")
    mean: float | None = None
    sd: float | None = None
    missing_seeds: list[int] = Field(default_factory=list)


class PairLine(Answer):
    """A method against the baseline over paired seeds: method minus baseline."""

    label: str
    baseline: str
    n: int = Field(description="Number of pairs.")
    difference: float | None = None
    low: float | None = Field(
        None,
        description="Lower end of the 95 % t interval of this comparison alone, or of the interval over all looks if "
        "seeds were added until the comparison is decided.",
    )
    high: float | None = None
    p: float | None = Field(
        None,
        description="Two-sided p of the sign-flip test, after Holm's correction over this report.",
    )
    decision: Decision = Field(description='Only "keep" permits replacing the baseline by this method.')
    referee: str = Field(description="What the seeds support, in plain words. Repeat it when you report the result.")


class CompareAnswer(Answer):
    """Methods compared over paired seeds."""

    experiments: list[str]
    metric: str
    unit: str
    better: str | None = Field(description="higher or lower; null if neither side is better.")
    epoch: str
    complete: bool = Field(description="Whether every run has ended.")
    condition: str = Field(description="The condition under which the result holds.")
    methods: list[MethodLine]
    pairs: list[PairLine]
    notes: list[str]
    omitted: int = 0


class ClaimLine(Answer):
    """A claim of a paper and its verdict."""

    number: int
    claim: str
    case: str = ""
    label: str = ""
    baseline: str = ""
    verdict: str
    referee: str = Field(description="The reason with its numbers.")
    n: int = 0
    p: float | None = Field(None, description="p after Holm's correction over the tests of this report.")


class ClaimsAnswer(Answer):
    """Verdicts on the claims of a paper."""

    paper: str
    experiments: list[str]
    condition: str
    claims: list[ClaimLine]
    notes: list[str]
    omitted: int = 0


class CellLine(Answer):
    """One method in one row of a table."""

    label: str
    n: int
    mean: float | None = None
    sd: float | None = None
    p: float | None = Field(None, description="p after Holm's correction over the whole table.")
    verdict: str | None = Field(None, description="Verdict against the row's baseline; null for the baseline itself.")


class RowLine(Answer):
    """A data set with a teacher and a student."""

    title: str
    seeds: list[int]
    cells: list[CellLine]
    omitted: int = 0


class TableAnswer(Answer):
    """A table over many experiments."""

    metric: str
    unit: str
    baseline: str
    referee: str = Field(description="What the table supports, in plain words.")
    rows: list[RowLine]
    notes: list[str]
    omitted: int = 0


class CancelAnswer(Answer):
    """The experiment or run that was cancelled."""

    kind: Literal["experiment", "run"]
    id: str
    state: str
    counts: dict[str, int] = Field(default_factory=dict, description="Number of runs by state.")
