"""The simulation of ``seeds: {until: decided}``: it decides as the rule does, and keeps its error at small size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.sequential.campaigns import (
    NOISES,
    RULE,
    SPREAD,
    VERDICTS,
    decide_many,
    differences,
    measure,
    measure_family,
)
from benchmarks.sequential.command import exponent
from benchmarks.sequential.races import SETTINGS, measure_race
from benchmarks.sequential.tables import report
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
    text = report([row], [row], [family], [measure_race("normal", "steps", 5)], {1.0: [row]})
    assert text.count("| normal | ") == 4
    assert family.runs <= family.most_runs == 60


def test_another_exponent_ends_with_its_block() -> None:
    before = spending.RHO
    with exponent(3.0):
        assert spending.RHO == 3.0
    assert before == spending.RHO


@pytest.mark.parametrize("settings", SETTINGS)
def test_races_keep_their_error_and_agree_with_the_rule(settings: str) -> None:
    race = measure_race("normal", settings, 60)
    assert race.checked == 20
    assert race.false <= RULE.alpha + 3 * math.sqrt(RULE.alpha * (1 - RULE.alpha) / 60)
    assert race.best == 0
    if settings == "all equal":
        assert race.lost == 0
    else:
        assert race.lost > 0.9
        assert race.seeds < RULE.most
