"""Shapes of ``/leaderboard``: methods ranked over settings, with the provenance of every value."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from common.formatting import NOTHING, mean_text, value_text
from core.protocol.base import Message
from core.protocol.comparisons import Better, Interval

RankUnit = Literal["setting", "seed", "teacher"]
FriedmanKind = Literal["exact", "drawn", "chi_square"]
_MARKS = {"better": " ▲", "worse": " ▼"}


class LeaderboardCell(Message):
    """One method in one setting, after the last epoch."""

    label: str
    n: int = Field(description="Number of runs with a value.")
    mean: float | None = None
    sd: float | None = Field(None, description="Sample standard deviation; null below n = 2.")
    interval: Interval | None = None
    best: bool = Field(False, description="Whether the mean is the best of the setting. This is not a test.")
    mean_rank: float | None = Field(
        None, description="Mean rank over the common seeds; null if the setting does not count for the ranks."
    )
    pairs: int = 0
    units: int = Field(0, description="Number of units of the test: pairs, or teachers if teachers vary.")
    mean_difference: float | None = Field(None, description="Method minus baseline, in the metric's unit.")
    difference_interval: Interval | None = Field(None, description="Of this comparison alone.")
    p: float | None = Field(None, description="Exact sign-flip p of this comparison alone.")
    p_holm: float | None = Field(None, description="p after Holm's correction over all comparisons of the leaderboard.")
    verdict: Literal["better", "worse", "unclear"] | None = Field(
        None, description="Verdict against the baseline, after Holm's correction; null for the baseline itself."
    )
    trials: int = Field(0, description="Trials by which the method's settings were chosen; 0 if none were.")
    seeds: list[int] = Field(default_factory=list, description="Seeds with a value.")
    run_ids: list[str] = Field(default_factory=list)
    experiments: list[str] = Field(default_factory=list, description="Ids of the experiments with the method.")
    reason: str = Field("", description="Why there is no value; empty if there is one.")

    @property
    def text(self) -> str:
        """``mean ± sd (n)``, with ★ for the best mean of the setting and ▲ or ▼ for the verdict; a dash without one."""
        if self.mean is None:
            return NOTHING
        best = " ★" if self.best else ""
        return f"{mean_text(self.mean, self.sd)} ({self.n}){best}{_MARKS.get(self.verdict or '', '')}"


class LeaderboardSetting(Message):
    """A task, a data set with its parameters, networks and a training: one column."""

    title: str
    metric: str = Field(description="Headline metric of the task, after the last epoch.")
    metric_title: str
    unit: str
    better: Better | None
    dataset: str
    teacher: str
    student: str
    epochs: int
    images: str = Field("", description="The images, if those of the setting changed between runs.")
    condition: str = ""
    experiments: list[str] = Field(description="Ids of its experiments.")
    common_seeds: list[int] = Field(
        default_factory=list, description="Seeds with values of all methods; ranks are within them."
    )
    counted: bool = Field(description="Whether the setting counts for the mean ranks.")
    reason: str = Field("", description="Why it does not count; empty if it does.")
    cells: list[LeaderboardCell] = Field(description="One per method of its experiments.")

    @property
    def heading(self) -> str:
        """The title with the unit of the values; a setting that does not count for the ranks is marked."""
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.title}{unit}{'' if self.counted else ' (not ranked)'}"


class LeaderboardMethod(Message):
    """One row."""

    label: str = Field(description="Label of the method, with the parameters by which it differs from others.")
    method: str = Field(description="Name in the catalog; of a combination all names, joined by +.")
    settings: int = Field(description="Number of settings with a value.")
    tuned: bool = Field(False, description="Whether its settings were chosen by trials on held-out images.")
    mean_rank: float | None = Field(None, description="1 is best; null if no setting counts.")
    interval: Interval | None = Field(
        None, description="95 % percentile bootstrap over the settings, and over the seeds within each."
    )

    @property
    def rank_text(self) -> str:
        """The mean rank with its interval, as "1.50 [1.20, 2.00]"; a dash without one."""
        if self.mean_rank is None:
            return NOTHING
        ends = f" [{self.interval.low:.2f}, {self.interval.high:.2f}]" if self.interval else ""
        return f"{value_text(self.mean_rank, decimals=2)}{ends}"


class RankPair(Message):
    """Two methods, compared by their values over the settings, or over the seeds of a single one."""

    first: str
    second: str
    wins: int = Field(description="Units in which the first is better.")
    losses: int
    ties: int
    p: float | None = Field(None, description="Exact Wilcoxon signed-rank p of this comparison alone.")
    p_holm: float | None = Field(None, description="p after Holm's correction over all pairs of methods.")
    differs: bool = Field(description="Whether p after Holm is below 0.05.")


class Ranking(Message):
    """Tests of the ranks."""

    unit: RankUnit = Field(description="What a test counts as one observation.")
    units: int
    blocks: int = Field(description="Number of pairs of a setting and a seed within which methods are ranked.")
    friedman: float | None = Field(None, description="Friedman's χ², corrected for ties; null below two units.")
    friedman_p: float | None = None
    friedman_kind: FriedmanKind | None = Field(
        None, description="How p was computed: all permutations, drawn ones, or by the χ² distribution."
    )
    critical_difference: float | None = Field(
        None, description="Nemenyi's critical difference of mean ranks at 5 %; null below two units."
    )
    pairs: list[RankPair] = Field(default_factory=list)
    cliques: list[list[str]] = Field(
        default_factory=list, description="Neighbours in the order of the mean ranks of which no pair differs."
    )


class FewerMethods(Message):
    """Methods without which more settings count."""

    without: list[str]
    settings: int = Field(description="Number of settings that then count.")


class LeaderboardExperiment(Message):
    """Where values come from: an experiment."""

    id: str
    name: str
    created_at: datetime
    tags: list[str] = Field(default_factory=list)
    sweep: str = ""
    trials: int = Field(0, description="Trials per method by which settings were chosen; 0 if none were.")
    choice: str = Field("", description="SHA-256 of the choice of settings; empty if there was none.")


class LeaderboardRun(Message):
    """Where a value comes from: a run."""

    id: str
    experiment_id: str
    setting: str = Field(description="Title of the setting.")
    label: str = Field(description="The method.")
    seed: int
    teacher_run_id: str | None = None
    value: float
    fingerprint: str = Field(description="Fingerprint of the run's spec.")
    commit: str = Field("", description="Commit of the training code; empty if it was not recorded.")
    ended_at: datetime | None = None


class Leaderboard(Message):
    """Methods × settings of one task: values after the last epoch, ranks, and comparisons with a baseline."""

    task: str
    tasks: list[str] = Field(description="Tasks of all experiments that were selected; a leaderboard is of one.")
    baseline: str
    methods: list[LeaderboardMethod] = Field(description="In the order of their mean ranks.")
    settings: list[LeaderboardSetting]
    ranking: Ranking | None = Field(None, description="Null if there are no two methods with a common setting.")
    counted: int = Field(description="Number of settings that count for the mean ranks.")
    fewer: list[FewerMethods] = Field(
        default_factory=list, description="Methods that can be left out so that more settings count."
    )
    without: list[str] = Field(default_factory=list, description="Methods that were left out.")
    tests: int = Field(description="Number of comparisons with the baseline that Holm's correction covers.")
    notes: list[str]
    experiments: list[LeaderboardExperiment]
    runs: list[LeaderboardRun]
    version: str = Field(description="Version of the backend.")
    made_at: datetime
    address: str = Field("", description="Address of the API that made it.")

    @property
    def cells(self) -> dict[tuple[str, str], LeaderboardCell]:
        """The cells by the title of the setting and the label of the method."""
        return {(setting.title, cell.label): cell for setting in self.settings for cell in setting.cells}
