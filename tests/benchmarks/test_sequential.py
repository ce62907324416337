"""The simulation of ``seeds: {until: decided}``: it decides as the rule does, and keeps its error at small size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import sequential as benchmark
from benchmarks.sequential import NOISES, RULE, SPREAD, VERDICTS, decide_many, differences, measure, measure_family
from common.sequential import spending
from common.sequential.decision import decide

CAMPAIGNS = 150


@pytest.mark.parametrize("noise", NOISES)
def test_many_campaigns_are_decided_as_one_is(noise: str) -> None:
    for effect in (0.0, 0.25, 0.5):
        values = differences(np.random.default_rng(3), NOISES[noise], (15, RULE.most), effect, SPREAD)
        verdicts, seeds = decide_many(values, RULE)
        for row, verdict, count in zip(values, verdicts, seeds, strict=True):
            (decision,) = decide([row.tolist()], RULE)
            assert (decision.verdict, decision.seeds) == (VERDICTS[verdict], count)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("effect", [0.0, RULE.difference])
def test_false_claims_are_rare_and_the_spread_is_that_of_the_table(noise: str, effect: float) -> None:
    row = measure(noise, effect, SPREAD, CAMPAIGNS)
    assert row.false <= RULE.alpha + 3 * math.sqrt(RULE.alpha * (1 - RULE.alpha) / CAMPAIGNS)
    assert sum(row.verdicts.values()) == pytest.approx(1)
    assert RULE.first < row.seeds < RULE.most
    values = differences(np.random.default_rng(4), NOISES[noise], (20_000, 2), effect, SPREAD)
    assert values.mean() == pytest.approx(effect, abs=0.02)
    assert values.std() == pytest.approx(SPREAD, rel=0.1)


def test_the_table_names_every_setting() -> None:
    row, family = measure("normal", 1.0, SPREAD, 20), measure_family("normal", (0.0, 1.0), 5)
    text = benchmark.report([row], [row], [family], {1.0: [row]})
    assert text.count("| normal | ") == 3
    assert family.runs <= family.most_runs == 60


def test_another_exponent_ends_with_its_block() -> None:
    before = spending.RHO
    with benchmark.exponent(3.0):
        assert spending.RHO == 3.0
    assert before == spending.RHO
