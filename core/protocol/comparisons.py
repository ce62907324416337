"""Shapes of ``/comparisons``. Differences are method minus baseline, in the metric's unit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.formatting import value_text
from core.protocol.base import TERMINAL, Message, RunState
from core.protocol.costs import MethodCost
from core.protocol.sequential import Sequential

EpochChoice = Literal["last", "best_val", "oracle"]
"""The epoch whose value is compared.

last: the last epoch. best_val: the epoch with the best validation result. oracle: the epoch with the best *test*
result. Results are of the metric by which the task is judged. The test images choose an oracle, so it is shown beside
published numbers of this kind, but never tested.
"""
EPOCH_CHOICES: dict[EpochChoice, str] = {
    "last": "after the last epoch",
    "best_val": "at the epoch with the best validation result",
    "oracle": "at the epoch with the best test result (an oracle: the test images chose it, so nothing is tested)",
}
Better = Literal["higher", "lower"]
Unit = Literal["seed", "teacher"]
Timing = Literal["whole", "student", "unlike"]
TIMING_TEXT: dict[Timing, str] = {"whole": "", "student": ", without the teacher", "unlike": ", not comparable"}
"""Suffix of the name of a time; see ``Comparison.timing``."""
ReportedVerdict = Literal["better", "worse", "higher", "lower", "unclear"]
"""Verdict on a method against the baseline; "higher" and "lower" if neither is better."""


class Interval(Message):
    """A 95 % interval by Student's t; by looks after each seed, at the level of Sequential.alpha."""

    low: float
    high: float


class RunValue(Message):
    """The value of one run in a comparison."""

    run_id: str
    experiment: str = Field(description="Name of the experiment that the run belongs to.")
    seed: int
    teacher_seed: int | None = None
    state: RunState
    value: float | None = None
    epoch: float | None = Field(None, description="Epoch of the value.")
    reason: str = Field("", description="Why the run has no value; empty if it has one.")


class RunConvergence(Message):
    """When one run reached the target; the fields are null if it did not."""

    run_id: str
    seed: int
    teacher_seed: int | None = None
    target: float
    epochs: float | None = None
    seconds: float | None = Field(None, description="Seconds of training, including evaluation.")
    gpu_seconds: float | None = Field(None, description="Seconds multiplied by the number of GPUs; null on a CPU.")
    teacher_seconds: float | None = Field(
        None, description="Part of the seconds that was spent on the teacher's logits; null if it was not recorded."
    )
    teacher_reused: float | None = Field(
        None, description="Share of the teacher's logits that was read from disk instead of computed, %."
    )
    student_seconds: float | None = Field(
        None, description="Seconds without the teacher's part; null if whole times are compared. See Comparison.timing."
    )
    student_gpu_seconds: float | None = None
    area: float | None = Field(None, description="Mean of the headline metric over the epochs, if the run succeeded.")


class UncountedRun(Message):
    """A run that has not succeeded, and so is not or only partly used for convergence."""

    run_id: str
    seed: int
    teacher_seed: int | None = None
    state: RunState
    reason: str = ""
    counted: bool = Field(
        description="True if the run failed after its first measurement; it counts as never reaching the target."
    )


class Convergence(Message):
    """Epochs to a target, which is reached at the first of two consecutive epochs at or above it."""

    target: float = Field(description="Target of the headline metric; if teachers vary, the mean of their targets.")
    reached: int = Field(description="Number of runs that reached the target.")
    of: int = Field(description="Number of runs that succeeded, or failed after a first measurement.")
    median_epochs: float | None = Field(
        description="Median over all runs; runs that did not reach the target count as later. null: more than "
        "max_epochs."
    )
    max_epochs: int
    median_seconds: float | None = Field(None, description="Median of the times that Comparison.timing names.")
    median_gpu_seconds: float | None = None
    area: float | None = Field(None, description="Mean over the runs of their ``area``.")
    area_sd: float | None = None
    runs: list[RunConvergence] = Field(default_factory=list)
    not_succeeded: list[UncountedRun] = Field(default_factory=list, description="Every run that has not succeeded.")


class MethodResult(Message):
    """One method over its seeds.

    If teachers vary, mean, standard deviation and interval are those of the means per teacher, because the runs of one
    teacher are not independent.
    """

    label: str
    method: str
    n: int = Field(description="Number of runs with a value.")
    units: int = Field(
        0, description="Number of values that the standard deviation is computed from: runs, or teachers if these vary."
    )
    mean: float | None = None
    sd: float | None = Field(None, description="Sample standard deviation; null below n = 2.")
    se: float | None = None
    interval: Interval | None = None
    values: dict[int, float] = Field(
        default_factory=dict, description="Values by seed; empty if teachers vary, see ``runs``."
    )
    missing: list[int] = Field(default_factory=list, description="Seeds without a value.")
    runs: list[RunValue] = Field(default_factory=list)
    convergence: Convergence | None = Field(None, description="Null until a target is known.")


class MissingPair(Message):
    """A seed for which one of the two methods has no value."""

    seed: int
    teacher_seed: int | None = None
    label: str = Field(description="The method without a value.")
    run_id: str = Field("", description="Empty if the run does not exist.")
    state: str = Field(description='The run\'s state, or "not planned".')
    reason: str = ""

    @property
    def to_come(self) -> bool:
        """Whether the run has not ended, so that nothing is missing yet."""
        return bool(self.run_id) and self.state not in TERMINAL


class SettingDifference(Message):
    """A setting for speed, a machine or a version in which the two runs of a pair differ."""

    setting: str
    kind: Literal["speed", "machine"]
    seeds: list[int]
    values: str = Field(description='Values of the first such pair, such as "bfloat16 against float32".')


class TeacherDifference(Message):
    """The mean difference under one teacher."""

    teacher_seed: int | None
    fingerprint: str
    n: int
    mean_difference: float


class SeedsNeeded(Message):
    """Number of seeds that would be needed to detect a difference, by the observed standard deviation."""

    difference: float
    power: float
    low: int = Field(description="Number of seeds for the smallest standard deviation in its 95 % interval.")
    high: int | None = Field(
        description="Number of seeds for the largest standard deviation in its 95 % interval; null: more than 1,000.",
    )
    sd_low: float
    sd_high: float


class PairedConvergence(Message):
    """Which run of each pair reached the target first. Never reaching it counts as later than any epoch."""

    n: int = Field(description="Number of pairs whose runs have both ended.")
    earlier: int
    later: int
    equal: int = Field(
        description="Number of pairs that reached the target in the same epoch, or of which neither reached it.",
    )
    units: int = Field(0, description="Number of units of the sign test: pairs, or teachers if these vary.")
    units_earlier: int = Field(
        0, description="Number of units in which the method was earlier; for a teacher, in most of its pairs."
    )
    units_later: int = 0
    sign_p: float | None = Field(None, description="Exact two-sided sign test; equal units are not counted.")
    both_reached: int
    speed_up: float | None = Field(
        None,
        description="Median epochs of the baseline divided by those of the method, over pairs in which "
        "both reached the target.",
    )
    speed_up_seconds: float | None = Field(
        None, description="The same ratio of comparable seconds; null if they are not comparable."
    )
    area_difference: float | None = Field(
        None, description="Mean difference, in the unit of differences of the headline metric."
    )
    area_interval: Interval | None = None
    area_sign_flip_p: float | None = None


class PairedDifference(Message):
    """A method against the baseline, seed by seed: method minus baseline, in the metric's unit."""

    label: str
    baseline: str
    n: int = Field(description="Number of pairs.")
    seeds: list[int]
    unit: Unit = Field(
        "seed",
        description="Unit of the interval and the p value: seed (pairs), or teacher (mean difference per teacher).",
    )
    units: int = Field(0, description="Number of units; equal to n if there is one teacher.")
    mean_difference: float | None = None
    sd: float | None = None
    interval: Interval | None = Field(
        None, description="t interval of the mean difference; null below n = 2 or if the standard deviation is 0."
    )
    sign_flip_p: float | None = Field(
        None,
        description="Two-sided p of this comparison alone: exact up to 20 pairs, by random flips with a fixed "
        "seed above.",
    )
    sign_flip_p_holm: float | None = Field(
        None, description="p after Holm's correction over the comparisons of this report."
    )
    verdict: ReportedVerdict | None = Field(
        None, description="Verdict over the comparisons of this report; null if nothing is tested."
    )
    smallest_p: float | None = Field(None, description="The smallest p that n pairs can give: 2^(1−n).")
    correlation: float | None = Field(
        None, description="Correlation of the pairs, or of the means per teacher; null below n = 3 or without variance."
    )
    welch_interval: Interval | None = None
    teachers: list[TeacherDifference] = Field(
        default_factory=list, description="Differences per teacher, if teachers vary."
    )
    missing: list[MissingPair] = Field(default_factory=list)
    unlike: list[SettingDifference] = Field(default_factory=list)
    needed: SeedsNeeded | None = Field(
        None, description="Given if a difference was requested and there are at least 4 pairs."
    )
    convergence: PairedConvergence | None = None
    sentence: str = Field(description="Conclusion from the pairs, over the comparisons of this report.")


class TeacherUsed(Message):
    """A teacher of the compared runs."""

    run_id: str
    fingerprint: str
    seed: int
    state: RunState
    top1: float | None = Field(None, description="Headline metric after its last epoch, as the test accuracy in %.")


class Comparison(Message):
    """Comparison of the methods of one experiment, or of several that differ only in their seeds."""

    experiment_id: str = Field(description="Id of the first experiment.")
    experiment: str
    experiments: list[str] = Field(default_factory=list, description="Names of all experiments.")
    metric: str
    title: str = Field("", description="Title of the metric.")
    unit: str
    better: Better | None = None
    epoch: EpochChoice = Field("last", description="last, best_val, or oracle (best test epoch; never tested).")
    test_size: int = Field(description="Images in the test set; 0 until a run has started.")
    resolution: float | None = Field(
        None, description="Share of one image in the test set, %; null if the headline metric counts no images."
    )
    teacher_top1: float | None = Field(
        None, description="Headline metric of the teacher, as the test accuracy in %; if teachers vary, their mean."
    )
    headline_unit: str = Field("%", description="Unit of the headline metric: of teacher_top1 and of the target.")
    teachers: list[TeacherUsed] = Field(default_factory=list)
    target_share: float = Field(description="Share of the teacher's value that is the target of convergence.")
    target: float | None = None
    absolute_target: bool = Field(False, description="The target was given as a value, not as a share.")
    baseline: str
    groups: list[MethodResult]
    paired: list[PairedDifference]
    tests: int = Field(0, description="Number of comparisons with the baseline that Holm's correction covers.")
    complete: bool = Field(description="Every run has ended.")
    condition: str = Field("", description='Condition under which the result holds, such as "one teacher (seed 0)".')
    notes: list[str] = Field(default_factory=list, description="Further notes for the reader.")
    timing: Timing = Field(
        "whole",
        description="What times include. whole: the whole training. student: without the teacher's logits, "
        "which some runs "
        "computed and others read from disk. unlike: the whole training, so not comparable between methods.",
    )
    costs: list[MethodCost] = Field(
        default_factory=list, description="Time, GPU-hours and energy of each method, and of the teacher's training."
    )
    data: str = Field("", description="The data of all values, if the data changed between runs; else empty.")
    set_aside: list[str] = Field(
        default_factory=list, description="Ids of runs with other data, which are in no mean, pair or target."
    )
    sequential: Sequential | None = Field(
        None,
        description="The looks at each comparison and their decisions, if seeds are added until these are decided; "
        "null for listed seeds, and over several experiments.",
    )
    by_looks: bool = Field(
        False, description="The verdicts, sentences and intervals of ``paired`` are those of ``sequential``."
    )
    set_aside_data: dict[str, str] = Field(
        default_factory=dict,
        description="Data of each run in set_aside, by id. Runs with equal data belong together.",
    )

    @property
    def interval_title(self) -> str:
        """The name of the intervals of the differences."""
        return "interval over all looks" if self.by_looks else "95 % t interval"

    @property
    def target_words(self) -> str:
        """The target with its unit, or its range if every teacher has its own; empty if no target is known."""
        targets = sorted({run.target for group in self.groups if group.convergence for run in group.convergence.runs})
        if len(targets) > 1:
            least, most = value_text(targets[0], decimals=2), value_text(targets[-1], self.headline_unit, 2)
            return f"{least} to {most} ({100 * self.target_share:g} % of each teacher's)"
        return value_text(self.target, self.headline_unit, 2) if self.target is not None else ""


class OverviewCell(Message):
    """One metric of one method, with its paired difference to the baseline."""

    label: str
    n: int
    mean: float | None = None
    sd: float | None = None
    pairs: int = 0
    mean_difference: float | None = None
    interval: Interval | None = None
    sign_flip_p: float | None = Field(None, description="p of this comparison alone.")
    sign_flip_p_holm: float | None = Field(
        None,
        description="p after Holm's correction over all cells of the overview.",
    )
    verdict: ReportedVerdict | None = Field(
        None,
        description="Verdict after Holm's correction over all cells of the overview; null for the baseline, and if "
        "nothing is tested.",
    )


class OverviewRow(Message):
    metric: str
    title: str
    unit: str
    better: Better | None
    cells: list[OverviewCell]


class Overview(Message):
    """Every metric that the students' runs end with, compared the same way."""

    experiment: str
    experiments: list[str]
    epoch: EpochChoice
    baseline: str
    condition: str
    tests: int = Field(0, description="Number of comparisons that Holm's correction covers.")
    rows: list[OverviewRow]
    notes: list[str]


class MeasuredMetrics(Message):
    """The metrics that runs have reported, in the order of the catalog; those that it does not have follow."""

    names: list[str]


Verdict = Literal["holds", "does not hold", "cannot tell"]


class PaperClaim(Message):
    """A claim of a paper, judged for one method of the experiment, or for the loss itself."""

    number: int
    claim: str
    case: str = Field("", description="The case that is judged, if the answer depends on the case.")
    label: str = Field(
        "",
        description="The method for which the claim is judged; empty for a statement about the loss.",
    )
    baseline: str = ""
    verdict: Verdict
    reason: str
    n: int = Field(0, description="Number of pairs; 0 for a statement about the loss.")
    p: float | None = Field(None, description="p of this test alone.")
    p_holm: float | None = Field(None, description="p after Holm's correction over the tests of this report.")
    numbers: dict[str, float] = Field(default_factory=dict)


class PaperClaims(Message):
    """The claims of a paper, judged by one experiment, or by several that differ in their seeds alone."""

    paper: str = Field("", description="Name of the paper.")
    paper_title: str = Field("", description="Title and year of the paper.")
    experiment: str
    experiments: list[str]
    condition: str
    claims: list[PaperClaim]
    notes: list[str]
