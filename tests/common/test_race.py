"""The race of a sweep: which setting is surely worse than another one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.sequential.decision import Rule
from common.sequential.race import better_setting

RULE = Rule(first=3, most=20, difference=1.0, alpha=0.05)
NOISE = np.random.default_rng(3).standard_normal((6, 20))


def values(row: int, mean: float) -> list[float | None]:
    return [mean + 0.3 * float(value) for value in NOISE[row]]


def test_a_setting_loses_to_one_that_is_surely_better() -> None:
    worse, good, better = values(0, 70.0), values(1, 80.0), values(2, 90.0)
    assert better_setting(worse, [good, better], RULE, "higher") == 0
    assert better_setting(good, [worse, better], RULE, "higher") == 1
    assert better_setting(better, [worse, good], RULE, "higher") is None
    assert better_setting(better, [worse, good], RULE, "lower") == 0


def test_nothing_is_raced_without_a_better_direction_or_another_setting() -> None:
    assert better_setting(values(0, 70.0), [values(1, 80.0)], RULE, None) is None
    assert better_setting(values(0, 70.0), [], RULE, "higher") is None


def test_only_pairs_are_compared() -> None:
    own, other = values(0, 70.0), values(1, 80.0)
    assert better_setting(own, [other[:7]], RULE, "higher") is None, "seven pairs decide nothing at this level"
    assert better_setting(own, [other[:8]], RULE, "higher") == 0
    gaps = [None if seed in (2, 5) else value for seed, value in enumerate(other)]
    assert better_setting(own[:9], [gaps], RULE, "higher") is None
    assert better_setting(own[:10], [gaps], RULE, "higher") == 0


@pytest.mark.parametrize(("settings", "fewest"), [(2, 8), (4, 10), (8, 12)])
def test_more_settings_need_more_pairs(settings: int, fewest: int) -> None:
    own, others = values(0, 70.0), [values(1 + row % 5, 80.0 + row) for row in range(settings - 1)]
    assert better_setting(own[: fewest - 1], others, RULE, "higher") is None
    assert better_setting(own[:fewest], others, RULE, "higher") == 0


def test_settings_that_do_not_differ_lose_no_more_often_than_alpha() -> None:
    rule = Rule(first=3, most=12, difference=1.0, alpha=0.2)
    generator = np.random.default_rng(9)
    races, lost = 150, 0
    for _ in range(races):
        histories = [list(row) for row in generator.standard_normal((4, rule.most))]
        lost += any(
            better_setting(own, [other for other in histories if other is not own], rule, "higher") is not None
            for own in histories
        )
    assert lost / races <= rule.alpha + 3 * math.sqrt(rule.alpha * (1 - rule.alpha) / races)
