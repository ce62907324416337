"""Seeds until it is known: critical values, the sign-flip test over several looks, and the decisions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import t as student_t

from backend.comparisons.statistics import sign_flip_p
from common.sequential import sign_flips
from common.sequential.decision import Decision, Rule, decide
from common.sequential.spending import Schedule, schedule
from common.sequential.student import critical_values

RULE = Rule(first=3, most=20, difference=1.0, alpha=0.05)
NORMAL = np.random.default_rng(7).standard_normal((40, 20))


def every_look(first: int, most: int, level: float) -> Schedule:
    return schedule([(n, n) for n in range(first, most + 1)], most, level)


def one(history: list[float | None], rule: Rule = RULE) -> Decision:
    (decision,) = decide([history], rule)
    return decision


def test_a_single_look_has_the_critical_value_of_the_t_test() -> None:
    (critical,) = critical_values(((9, 0.05),))
    assert critical == pytest.approx(student_t.ppf(0.975, 8), rel=1e-6)


@pytest.mark.parametrize(("first", "most", "level"), [(3, 20, 0.05), (3, 12, 0.005), (2, 8, 0.05)])
def test_normal_values_cross_the_critical_values_as_often_as_the_schedule_says(
    first: int, most: int, level: float
) -> None:
    looks = every_look(first, most, level)
    critical = dict(zip((n for n, _ in looks), critical_values(looks), strict=True))
    values = np.random.default_rng(1).standard_normal((200_000, most))
    crossed = np.zeros(len(values), dtype=bool)
    for n, spent in looks:
        seen = values[:, :n]
        statistic = np.abs(seen.mean(axis=1)) / (seen.std(axis=1, ddof=1) / math.sqrt(n))
        crossed |= statistic > critical[n]
        sd = math.sqrt(spent * (1 - spent) / len(values))
        assert crossed.mean() == pytest.approx(spent, abs=4 * sd + 0.002 * spent)


def test_looks_may_be_skipped_and_several_values_may_come_at_once() -> None:
    looks = schedule([(3, 3), (7, 8), (11, 12)], 12, 0.05)
    critical = critical_values(looks)
    values = np.random.default_rng(2).standard_normal((200_000, 11))
    crossed = np.zeros(len(values), dtype=bool)
    for (n, _), bound in zip(looks, critical, strict=True):
        crossed |= np.abs(values[:, :n].mean(axis=1)) / (values[:, :n].std(axis=1, ddof=1) / math.sqrt(n)) > bound
    assert crossed.mean() == pytest.approx(0.05, abs=0.002)


def test_a_smaller_level_has_greater_critical_values() -> None:
    levels = [0.05 / comparisons for comparisons in range(1, 8)]
    values = [critical_values(every_look(3, 20, level)) for level in levels]
    assert all(
        smaller < greater
        for one, other in itertools.pairwise(values)
        for smaller, greater in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("sizes", [NORMAL[0][:10], np.round(NORMAL[1][:10], 1), np.ones(10)])
def test_at_most_the_spent_part_of_all_sign_patterns_is_rejected(sizes: np.ndarray) -> None:
    # Given the sizes, the patterns are all that can happen if two methods do not differ.
    looks = every_look(3, 10, 0.05)
    patterns = [np.abs(sizes) * signs for signs in itertools.product((1.0, -1.0), repeat=10)]
    for count in range(1, len(looks) + 1):
        rejected = sum(sign_flips.rejects(list(pattern), looks[:count]) for pattern in patterns)
        assert rejected / len(patterns) <= looks[count - 1][1] + 1e-12
    assert rejected > 0


@pytest.mark.parametrize("row", range(8))
def test_one_look_of_the_sign_flip_test_is_the_ordinary_one(row: int) -> None:
    differences = list(NORMAL[row][:9] + 0.6)
    p = sign_flip_p(differences)
    assert p is not None
    for level in (0.01, 0.05, 0.1, 0.3):
        assert sign_flips.rejects(differences, ((9, level),)) == (p <= level)


def test_more_values_than_can_be_counted_are_drawn_and_keep_the_error() -> None:
    looks = schedule([(20, 20), (26, 26)], 26, 0.05)
    generator = np.random.default_rng(5)
    rejected = sum(sign_flips.rejects(list(generator.standard_normal(26)), looks) for _ in range(12))
    assert rejected <= 3  # of 12, expected less than one
    assert sign_flips.rejects([1.0 + 0.01 * n for n in range(26)], looks)


def test_a_clear_difference_is_decided_long_before_the_most() -> None:
    decision = one([2.0 + 0.3 * value for value in NORMAL[0]])
    assert decision.verdict == "higher"
    assert decision.seeds == 8  # the fewest for which the exact test can reject
    assert decision.looks[-1].low is not None
    assert decision.looks[-1].low > 0


def test_a_method_that_is_worse_is_lower() -> None:
    assert one([-2.0 - 0.3 * value for value in NORMAL[0]]).verdict == "lower"


def test_no_difference_is_decided_by_an_interval_within_the_margin() -> None:
    decision = one([0.02 + 0.2 * value for value in NORMAL[3]])
    last = decision.looks[-1]
    assert decision.verdict == "no difference"
    assert decision.seeds < RULE.most
    assert last.low is not None
    assert last.high is not None
    assert -RULE.difference < last.low < 0 < last.high < RULE.difference


def test_a_wide_spread_cannot_be_decided_with_the_most_seeds() -> None:
    decision = one([5.0 * value for value in NORMAL[5]])
    assert (decision.verdict, decision.seeds) == ("cannot tell", 20)


def test_before_the_first_look_nothing_is_decided() -> None:
    assert one([9.0, 9.1]) == Decision("undecided", 0, (), ())
    assert decide([], RULE) == []


def test_equal_methods_are_decided_although_their_differences_have_no_spread() -> None:
    assert one([0.0] * 20).verdict == "no difference"
    decision = one([0.3] * 20)  # every seed gives the same difference
    assert (decision.verdict, decision.seeds) == ("higher", 8)


@pytest.mark.parametrize("row", range(10))
def test_later_seeds_do_not_change_a_decision(row: int) -> None:
    history = [0.7 + 0.8 * value for value in NORMAL[row]]
    decision = one(history)
    assert one(history[: decision.seeds]) == decision
    if decision.verdict != "cannot tell":
        assert one(history[: decision.seeds - 1]).verdict == "undecided"


def test_a_pair_that_cannot_be_had_is_named_and_its_look_happens_without_it() -> None:
    history: list[float | None] = [2.0 + 0.3 * value for value in NORMAL[0]]
    history[4] = None
    decision = one(history)
    assert decision.verdict == "higher"
    assert decision.missing == (4,)
    at_five = decision.looks[2]
    assert (at_five.seeds, at_five.n, at_five.low) == (5, 4, None)  # nothing new, so nothing to look at
    assert decision.seeds == 9


def test_no_pair_at_all_decides_nothing() -> None:
    decision = one([None] * 20)
    assert decision.verdict == "cannot tell"
    assert decision.looks[-1].mean is None


def test_holm_lets_a_clear_comparison_help_the_next() -> None:
    # Alone, at half of alpha, the second comparison would need more seeds than beside one that is decided.
    weak = [0.8 + 0.7 * value for value in NORMAL[10]]
    clear = [4.0 + 0.2 * value for value in NORMAL[0]]
    noise = [9.0 * value for value in NORMAL[4]]
    beside_noise, beside_clear = decide([weak, noise], RULE)[0], decide([weak, clear], RULE)[0]
    assert beside_clear.verdict == beside_noise.verdict == "higher"
    assert beside_clear.seeds < beside_noise.seeds


def test_a_decided_comparison_needs_no_more_history_than_its_own() -> None:
    clear, weak = [4.0 + 0.2 * value for value in NORMAL[0]], [0.4 + value for value in NORMAL[2]]
    whole = decide([clear, weak], RULE)
    assert decide([clear[: whole[0].seeds], weak], RULE) == whole


def test_the_error_is_shared_by_all_comparisons() -> None:
    # 12 comparisons without any difference: a claim in any of them is an error.
    generator = np.random.default_rng(11)
    rule = Rule(first=3, most=12, difference=0.01, alpha=0.2)
    campaigns = 150
    wrong = 0
    for _ in range(campaigns):
        baseline, others = generator.standard_normal(12), generator.standard_normal((4, 12))
        decisions = decide([list(row - baseline) for row in others], rule)
        wrong += any(decision.verdict in ("higher", "lower") for decision in decisions)
    assert wrong / campaigns <= rule.alpha + 3 * math.sqrt(rule.alpha * (1 - rule.alpha) / campaigns)
