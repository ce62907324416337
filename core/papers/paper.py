"""What the platform takes from one published work: protocols, published results, and claims that runs can test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TEACHER = "teacher"
"""The name that the teacher's own value has among the values of methods."""
PublishedEpoch = Literal["last", "oracle"]
"""Epoch of a published value: the last one, or the one with the best test result."""


@dataclass(frozen=True)
class Preset:
    """A published training protocol.

    Attributes:
        summary: one sentence for people.
        fields: fields of an experiment's spec that the protocol sets.
        aliases: former names of the preset, which specs may go on using.
        of_networks: maps the names of teacher and student in the catalog to more fields, which come before ``fields``.
    """

    summary: str
    fields: dict[str, Any]
    aliases: tuple[str, ...] = ()
    of_networks: Callable[[str, str], dict[str, Any]] | None = None


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table, as it was printed.

    A result at the best test epoch was chosen by the test images, and lies above the result of the last epoch.

    Attributes:
        source: the table, as people read it.
        dataset: name in the catalog.
        teacher: name in the catalog.
        student: name in the catalog.
        values: test accuracy in %, by the name of the method; ``teacher`` is the teacher's own.
        params: parameters of the data set that the row holds for.
        repeats: number of runs that each method's value is the mean of, if the source gives it.
        epoch: epoch of each method's value, if the source gives it.
    """

    source: str
    dataset: str
    teacher: str
    student: str
    values: Mapping[str, float]
    params: Mapping[str, Any] = field(default_factory=dict)
    repeats: Mapping[str, int] = field(default_factory=dict)
    epoch: Mapping[str, PublishedEpoch] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedNumber:
    """One published value of one method and one pair of networks.

    Attributes:
        source: The table, as people read it.
        dataset: Name in the catalog.
        teacher: Name in the catalog.
        student: Name in the catalog.
        printed: The method's name as it was printed.
        value: Value of the metric, in its unit.
        method: The method's name in the catalog; "teacher" for the teacher's own value; empty if it has none.
        params: Parameters of the method that the number holds for.
        combined: Names of the methods that it was combined with.
        dataset_params: Parameters of the data set that the number holds for.
        epoch: Epoch of the value, if the authors say it.
        runs: Number of runs that it is the mean of, if the authors say it.
        reprinted: Later sources that print the same value for the same method and networks.
        metric: Name of the metric in the catalog.
        teacher_params: Parameters of the teacher's network that the number holds for.
        student_params: Those of the student's network.
        confirmed: Whether the number was compared with its source.
    """

    source: str
    dataset: str
    teacher: str
    student: str
    printed: str
    value: float
    method: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    combined: tuple[str, ...] = ()
    dataset_params: Mapping[str, Any] = field(default_factory=dict)
    epoch: PublishedEpoch | None = None
    runs: int | None = None
    reprinted: tuple[str, ...] = ()
    metric: str = "test/top1"
    teacher_params: Mapping[str, Any] = field(default_factory=dict)
    student_params: Mapping[str, Any] = field(default_factory=dict)
    confirmed: bool = True

    def is_of(self, choice: Mapping[str, Any]) -> bool:
        """Return whether it is a number of a method of a stored spec. A parameter that the method lacks is off.

        Published detectors are compared on the student's boxes, all of which count alike, so ``regions`` is none.
        """
        with_others = ({"name": item} if isinstance(item, str) else item for item in choice.get("with") or ())
        members: list[Mapping[str, Any]] = [choice, *with_others]
        params = next((item.get("params") or {} for item in members if item["name"] == self.method), {})
        return (
            bool(self.method)
            and sorted(item["name"] for item in members) == sorted((self.method, *self.combined))
            and not choice.get("regions")
            and all(params.get(name, False) == value for name, value in self.params.items())
        )


@dataclass(frozen=True)
class LossSetting:
    """What the terms of a loss depend on besides the logits.

    Attributes:
        classes: number of classes.
        temperature: the distillation temperature.
    """

    classes: int
    temperature: float


@dataclass(frozen=True)
class LossFinding:
    """A claim about the loss itself, judged in one case.

    Attributes:
        number: number of the claim.
        text: the claim.
        case: the case that is judged.
        holds: whether the claim holds in this case.
        reason: the numbers, in a sentence.
        numbers: the numbers by name.
    """

    number: int
    text: str
    case: str
    holds: bool
    reason: str
    numbers: dict[str, float]


@dataclass(frozen=True)
class RunClaim:
    """A claim that compares the paper's method with its baseline, and that runs can test.

    Attributes:
        number: number of the claim in the paper's list.
        text: the claim, in a sentence.
        kind: ``lower``: the method's ``metric`` is lower than the baseline's; ``earlier``: the method reaches the
            target value of ``metric`` in fewer epochs; ``no_gain``: the method's ``metric`` is not higher.
        title: short name of the metric within a sentence.
        metric: name of the metric, of its last epoch; empty for the headline metric of the experiment's task.
        students: parts of the names of the students that the claim is about; empty for all.
        students_title: these students in words.
    """

    number: int
    text: str
    kind: Literal["lower", "earlier", "no_gain"]
    title: str
    metric: str = ""
    students: tuple[str, ...] = ()
    students_title: str = ""


@dataclass(frozen=True)
class Paper:
    """A published work.

    Attributes:
        name: its name in presets and in the API.
        title: title and year.
        presets: protocols by name.
        published: rows of its tables.
        method: name of the method that its claims are about.
        method_title: that method in words.
        baseline: name of the method that its claims compare with.
        baseline_title: that method in words.
        run_claims: claims that runs can test.
        loss_claims: judges the claims about the loss itself, without any run.
        notes: remarks on the claims that readers of a report need.
        is_control: returns whether the method with these parameters is a control, about which the paper claims nothing.
    """

    name: str
    title: str
    presets: Mapping[str, Preset] = field(default_factory=dict)
    published: tuple[PublishedRow, ...] = ()
    method: str = ""
    method_title: str = ""
    baseline: str = ""
    baseline_title: str = ""
    run_claims: tuple[RunClaim, ...] = ()
    loss_claims: Callable[[LossSetting], list[LossFinding]] | None = None
    notes: Callable[[LossSetting], list[str]] | None = None
    is_control: Callable[[Mapping[str, Any]], bool] = lambda _: False
