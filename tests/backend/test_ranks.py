"""Ranks of methods over settings: against scipy, against all permutations, and against Demšar's example."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from scipy import stats

from backend.comparisons import ranks

# Area under the ROC curve of C4.5 and three variants on 14 data sets: Demšar (2006), table 6.
METHODS = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]
DEMSAR = [
    [0.763, 0.768, 0.771, 0.798],
    [0.599, 0.591, 0.590, 0.569],
    [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898],
    [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685],
    [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000],
    [0.940, 0.962, 0.965, 0.962],
    [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.978, 0.975],
    [0.957, 0.978, 0.946, 0.970],
]
RANKS = [ranks.ranks_of(row) for row in DEMSAR]


def test_ranks_of_ties_are_means_and_the_direction_counts() -> None:
    assert ranks.ranks_of([80.0, 90.0, 80.0, 70.0]) == [2.5, 1.0, 2.5, 4.0]
    assert ranks.ranks_of([0.3, 0.1, 0.2], higher_is_better=False) == [3.0, 1.0, 2.0]


def test_mean_ranks_and_statistic_are_those_of_demsars_example() -> None:
    means = ranks.mean_row(RANKS)
    assert [round(mean, 3) for mean in means] == [3.143, 2.000, 2.893, 1.964]
    # His χ² has no correction for ties.
    n, k = len(DEMSAR), len(METHODS)
    uncorrected = 12 * n / (k * (k + 1)) * (sum(mean**2 for mean in means) - k * (k + 1) ** 2 / 4)
    assert uncorrected == pytest.approx(9.28, abs=0.01)
    found = ranks.friedman(RANKS)
    assert found is not None
    assert found.statistic == pytest.approx(stats.friedmanchisquare(*zip(*DEMSAR, strict=True)).statistic)
    assert ranks.critical_difference(k, n) == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize(("methods", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_quantiles_of_nemenyi_are_those_of_demsars_table(methods: int, quantile: float) -> None:
    units = 6
    found = ranks.critical_difference(methods, units)
    assert found == pytest.approx(quantile * math.sqrt(methods * (methods + 1) / (6 * units)), rel=5e-4)


@pytest.mark.parametrize("methods", [2, 7, 40, 100])
def test_quantiles_of_nemenyi_are_scipys(methods: int) -> None:
    quantile = stats.studentized_range.ppf(0.95, methods, math.inf) / math.sqrt(2)
    found = ranks.critical_difference(methods, 10)
    assert found == pytest.approx(quantile * math.sqrt(methods * (methods + 1) / 60), rel=1e-5)


def test_friedman_of_few_units_counts_all_permutations() -> None:
    rows = [[1.0, 2.0, 3.0], [1.0, 2.5, 2.5], [2.0, 1.0, 3.0], [1.0, 2.0, 3.0]]
    found = ranks.friedman(rows)
    assert found is not None
    assert found.kind == "exact"

    def statistic(table: Sequence[Sequence[float]]) -> float:
        return math.fsum((math.fsum(column) - 2 * len(table)) ** 2 for column in zip(*table, strict=True))

    permuted = itertools.product(*(list(itertools.permutations(row)) for row in rows))
    values = [statistic(table) for table in permuted]
    assert found.p == pytest.approx(sum(value >= statistic(rows) - 1e-9 for value in values) / len(values))


def test_friedman_of_more_units_draws_permutations_close_to_chi_square() -> None:
    generator = random.Random(3)
    rows = [ranks.ranks_of([generator.gauss(0.4 * index, 1) for index in range(5)]) for _ in range(30)]
    found = ranks.friedman(rows)
    assert found is not None
    assert found.kind == "drawn"
    assert found == ranks.friedman(rows)
    reference = stats.friedmanchisquare(*zip(*[[-rank for rank in row] for row in rows], strict=True))
    assert found.statistic == pytest.approx(reference.statistic)
    assert found.p == pytest.approx(reference.pvalue, abs=0.01)


def test_friedman_of_many_ranks_uses_the_chi_square_distribution() -> None:
    generator = random.Random(4)
    rows = [ranks.ranks_of([generator.gauss(0, 1) for _ in range(4)]) for _ in range(600)]
    found = ranks.friedman(rows)
    assert found is not None
    assert found.kind == "chi_square"
    assert found.p == pytest.approx(stats.friedmanchisquare(*zip(*rows, strict=True)).pvalue)


@pytest.mark.parametrize("rows", [[], [[1.0, 2.0]], [[1.0], [1.0]], [[1.5, 1.5], [1.5, 1.5]]])
def test_friedman_needs_two_units_two_methods_and_a_difference(rows: list[list[float]]) -> None:
    assert ranks.friedman(rows) is None


def _all_signs(differences: Sequence[float]) -> float:
    """Return the two-sided signed-rank p by counting all patterns of signs."""
    counted = [difference for difference in differences if difference]
    of_size = ranks.ranks_of([abs(difference) for difference in counted], higher_is_better=False)
    observed = abs(sum(math.copysign(rank, value) for rank, value in zip(of_size, counted, strict=True)))
    sums = [
        abs(sum(sign * rank for sign, rank in zip(signs, of_size, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(counted))
    ]
    return sum(total >= observed - 1e-9 for total in sums) / len(sums)


@pytest.mark.parametrize(
    "differences",
    [
        [0.5, -0.2, 0.7, 1.1, -0.1, 0.4],
        [1.0, 1.0, -1.0, 2.0, 2.0, 3.0, 0.0],  # ties, and a zero
        [0.1 + 0.2, -0.3, 0.6, 0.5],  # equal sizes but for the last bit
        [row[1] - row[0] for row in DEMSAR[:10]],
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    ],
)
def test_signed_rank_p_counts_all_patterns_of_signs(differences: list[float]) -> None:
    rounded = [round(difference, 9) for difference in differences]
    assert ranks.signed_rank_p(differences) == pytest.approx(_all_signs(rounded))
    assert ranks.signed_rank_p([-difference for difference in differences]) == ranks.signed_rank_p(differences)


def test_signed_rank_p_equals_scipys_without_ties() -> None:
    generator = random.Random(5)
    for n in (1, 2, 7, 20, 45):
        differences = [generator.gauss(0.3, 1) for _ in range(n)]
        reference = stats.wilcoxon(differences, method="exact").pvalue
        assert ranks.signed_rank_p(differences) == pytest.approx(reference)


def test_signed_rank_p_of_nothing_and_of_equal_values() -> None:
    assert ranks.signed_rank_p([]) is None
    assert ranks.signed_rank_p([0.0, 0.0]) == 1.0


def test_needed_units_are_the_fewest_that_can_differ_after_holm() -> None:
    for pairs in (1, 3, 6, 45):
        needed = ranks.units_needed(pairs, 0.05)
        smallest = [ranks.signed_rank_p([float(index) for index in range(1, n + 1)]) for n in (needed - 1, needed)]
        assert smallest[0] is not None
        assert smallest[1] is not None
        assert smallest[1] * pairs < 0.05 <= smallest[0] * pairs


def test_cliques_are_the_largest_groups_of_neighbours_of_which_no_pair_differs() -> None:
    differing = {(0, 2), (0, 3), (1, 3), (0, 4), (1, 4), (2, 4), (3, 4)}
    assert ranks.cliques(5, lambda one, other: (one, other) in differing) == [range(0, 2), range(1, 3), range(2, 4)]
    assert ranks.cliques(4, lambda one, other: False) == [range(0, 4)]
    assert ranks.cliques(3, lambda one, other: True) == []
    # A pair within a group differs although its ends do not.
    assert ranks.cliques(3, lambda one, other: (one, other) == (0, 1)) == [range(1, 3)]


def test_bootstrap_is_the_same_at_every_call_and_contains_the_mean() -> None:
    settings = [
        [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]],
        [[1.0, 3.0, 2.0]],
        [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [3.0, 1.0, 2.0]],
    ]
    found = ranks.bootstrap(settings)
    assert found is not None
    assert found == ranks.bootstrap(settings)
    means = ranks.mean_row([ranks.mean_row(rows) for rows in settings])
    for interval, mean in zip(found, means, strict=True):
        assert 1 <= interval.low <= mean <= interval.high <= 3
        assert interval.low < interval.high


def test_bootstrap_of_one_setting_draws_its_seeds() -> None:
    rows = [[1.0, 2.0]] * 6 + [[2.0, 1.0]] * 2
    found = ranks.bootstrap([rows])
    assert found is not None
    # The mean of eight draws with a chance of 1/4 of rank 2.
    low, high = stats.binom.ppf([0.025, 0.975], 8, 0.25) / 8
    assert (found[0].low, found[0].high) == pytest.approx((1 + low, 1 + high), abs=0.13)


def test_bootstrap_of_settings_with_one_seed_draws_the_settings() -> None:
    found = ranks.bootstrap([[[1.0, 2.0]]] * 10)
    assert found is not None
    assert [(interval.low, interval.high) for interval in found] == [(1.0, 1.0), (2.0, 2.0)]
    assert ranks.bootstrap([[[1.0, 2.0]]]) is None
