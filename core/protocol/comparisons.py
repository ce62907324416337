"""Methods side by side: the shapes of ``/comparisons``. Differences are method minus baseline, in the metric's unit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.formatting import value_text
from core.protocol.base import Message, RunState

EpochChoice = Literal["last", "best_val", "oracle"]
"""The epoch whose value is compared.

last: the last one. best_val: the one with the best validation accuracy. oracle: the one with the best *test* accuracy,
which the test images themselves chose: shown where published numbers are such, never tested.
"""
EPOCH_CHOICES: dict[EpochChoice, str] = {
    "last": "after the last epoch",
    "best_val": "at the epoch with the best validation accuracy",
    "oracle": "at the epoch with the best test accuracy (an oracle: the test images chose it, so nothing is tested)",
}
Better = Literal["higher", "lower"]
Unit = Literal["seed", "teacher"]
Timing = Literal["whole", "student", "unlike"]
TIMING_TEXT: dict[Timing, str] = {"whole": "", "student": ", without the teacher", "unlike": ", not comparable"}
"""What stands behind the name of a time, see ``Comparison.timing``."""
ReportedVerdict = Literal["better", "worse", "higher", "lower", "unclear"]
"""What a report says of a method against the baseline; "higher" and "lower" where neither way is better."""


class Interval(Message):
    """A 95 % interval by Student's t."""

    low: float
    high: float


class RunValue(Message):
    """What one run gives to a comparison."""

    run_id: str
    experiment: str = Field(description="Name of the experiment it is taken from.")
    seed: int
    teacher_seed: int | None = None
    state: RunState
    value: float | None = None
    epoch: float | None = Field(None, description="Whose value it is.")
    reason: str = Field("", description="Why it has no value; empty where it has one.")


class RunConvergence(Message):
    """How fast one run came to the target. Null where it did not."""

    run_id: str
    seed: int
    teacher_seed: int | None = None
    target: float
    epochs: float | None = None
    seconds: float | None = Field(None, description="Of training, evaluation included.")
    gpu_seconds: float | None = Field(None, description="Seconds times GPUs; null on a CPU.")
    teacher_seconds: float | None = Field(
        None, description="Of the seconds, those spent on the teacher's logits; null where that was not recorded."
    )
    teacher_reused: float | None = Field(
        None, description="Share of the teacher's logits that was read from the disk and not computed, %."
    )
    student_seconds: float | None = Field(
        None, description="Without the teacher's part; null where whole times are compared. See Comparison.timing."
    )
    student_gpu_seconds: float | None = None
    area: float | None = Field(None, description="Mean test accuracy over the epochs, %; of a run that succeeded.")


class UncountedRun(Message):
    """A run that says nothing, or nothing more, about convergence."""

    run_id: str
    seed: int
    teacher_seed: int | None = None
    state: RunState
    reason: str = ""
    counted: bool = Field(description="It failed after its first measurement and counts as never reached.")


class Convergence(Message):
    """Epochs to a target accuracy. Reached: the first of two consecutive epochs at or above it."""

    target: float = Field(description="%; where teachers differ, the mean of their targets.")
    reached: int = Field(description="Runs that reached it.")
    of: int = Field(description="Runs that succeeded, or failed after a first measurement.")
    median_epochs: float | None = Field(
        description="Over all runs, those that never reached it counting as later; null: > the epochs trained."
    )
    max_epochs: int
    median_seconds: float | None = Field(None, description="Of what Comparison.timing names.")
    median_gpu_seconds: float | None = None
    area: float | None = Field(None, description="Mean over the runs of the mean test accuracy over the epochs, %.")
    area_sd: float | None = None
    runs: list[RunConvergence] = Field(default_factory=list)
    not_succeeded: list[UncountedRun] = Field(default_factory=list, description="Every run that has not succeeded.")


class MethodResult(Message):
    """One method over its seeds.

    Where teachers vary, mean, spread and interval are of the means per teacher: the runs of one teacher are not
    independent of each other.
    """

    label: str
    method: str
    n: int = Field(description="Runs with a value.")
    units: int = Field(0, description="Values that the spread is of: runs, or teachers where these vary.")
    mean: float | None = None
    sd: float | None = Field(None, description="Sample standard deviation; null below n = 2.")
    se: float | None = None
    interval: Interval | None = None
    values: dict[int, float] = Field(
        default_factory=dict, description="By seed; empty where teachers vary: see ``runs``."
    )
    missing: list[int] = Field(default_factory=list, description="Seeds without a value.")
    runs: list[RunValue] = Field(default_factory=list)
    convergence: Convergence | None = Field(None, description="Null while no target is known.")


class MissingPair(Message):
    """A seed that one side has no value for."""

    seed: int
    teacher_seed: int | None = None
    label: str = Field(description="The method without a value.")
    run_id: str = Field("", description="Empty where there is no such run.")
    state: str = Field(description='The run\'s state, or "not planned".')
    reason: str = ""


class SettingDifference(Message):
    """Something that was chosen for speed, or a machine or version, in which the two runs of a pair differ."""

    setting: str
    kind: Literal["speed", "machine"]
    seeds: list[int]
    values: str = Field(description='Of the first such pair, as "bfloat16 against float32".')


class TeacherDifference(Message):
    """The mean difference under one teacher."""

    teacher_seed: int | None
    fingerprint: str
    n: int
    mean_difference: float


class SeedsNeeded(Message):
    """How many seeds would show a difference, as far as the spread is known."""

    difference: float
    power: float
    low: int = Field(description="With the least sd that the pairs allow (95 %).")
    high: int | None = Field(description="With the greatest; null: more than 1,000.")
    sd_low: float
    sd_high: float


class PairedConvergence(Message):
    """Who reached the target first, pair by pair; never reaching it is later than any epoch."""

    n: int = Field(description="Pairs of which both runs are known to the end.")
    earlier: int
    later: int
    equal: int = Field(description="In the same epoch, or both never.")
    units: int = Field(0, description="What the sign test is over: pairs, or teachers where these vary.")
    units_earlier: int = Field(0, description="Of them, those that were earlier; a teacher, in more of its pairs.")
    units_later: int = 0
    sign_p: float | None = Field(None, description="Exact sign test, two-sided; equal units say nothing.")
    both_reached: int
    speed_up: float | None = Field(
        None, description="Baseline's median epochs / the method's, over the pairs of which both reached it."
    )
    speed_up_seconds: float | None = Field(
        None, description="The same of the seconds that are comparable; null where they are not."
    )
    area_difference: float | None = Field(None, description="Mean, in percentage points.")
    area_interval: Interval | None = None
    area_sign_flip_p: float | None = None


class PairedDifference(Message):
    """A method against the baseline, seed by seed: method minus baseline, in the metric's unit."""

    label: str
    baseline: str
    n: int = Field(description="Pairs.")
    seeds: list[int]
    unit: Unit = Field("seed", description="What the interval and the p are over: pairs, or teachers' mean pairs.")
    units: int = Field(0, description="How many of them; equal to n where one teacher taught all.")
    mean_difference: float | None = None
    sd: float | None = None
    interval: Interval | None = Field(
        None, description="t interval of the mean difference; null below n = 2 and without spread."
    )
    sign_flip_p: float | None = Field(
        None,
        description="Of this comparison alone, two-sided; exact up to 20 pairs, drawn with a fixed seed above.",
    )
    sign_flip_p_holm: float | None = Field(None, description="After Holm over the comparisons of this report.")
    verdict: ReportedVerdict | None = Field(
        None, description="Over the comparisons of this report; null where nothing is tested."
    )
    smallest_p: float | None = Field(None, description="The smallest p that n pairs can give: 2^(1−n).")
    correlation: float | None = Field(
        None, description="Of the pairs, or of the teachers' means; null below n = 3 or without variance."
    )
    welch_interval: Interval | None = None
    teachers: list[TeacherDifference] = Field(default_factory=list, description="Filled where teachers vary.")
    missing: list[MissingPair] = Field(default_factory=list)
    unlike: list[SettingDifference] = Field(default_factory=list)
    needed: SeedsNeeded | None = Field(None, description="Where a difference was named and there are 4 pairs or more.")
    convergence: PairedConvergence | None = None
    sentence: str = Field(description="What the pairs allow one to say, over the comparisons of this report.")


class TeacherUsed(Message):
    run_id: str
    fingerprint: str
    seed: int
    state: RunState
    top1: float | None = Field(None, description="Test accuracy after its last epoch, %.")


class Comparison(Message):
    """Methods of one experiment, or of several that differ in their seeds alone, side by side."""

    experiment_id: str = Field(description="The first one's.")
    experiment: str
    experiments: list[str] = Field(default_factory=list, description="Names of all.")
    metric: str
    title: str = Field("", description="Of the metric, as an axis shows it.")
    unit: str
    better: Better | None = None
    epoch: EpochChoice = Field("last", description="last, best_val, or oracle (best test epoch; never tested).")
    test_size: int = Field(description="Images in the test set; 0 until a run has started.")
    resolution: float | None = Field(None, description="One image of the test set, in %.")
    teacher_top1: float | None = Field(None, description="Where teachers vary, their mean.")
    teachers: list[TeacherUsed] = Field(default_factory=list)
    target_share: float = Field(description="Of the teacher's accuracy, that convergence is measured to.")
    target: float | None = None
    absolute_target: bool = Field(False, description="The target was given as an accuracy, not as a share.")
    baseline: str
    groups: list[MethodResult]
    paired: list[PairedDifference]
    tests: int = Field(0, description="Comparisons with the baseline that Holm's correction is over.")
    complete: bool = Field(description="Every run has ended.")
    condition: str = Field("", description='What the result holds for, as "one teacher (seed 0)".')
    notes: list[str] = Field(default_factory=list, description="What a reader must know besides.")
    timing: Timing = Field(
        "whole",
        description="What times are of. whole: of the training. student: without the teacher's logits, which some runs "
        "computed and others read. unlike: of the training, but for that reason not comparable between methods.",
    )
    data: str = Field("", description="Which data everything is of, where the data changed between runs; else empty.")
    set_aside: list[str] = Field(
        default_factory=list, description="Runs of other data, by id: they are in no mean, pair or target."
    )
    set_aside_data: dict[str, str] = Field(
        default_factory=dict,
        description="Which data each run that is set aside is of, by id: only equal ones belong together.",
    )

    @property
    def target_words(self) -> str:
        """What the runs had to reach, in %: one target, or from the least to the greatest where each teacher sets its
        own, since no run was judged by their mean. Empty while none is known."""
        known = sorted({run.target for group in self.groups if group.convergence for run in group.convergence.runs})
        if len(known) > 1:
            least, most = value_text(known[0], decimals=2), value_text(known[-1], "%", 2)
            return f"{least} to {most} ({100 * self.target_share:g} % of each teacher's)"
        return value_text(self.target, "%", 2) if self.target is not None else ""


class OverviewCell(Message):
    """One metric of one method, with its paired difference to the baseline."""

    label: str
    n: int
    mean: float | None = None
    sd: float | None = None
    pairs: int = 0
    mean_difference: float | None = None
    interval: Interval | None = None
    sign_flip_p: float | None = Field(None, description="Of this comparison alone.")
    sign_flip_p_holm: float | None = Field(None, description="After Holm over all cells of the overview.")
    verdict: ReportedVerdict | None = Field(
        None,
        description="After Holm over all cells of the overview; null for the baseline and where nothing is tested.",
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
    tests: int = Field(0, description="Comparisons that Holm's correction is over.")
    rows: list[OverviewRow]
    notes: list[str]


Verdict = Literal["holds", "does not hold", "cannot tell"]


class PaperClaim(Message):
    """A claim of a paper, judged for one method of the experiment, or for the loss itself."""

    number: int
    claim: str
    case: str = Field("", description="The case that is judged, where the answer depends on it.")
    label: str = Field("", description="The method that it is judged for; empty for a statement about the loss.")
    baseline: str = ""
    verdict: Verdict
    reason: str
    n: int = Field(0, description="Pairs; 0 for a statement about the loss.")
    p: float | None = Field(None, description="Of this test alone.")
    p_holm: float | None = Field(None, description="After Holm over the tests of this report.")
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


class PublishedValue(Message):
    """A number somebody else published for a row of the table."""

    source: str
    method: str
    value: float
    repeats: int | None = Field(None, description="Runs that it is a mean of; null where it is not said.")
    epoch: EpochChoice | None = Field(None, description="Null where it is not said.")


class TableCell(Message):
    """One method in one row."""

    label: str
    n: int
    mean: float | None = None
    sd: float | None = None
    interval: Interval | None = None
    pairs: int = 0
    units: int = Field(0, description="What the test is over: pairs, or teachers where these vary.")
    mean_difference: float | None = None
    difference_interval: Interval | None = None
    p: float | None = Field(None, description="Of this comparison alone.")
    p_holm: float | None = Field(None, description="After Holm over the whole table.")
    verdict: Literal["better", "worse", "unclear"] | None = Field(
        None, description="Against the row's baseline after Holm over the table; null for the baseline itself."
    )
    run_ids: list[str] = Field(default_factory=list)
    missing: list[MissingPair] = Field(default_factory=list, description="Seeds of the row that it has no value for.")
    published: list[PublishedValue] = Field(default_factory=list)


class TableRow(Message):
    """A data set, a teacher and a student, trained in one way."""

    title: str = Field(description="dataset teacher→student.")
    images: str = Field("", description="Which data the row is of, where the data of its setting changed between runs.")
    dataset: str
    teacher: str
    student: str
    teacher_top1: float | None = None
    published: list[PublishedValue] = Field(default_factory=list, description="Of the teacher.")
    condition: str = ""
    experiments: list[str]
    seeds: list[int]
    teacher_seeds: list[int]
    cells: list[TableCell]
    commands: list[str] = Field(default_factory=list, description="What would queue the missing seeds.")


class ResultTable(Message):
    """The paper's table: a row a setting, a column a method."""

    metric: str
    title: str
    unit: str
    better: Better | None
    epoch: EpochChoice
    test: Literal["sign_flip", "t"]
    baseline: str
    methods: list[str]
    rows: list[TableRow]
    tests: int = Field(description="Comparisons that Holm's correction is over.")
    notes: list[str]


class PublishedRow(Message):
    """One row of somebody else's table."""

    source: str
    dataset: str
    teacher: str
    student: str
    values: list[PublishedValue] = Field(description='By method; "teacher" is the teacher\'s own.')


class PublishedTable(Message):
    """What others have published of such settings, as printed."""

    rows: list[PublishedRow]
