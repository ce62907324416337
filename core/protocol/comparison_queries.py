"""Query parameters of ``/comparisons``: written once for the routes, the client, the command line and the dashboard."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from core.protocol.comparisons import EpochChoice
from core.specs.components import Seed

Format = Literal["json", "csv", "markdown", "latex"]
LeaderboardFormat = Literal["json", "csv", "markdown", "latex", "html"]
METRIC_GROUPS = ("test", "oracle", "val", "fidelity", "calibration", "errors", "collapse", "robustness")
"""Groups of metrics in an overview: the part of a metric's name before the slash."""

_Experiments = Annotated[
    list[str],
    Field(
        min_length=1,
        max_length=200,
        description="The id or the name. Several experiments are read as one: they may differ in their seeds and in "
        "their teachers' seeds alone, unless settings is true.",
    ),
]
_Metric = Annotated[
    str | None,
    Field(
        max_length=200,
        description="The metric that is compared; by default the one by which the task of the data set is judged, "
        "such as test/top1.",
    ),
]
_Which = Annotated[
    EpochChoice, Field(description="The epoch of the values; an oracle epoch is shown and never tested.")
]
_Format = Annotated[Format, Field(alias="format", description="Format of the answer; all formats but JSON are text.")]


class _Query(BaseModel):
    model_config = ConfigDict(populate_by_name=True)


class ComparisonOptions(_Query):
    """What is compared, and how."""

    baseline: str | None = Field(
        None, max_length=60, description="Label of a method; by default the first method of the spec."
    )
    metric: _Metric = None
    which: _Which = "last"
    target_share: float = Field(
        0.95, gt=0, le=2, description="Target of convergence, as a share of the teacher's headline metric."
    )
    target: float | None = Field(
        None, gt=0, le=100, description="Target of convergence as a value of the headline metric, instead of a share."
    )
    difference: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="A difference, in the metric's unit; the answer gives the number of seeds that would show it.",
    )
    settings: bool = Field(
        False,
        description="Whether several experiments are settings that are compared with each other, such as those of a "
        "sweep. Their data must be equal, and a label is followed by the name of its experiment.",
    )


class ComparisonQuery(ComparisonOptions):
    """Query of ``GET /comparisons``."""

    experiment: _Experiments
    kind: _Format = "json"


class OverviewQuery(ComparisonQuery):
    """Query of ``GET /comparisons/overview``."""

    group: list[str] | None = Field(
        None,
        max_length=50,
        description=f"Groups of metrics, the part of a metric's name before the slash: {', '.join(METRIC_GROUPS)}.",
    )


class ClaimsQuery(ComparisonQuery):
    """Query of ``GET /comparisons/claims``."""

    paper: str | None = Field(
        None, max_length=100, description="Name of the paper; by default the first that has claims."
    )


class PredictionsQuery(_Query):
    """Query of ``GET /comparisons/predictions``."""

    experiment: _Experiments
    baseline: str | None = Field(
        None, max_length=60, description="Label of a method; by default the first method of the spec."
    )


class MethodPredictionsQuery(_Query):
    """Query of the routes below ``/comparisons/predictions``, about one method."""

    experiment: _Experiments
    label: str = Field(max_length=60, description="Label of the method.")
    against: str | None = Field(
        None, max_length=60, description="Label of the method that it is compared with; by default the teacher."
    )


class MeasuredQuery(_Query):
    """Query of ``GET /comparisons/metrics``."""

    experiment: list[str] | None = Field(None, max_length=200, description="Ids or names; their students' metrics.")
    run: list[Annotated[str, Field(max_length=16)]] | None = Field(None, max_length=500, description="Ids.")


class PublishedQuery(_Query):
    """Query of ``GET /comparisons/published/measured``."""

    tag: list[str] | None = Field(None, max_length=50, description="Tags; an experiment needs every one of them.")
    dataset: str | None = Field(None, max_length=100, description="Only numbers of this data set.")
    teacher: str | None = Field(
        None,
        max_length=100,
        description="Only numbers with this model as teacher; the backbone of a detector may follow its name.",
    )
    student: str | None = Field(None, max_length=100, description="Only numbers with this student, named alike.")


class TableQuery(_Query):
    """Query of ``GET /comparisons/table``."""

    experiment: list[str] | None = Field(
        None,
        max_length=200,
        description="Ids or names; by default all experiments that the filters select and that are not archived.",
    )
    tag: list[str] | None = Field(None, max_length=50, description="Tags; an experiment needs every one of them.")
    dataset: str | None = Field(None, max_length=100, description="Only rows of this data set.")
    teacher: str | None = Field(None, max_length=100, description="Only rows with this model as teacher.")
    student: str | None = Field(None, max_length=100, description="Only rows with this model as student.")
    task: str | None = Field(
        None,
        max_length=100,
        description="Only rows of this task; by default the task that is judged by the metric, or that of the first "
        "experiment. Experiments that are named must all be of one task.",
    )
    metric: _Metric = None
    which: _Which = "last"
    baseline: str | None = Field(
        None,
        max_length=60,
        description="Label of the column that the others are tested against; by default the method that every row "
        "begins with, or else the one that most rows have.",
    )
    test: Literal["sign_flip", "t"] = Field(
        "sign_flip",
        description="The test that decides on bold: the exact sign-flip test, or t, which assumes normal differences.",
    )
    seed: list[Seed] | None = Field(
        None,
        max_length=1000,
        description="Seeds that every cell should have; by default those that a row's specs name.",
    )
    kind: _Format = "json"


class LeaderboardQuery(_Query):
    """Query of ``GET /leaderboard``."""

    experiment: list[str] | None = Field(
        None,
        max_length=200,
        description="Ids or names; by default all experiments that the filters select and that are not archived.",
    )
    tag: list[str] | None = Field(None, max_length=50, description="Tags; an experiment needs every one of them.")
    sweep: str | None = Field(None, max_length=100, description="Only experiments of this sweep.")
    task: str | None = Field(
        None,
        max_length=100,
        description="Only settings of this task; by default that of the first experiment. Experiments that are named "
        "must all be of one task.",
    )
    baseline: str | None = Field(
        None,
        max_length=200,
        description="The row, or the label, that the others are compared with; by default the method of most settings.",
    )
    without: list[Annotated[str, Field(max_length=200)]] | None = Field(
        None, max_length=200, description="Rows, or labels, that are left out, so that more settings count."
    )
    kind: LeaderboardFormat = Field(
        "json", alias="format", description="Format of the answer; html is one page that needs no other file."
    )
