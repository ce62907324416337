"""Verdicts account for all comparisons of their report, and still show large differences."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.comparisons import statistics, verdicts
from backend.comparisons.convergence import ConvergenceTarget
from backend.comparisons.groups import ComparisonSpec, decide_all, methods_of, paired
from backend.comparisons.metric_selection import SelectedValue
from backend.comparisons.run_data import Sample, StudentRun, TeacherRun


def _say(differences: list[float], better: statistics.Better = "higher", unit: str = "") -> str:
    test = verdicts.Test.of(differences, better)
    (decision,) = verdicts.decide([test])
    return verdicts.sentence(test, decision, label="B", baseline="A", unit=unit)


def test_sentence_without_enough_pairs() -> None:
    assert _say([]) == "No seed has a value for both methods yet, so there is nothing to compare."
    assert _say([0.42]) == "1 pair (+0.42) gives no interval: the difference may be chance."


def test_sentence_of_three_pairs_that_straddle_zero() -> None:
    assert _say([0.0, 0.25, 0.5]) == (
        "The interval −0.37 to +0.87 contains zero and 3 pairs cannot show p < 0.25, so this does not show which is "
        "better."
    )


def test_sentence_of_three_pairs_whose_interval_excludes_zero() -> None:
    assert _say([1.0, 1.1, 1.2], unit="percentage points") == (
        "The interval +0.85 to +1.35 percentage points, of this comparison alone, excludes zero, but 3 pairs cannot "
        "show p < 0.25, so this does not show which is better."
    )


def test_sentence_with_pairs_enough_to_confirm() -> None:
    assert _say([1.0, 1.1, 1.2, 0.9, 1.0, 1.1]) == (
        "The interval +0.94 to +1.16 excludes zero and the sign-flip p is 0.031 (6 pairs): B is better than A."
    )
    clear = [1.0, 1.1, 1.2, 0.9, 1.0, 1.1]
    assert "B is worse than A" in _say(clear, better="lower")
    assert "B is higher than A" in _say(clear, better=None)
    assert "B is better than A" in _say([-value for value in clear], better="lower")
    assert _say([1.0, -1.1, 1.2, -0.9, 1.0, -1.1]).endswith(
        "contains zero and the sign-flip p is 1 (6 pairs), so this does not show which is better."
    )


def test_sentence_where_interval_and_test_disagree() -> None:
    outlier = [0.1, 0.1, 0.1, 0.1, 0.1, 3.0]
    text = _say(outlier)
    assert "contains zero but the sign-flip p is 0.031 (6 pairs): the two disagree" in text


def test_sentence_without_spread() -> None:
    assert _say([0.0, 0.0, 0.0]).startswith("The two are equal in all 3 pairs")
    assert _say([0.5, 0.5]) == (
        "The difference is +0.50 in both pairs, without the spread that an interval needs; 2 pairs cannot show "
        "p < 0.5, so this does not show which is better."
    )
    assert _say([0.5] * 6).endswith("the sign-flip p is 0.031 (6 pairs): B is better than A.")
    # The same difference of other floats: 90.3 − 90.1 differs from 80.3 − 80.1 in the last bit.
    assert "in all 3 pairs" in _say([90.3 - 90.1, 80.3 - 80.1, 0.2])


def test_sentence_never_shows_a_bound_as_zero() -> None:
    half = 4.302652729911275 * 1.0 / math.sqrt(3)
    text = _say([half + 0.004 - 1, half + 0.004, half + 0.004 + 1])
    assert text.startswith("The interval +0.004 to ")


@pytest.mark.parametrize("n", range(12))
def test_sentence_is_one_line_for_any_sample(n: int) -> None:
    generator = np.random.default_rng(n)
    for scale in (1e-9, 1.0, 1e6):
        text = _say((generator.normal(0, 1, n) * scale).tolist())
        assert text.endswith(".")
        assert "\n" not in text
        assert "nan" not in text


SEEDS = 8
SAYS = re.compile(r"\bis (better|worse|higher|lower) than\b")


def _report(values: NDArray[np.float64], metric: str = "test/top1") -> list[str]:
    """Return the sentences of one report. ``values`` has shape (methods, seeds); its first row is the baseline."""
    students = tuple(_student(f"m{method}", seed) for method in range(len(values)) for seed in range(SEEDS))
    sample = _Sample((), students, (TEACHER,))
    selected = {
        student.run_id: SelectedValue(float(values[int(student.label[1:]), student.seed]), epoch=4.0)
        for student in students
    }
    methods = list(methods_of(sample, selected, {}, ConvergenceTarget(0.95)).values())
    question = ComparisonSpec(metric)
    pairs = [paired(method, methods[0], sample, question) for method in methods[1:]]
    return [pair.sentence for pair in decide_all(pairs, question)]


TEACHER = TeacherRun("t", "v1-a", 0, "succeeded", 90.0)


class _Sample(Sample):
    @property
    def labels(self) -> dict[str, str]:
        return {student.label: "kd" for student in self.students}


def _student(label: str, seed: int) -> StudentRun:
    run_id = f"{label}-{seed}"
    return StudentRun(run_id, "e", label, "kd", seed, TEACHER, "succeeded", "", 4, 899, {}, ())


def _values(generator: np.random.Generator, methods: int) -> NDArray[np.float64]:
    """Draw accuracies without a difference between methods. Runs of one seed share a part, so pairs are correlated."""
    of_seed = generator.normal(0, 0.5, SEEDS)
    return 80 + of_seed + generator.normal(0, 0.5, (methods, SEEDS))


@pytest.mark.parametrize("others", [2, 5, 11])
def test_reports_without_a_difference_rarely_state_one(others: int) -> None:
    generator = np.random.default_rng(others)
    reports = 1200
    claiming = sum(any(map(SAYS.search, _report(_values(generator, others + 1)))) for _ in range(reports))
    margin = 2.5 * math.sqrt(0.05 * 0.95 / reports)
    assert claiming / reports <= 0.05 + margin


@pytest.mark.parametrize(("others", "metric", "word"), [(2, "test/top1", "better"), (5, "test/loss", "worse")])
def test_large_difference_still_has_a_verdict(others: int, metric: str, word: str) -> None:
    values = _values(np.random.default_rng(1), others + 1)
    values[1] += 5.0
    sentences = _report(values, metric)
    assert f"m1 is {word} than m0." in sentences[0]
    assert not any(map(SAYS.search, sentences[1:]))


def test_more_methods_can_remove_the_verdict_of_one_comparison() -> None:
    differences = [1.0, 1.1, 1.2, 0.9, 1.0, 1.1, 0.8, 1.3]
    alone, clear = verdicts.Test.of(differences), verdicts.Test.of(differences)
    assert verdicts.decide([alone])[0].verdict == "better"
    family = [clear, *(verdicts.Test.of([0.1, -0.1, 0.2, -0.2, 0.1, -0.1, 0.0, 0.1]) for _ in range(10))]
    decision = verdicts.decide(family)[0]
    assert (decision.tests, decision.verdict) == (11, "unclear")
    assert decision.p_holm == pytest.approx(11 * 2.0**-7)
    text = verdicts.sentence(clear, decision, label="B", baseline="A")
    assert "8 pairs cannot show p < 0.086 after Holm over the 11 comparisons of this report" in text
    assert "p of this comparison alone: 0.0078" in text


def test_untested_cells_have_no_verdict_and_are_not_counted() -> None:
    untested = verdicts.Test(8, 5.0, None)
    assert verdicts.decide([untested]) == [verdicts.Decision(None, None, 0, None)]
    assert verdicts.decide([untested, verdicts.Test.of([1.0, 1.1, 1.2, 0.9, 1.0, 1.1])])[1].tests == 1
