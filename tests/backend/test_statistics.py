"""The statistics against scipy, constructed data and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from backend.comparisons import statistics

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_summary_agrees_with_scipy(n: int) -> None:
    values = RNG.normal(90, 2, n).tolist()
    summary = statistics.summarize(values)
    assert summary.n == n
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.sd == pytest.approx(np.std(values, ddof=1))
    assert summary.se == pytest.approx(stats.sem(values))
    low, high = stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values))
    assert summary.interval is not None
    assert (summary.interval.low, summary.interval.high) == pytest.approx((low, high))


def test_summary_of_none_one_and_equal_values() -> None:
    assert statistics.summarize([]) == statistics.Summary(n=0)
    assert statistics.summarize([91.5]) == statistics.Summary(n=1, mean=91.5)
    equal = statistics.summarize([91.5, 91.5, 91.5])
    assert (equal.sd, equal.se, equal.interval) == (0.0, 0.0, None)


def test_t_interval_covers_at_its_level() -> None:
    """4,000 samples of three: 0.95 within four standard errors of the simulation (0.0034 each)."""
    generator = np.random.default_rng(11)
    hits = 0
    for sample in generator.normal(1.5, 0.7, (4000, 3)).tolist():
        interval = statistics.summarize(sample).interval
        assert interval is not None
        hits += interval.low <= 1.5 <= interval.high
    assert hits / 4000 == pytest.approx(0.95, abs=0.0138)


def test_differences_agree_with_scipy() -> None:
    left, right = RNG.normal(90, 2, 8), RNG.normal(89, 2, 8)
    interval = statistics.summarize((left - right).tolist()).interval
    expected = stats.ttest_rel(left, right).confidence_interval(0.95)
    assert interval is not None
    assert interval.low == pytest.approx(expected.low)
    assert interval.high == pytest.approx(expected.high)
    correlation = statistics.correlation(left.tolist(), right.tolist())
    assert correlation == pytest.approx(stats.pearsonr(left, right).statistic)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 10])
def test_sign_flip_is_exact(n: int) -> None:
    differences = RNG.normal(0.4, 1, n).tolist()
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=n)
    ]
    expected = np.mean([total >= abs(sum(differences)) - 1e-12 for total in sums])
    assert statistics.sign_flip_p(differences) == pytest.approx(float(expected))


def test_sign_flip_agrees_with_scipys_permutation_test() -> None:
    differences = np.array([0.4, -0.1, 0.9, 0.3, 0.2, 0.7, -0.3, 0.5])
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert statistics.sign_flip_p(differences.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125), (20, 2.0**-19)])
def test_smallest_p_is_the_p_of_equal_signs(n: int, p: float) -> None:
    assert statistics.smallest_p(n) == p
    assert statistics.sign_flip_p([0.1 * (i + 1) for i in range(n)]) == pytest.approx(p, rel=1e-12)


def test_sign_flip_counts_ties_despite_rounding() -> None:
    # 0.1 + 0.2 − 0.3 is not 0.0 in floats; every pattern of these ties with its neighbours.
    assert statistics.sign_flip_p([0.1, 0.2, -0.3]) == 1.0
    assert statistics.sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    assert statistics.sign_flip_p([]) is None


def test_sign_flip_above_the_exact_limit() -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, 40).tolist()
    p = statistics.sign_flip_p(differences)
    assert p is not None
    assert p == statistics.sign_flip_p(differences)
    # By its normal approximation, within the error of the sample.
    z = abs(sum(differences)) / math.sqrt(sum(d * d for d in differences))
    assert p == pytest.approx(2 * stats.norm.sf(z), abs=0.005)
    assert statistics.sign_flip_p([1.0] * 40) == 1e-5


@pytest.mark.parametrize("values", [([1.0, 2.0], [2.0, 3.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([], [])])
def test_correlation_of_too_few_or_constant_values_is_none(values: tuple[list[float], list[float]]) -> None:
    assert statistics.correlation(*values) is None


def test_correlation_of_a_line_is_one() -> None:
    assert statistics.correlation([1.0, 2.0, 4.0], [-2.0, -4.0, -8.0]) == -1.0


def test_welch_agrees_with_scipy() -> None:
    left, right = RNG.normal(90, 2, 5), RNG.normal(89, 0.5, 3)
    expected = stats.ttest_ind(left, right, equal_var=False).confidence_interval(0.95)
    interval = statistics.welch_interval(left.tolist(), right.tolist())
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert statistics.welch_interval([1.0], [1.0, 2.0]) is None
    assert statistics.welch_interval([1.0, 1.0], [2.0, 2.0]) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([80, 90, 91, 92], 2),
        ([90, 80, 90, 89, 90, 90], 5),  # two separate peaks do not count
        ([80, 80, 80, 90], None),  # the last value has no second value that confirms it
        ([80, 80, 90, 90], 3),  # the last value confirms the one before
        ([90], None),
        ([], None),
        ([math.nan, 90, math.nan, 90, 90], 4),
        ([math.inf, 90], 1),
    ],
)
def test_reached_is_the_first_of_two_in_a_row(values: list[float], expected: float | None) -> None:
    epochs = [float(i + 1) for i in range(len(values))]
    assert statistics.epochs_to_target(epochs, values, 90) == expected


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        ([3, 5, 9], 5),
        ([3, None, 9], 9),
        ([3, None, None], None),
        ([3, 5], 4),
        ([3, None], None),  # the median of an even number averages a value and "never"
        ([3, 5, 9, None], 7),
        ([], None),
    ],
)
def test_median_counts_never_as_later(reached: list[float | None], expected: float | None) -> None:
    assert statistics.median_epochs(reached) == expected


@pytest.mark.parametrize("n", [3, 4, 5, 8, 12, 20])
def test_intervals_cover_at_every_n(n: int) -> None:
    """3,000 samples each: mean, paired difference and Welch within four standard errors (0.004) of 0.95, or above."""
    generator = np.random.default_rng(100 + n)
    seeds = generator.normal(0, 1, (3000, n))  # the part that both methods of a pair share
    first = (90 + seeds + generator.normal(0.5, 0.6, (3000, n))).tolist()
    second = (90 + seeds + generator.normal(0.0, 0.6, (3000, n))).tolist()
    hits = {"mean": 0, "paired": 0, "welch": 0}
    for one, other in zip(first, second, strict=True):
        intervals = {
            "mean": (statistics.summarize(one).interval, 90.5),
            # Not by ``paired``, which counts half a million sign patterns at n = 20.
            "paired": (statistics.summarize([a - b for a, b in zip(one, other, strict=True)]).interval, 0.5),
            "welch": (statistics.welch_interval(one, other), 0.5),
        }
        for name, (interval, truth) in intervals.items():
            assert interval is not None
            hits[name] += interval.low <= truth <= interval.high
    assert hits["mean"] / 3000 == pytest.approx(0.95, abs=0.016)
    assert hits["paired"] / 3000 == pytest.approx(0.95, abs=0.016)
    assert hits["welch"] / 3000 > 0.97  # these pairs are correlated, which Welch ignores: its interval is too wide


def test_holm_equals_values_computed_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04: 4·0.005 = 0.02, 3·0.01 = 0.03, 2·0.03 = 0.06, then 0.04 is raised to 0.06.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert statistics.holm([]) == []
    assert statistics.holm([0.2]) == [0.2]


def test_holm_keeps_the_chance_of_a_false_rejection() -> None:
    generator = np.random.default_rng(3)
    families = generator.uniform(size=(4000, 6)).tolist()
    wrong = sum(any(p is not None and p < 0.05 for p in statistics.holm(family)) for family in families)
    assert wrong / 4000 == pytest.approx(0.05, abs=0.014)


@pytest.mark.parametrize(("earlier", "later"), [(0, 0), (1, 0), (3, 0), (2, 5), (6, 1), (4, 4), (9, 0)])
def test_sign_test_agrees_with_scipy(earlier: int, later: int) -> None:
    p = statistics.sign_test_p(earlier, later)
    if earlier + later == 0:
        assert p is None
    else:
        assert p == pytest.approx(stats.binomtest(earlier, earlier + later).pvalue)


def test_paired_t_agrees_with_scipy() -> None:
    differences = RNG.normal(0.4, 1, 7).tolist()
    assert statistics.paired_t_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert statistics.paired_t_p([0.5]) is None
    assert statistics.paired_t_p([0.5, 0.5]) is None


def test_blocks_are_averaged_only_where_there_are_several() -> None:
    assert statistics.by_block({("a", 0): 1.0, ("a", 1): 3.0}) == [1.0, 3.0]
    assert statistics.by_block({("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 5.0}) == [2.0, 5.0]
    assert statistics.by_block({}) == []


def test_block_means_cover_for_correlated_runs() -> None:
    """Five teachers with four seeds each: runs of one teacher are correlated, and not independent."""
    generator = np.random.default_rng(5)
    by_teacher = by_run = 0
    for _ in range(1500):
        values = {
            (str(teacher), seed): float(value)
            for teacher, shared in enumerate(generator.normal(0, 1, 5))
            for seed, value in enumerate(shared + generator.normal(0, 0.5, 4))
        }
        right, wrong = statistics.summarize(statistics.by_block(values)), statistics.summarize(list(values.values()))
        assert right.interval is not None
        assert wrong.interval is not None
        by_teacher += right.interval.low <= 0 <= right.interval.high
        by_run += wrong.interval.low <= 0 <= wrong.interval.high
    assert by_teacher / 1500 == pytest.approx(0.95, abs=0.023)
    assert by_run / 1500 < 0.85


def test_area_under_a_curve() -> None:
    assert statistics.area_under([1, 2, 4], [10, 20, 40]) == pytest.approx((15 + 60) / 3)
    assert statistics.area_under([3], [42.0]) == 42.0
    assert statistics.area_under([], []) is None
    assert statistics.area_under([1, 2], [1.0, math.nan]) is None
