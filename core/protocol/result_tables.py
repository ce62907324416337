"""Shapes of result tables, and of published numbers beside measured ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.formatting import value_text
from core.protocol.base import Message
from core.protocol.comparisons import Better, EpochChoice, Interval, MissingPair
from core.protocol.costs import MethodCost


class PublishedValue(Message):
    """A number somebody else published for a row of the table."""

    source: str
    method: str
    value: float
    repeats: int | None = Field(
        None,
        description="Number of runs that the value is the mean of; null if the source does not say.",
    )
    epoch: EpochChoice | None = Field(None, description="The epoch of the value; null if the source does not say.")
    confirmed: bool = Field(True, description="False if nobody has compared the number with its source.")

    @property
    def text(self) -> str:
        """The number as cells show it: "71.97", or "35.05 unconfirmed"."""
        return value_text(self.value, decimals=2) + ("" if self.confirmed else " unconfirmed")


class TableCell(Message):
    """One method in one row."""

    label: str
    method: str = Field("", description="Name of the method in the catalog.")
    n: int
    mean: float | None = None
    sd: float | None = None
    interval: Interval | None = None
    pairs: int = 0
    units: int = Field(0, description="Number of units of the test: pairs, or teachers if teachers vary.")
    mean_difference: float | None = None
    difference_interval: Interval | None = None
    p: float | None = Field(None, description="p of this comparison alone.")
    p_holm: float | None = Field(None, description="p after Holm's correction over the whole table.")
    verdict: Literal["better", "worse", "unclear"] | None = Field(
        None,
        description="Verdict against the row's baseline, after Holm's correction over the table; null for the "
        "baseline itself.",
    )
    run_ids: list[str] = Field(default_factory=list)
    missing: list[MissingPair] = Field(
        default_factory=list,
        description="Seeds of the row for which the method has no value.",
    )
    published: list[PublishedValue] = Field(default_factory=list)
    cost: MethodCost | None = Field(None, description="Time, GPU-hours and energy of a run; null if none succeeded.")


class TableRow(Message):
    """A data set, a teacher and a student, trained in one way."""

    title: str = Field(description="dataset teacher→student, with the backbones of detectors.")
    images: str = Field("", description="The data of the row, if the data of its setting changed between runs.")
    dataset: str
    teacher: str
    student: str
    teacher_top1: float | None = None
    published: list[PublishedValue] = Field(default_factory=list, description="Published values of the teacher.")
    condition: str = ""
    experiments: list[str]
    seeds: list[int]
    teacher_seeds: list[int]
    cells: list[TableCell]
    commands: list[str] = Field(default_factory=list, description="Commands that would queue the missing seeds.")


class ResultTable(Message):
    """The paper's table: a row a setting, a column a method."""

    metric: str
    title: str
    unit: str
    better: Better | None
    task: str = Field("", description="Name of the task of all rows; results of different tasks are not compared.")
    tasks: list[str] = Field(default_factory=list, description="Tasks of all experiments that the filters select.")
    epoch: EpochChoice
    test: Literal["sign_flip", "t"]
    baseline: str
    methods: list[str]
    rows: list[TableRow]
    tests: int = Field(description="Number of comparisons that Holm's correction covers.")
    notes: list[str]


class PublishedRow(Message):
    """One row of somebody else's table."""

    source: str
    dataset: str
    teacher: str
    student: str
    values: list[PublishedValue] = Field(
        description='Published values by method; "teacher" has the value of the teacher itself.',
    )
    method: str = Field(
        "", description="The method that the source proposes; empty if the source has no claims that runs can test."
    )
    baseline: str = Field("", description="The method with which the source compares it.")


class PublishedTable(Message):
    """What others have published of such settings, as printed."""

    rows: list[PublishedRow]


class MeasuredValue(Message):
    """Mean over the runs of a method that succeeded; if teachers vary, of the means per teacher."""

    mean: float
    sd: float | None = Field(None, description="Sample standard deviation; null below n = 2.")
    n: int


class MeasuredResult(Message):
    """What was measured here for a published number: the same data set, networks and method, with any training."""

    label: str
    experiments: list[str]
    epochs: int = Field(description="Epochs of the training; 0 for a teacher whose weights are used as they are.")
    last: MeasuredValue | None = Field(None, description="Result after the last epoch.")
    oracle: MeasuredValue | None = Field(
        None,
        description="Result at the epoch with the best test result, to be compared with published values of this kind.",
    )
    run_ids: list[str]


class PublishedNumber(Message):
    """A published number with the results measured here."""

    source: str
    reprinted: list[str] = Field(default_factory=list, description="Later sources that print the same number.")
    dataset: str
    teacher: str = Field(
        description="Name of the teacher's network in the catalog, followed by the backbone of a detector.",
    )
    student: str = Field(description="Name of the student's network in the same form.")
    metric: str = Field("test/top1", description="Name of the metric in the catalog.")
    printed: str = Field(description="The method as it was printed.")
    method: str = Field(
        "",
        description='Name of the method in the catalog; "teacher" for the teacher\'s own value; empty if it has none.',
    )
    value: float
    repeats: int | None = Field(
        None,
        description="Number of runs that the value is the mean of; null if the source does not say.",
    )
    epoch: EpochChoice | None = Field(None, description="The epoch of the value; null if the source does not say.")
    confirmed: bool = Field(True, description="False if nobody has compared the number with its source.")
    measured: list[MeasuredResult] = Field(default_factory=list)


class PublishedSetting(Message):
    """A data set, a teacher and a student with published numbers."""

    dataset: str
    teacher: str
    student: str
    experiments: int = Field(description="Number of experiments here with these networks.")


class BesidePublished(Message):
    """Published numbers beside the results measured here."""

    items: list[PublishedNumber]
    settings: list[PublishedSetting]
    sources: dict[str, str] = Field(
        default_factory=dict, description="By source, what its authors say about the epoch and the runs, and where."
    )
