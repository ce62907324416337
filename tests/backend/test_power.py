"""The number of seeds, compared with scipy's distributions and with simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from backend.comparisons import power


@pytest.mark.parametrize("n", [4, 5, 10])
def test_sd_interval_is_the_chi_square_interval(n: int) -> None:
    low, high = power.sd_interval(2.0, n)
    assert low == pytest.approx(2.0 * np.sqrt((n - 1) / stats.chi2.ppf(0.975, n - 1)))
    assert high == pytest.approx(2.0 * np.sqrt((n - 1) / stats.chi2.ppf(0.025, n - 1)))


def test_sd_interval_covers_at_its_level() -> None:
    samples = np.random.default_rng(0).normal(0, 1.5, (4000, 4))
    inside = sum(low <= 1.5 <= high for low, high in (power.sd_interval(sd, 4) for sd in samples.std(axis=1, ddof=1)))
    assert inside / 4000 == pytest.approx(0.95, abs=0.014)


@pytest.mark.parametrize(("n", "effect"), [(4, 1.0), (6, 1.4), (10, 0.3), (40, 0.5), (900, 2.0)])
def test_power_agrees_with_scipy(n: int, effect: float) -> None:
    critical = stats.t.ppf(0.975, n - 1)
    shift = effect * np.sqrt(n)
    expected = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert power.power_of(n, effect) == pytest.approx(expected, abs=1e-6)


def test_power_agrees_with_a_simulation() -> None:
    samples = np.random.default_rng(1).normal(1.0, 1.0, (4000, 10))
    seen = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert power.power_of(10, 1.0) == pytest.approx(seen.mean(), abs=0.03)


@pytest.mark.parametrize(("effect", "n"), [(1.0, 10), (0.5, 34), (3.0, 6), (0.05, None)])
def test_seeds_for_returns_the_fewest_with_enough_power(effect: float, n: int | None) -> None:
    seeds = power.seeds_for(effect, 1.0)
    assert seeds == n
    if n is not None and n > 6:
        assert power.power_of(n, effect) >= 0.8 > power.power_of(n - 1, effect)


def test_seeds_needed_requires_four_pairs_and_returns_a_range() -> None:
    assert power.seeds_needed(0.5, 0.4, 3) is None
    assert power.seeds_needed(0.5, 0.0, 5) is None
    assert power.seeds_needed(0.5, None, 5) is None
    needed = power.seeds_needed(0.5, 0.4, 4)
    assert needed is not None
    assert needed.sd_low < 0.4 < needed.sd_high
    assert (needed.low, needed.high) == (power.seeds_for(0.5, needed.sd_low), power.seeds_for(0.5, needed.sd_high))
    hopeless = power.seeds_needed(0.001, 0.4, 5)
    assert hopeless is not None
    assert hopeless.high is None
