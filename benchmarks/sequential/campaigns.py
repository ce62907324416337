"""Campaigns of one comparison, and experiments of several methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from common.sequential import sign_flips
from common.sequential.decision import Rule, Verdict, decide
from common.sequential.spending import schedule
from common.sequential.student import critical_values

RULE = Rule(first=3, most=20, difference=0.5, alpha=0.05)
VERDICTS: tuple[Verdict, ...] = ("higher", "lower", "no difference", "cannot tell")
SPREAD = 0.5
"""Standard deviation of the paired differences, in the unit of the rule's difference."""
CORRELATION = 0.5
"""Correlation of the two runs of a seed."""
SEED = 23
_BATCH = 20_000
_CHECKED = 200
"""Campaigns of each row that are also decided by ``decide``."""
LARGEST_FIXED = 80

Values = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, ...]], Values]


def _normal(source: np.random.Generator, shape: tuple[int, ...]) -> Values:
    return source.standard_normal(shape)


def _heavy(source: np.random.Generator, shape: tuple[int, ...]) -> Values:
    return source.standard_t(3, shape) / math.sqrt(3)


def _collapses(source: np.random.Generator, shape: tuple[int, ...]) -> Values:
    """One training in 20 collapses: its value is six standard deviations lower."""
    size, part = 6.0, 0.05
    values = source.standard_normal(shape) - size * (source.random(shape) < part) + size * part
    return values / math.sqrt(1 + size**2 * part * (1 - part))


NOISES: Mapping[str, Noise] = {"normal": _normal, "t, 3 degrees of freedom": _heavy, "one in 20 collapses": _collapses}
"""Noise of a run around the effect of its seed, with variance 1."""


@dataclass(frozen=True)
class Row:
    """What the campaigns of one setting came to.

    Attributes:
        verdicts: Share of each verdict.
        false: Share of the campaigns that claimed something false.
        covered: Share of the campaigns in which the intervals of all looks contain the true difference.
        seeds: Mean number of seeds.
        fixed: The fewest seeds, fixed in advance, with which an ordinary t interval at the same alpha makes a true
            claim as often; None above 80.
        checked: Number of campaigns in which ``decide`` agreed.
    """

    noise: str
    difference: float
    spread: float
    campaigns: int
    verdicts: dict[Verdict, float]
    false: float
    covered: float
    seeds: float
    fixed: int | None
    checked: int


def differences(
    source: np.random.Generator, noise: Noise, shape: tuple[int, int], effect: float, spread: float
) -> Values:
    """Return paired differences: rows are campaigns, columns are seeds."""
    scale = spread / math.sqrt(2 * (1 - CORRELATION))
    seed = source.standard_normal(shape) * scale * math.sqrt(CORRELATION)
    own = scale * math.sqrt(1 - CORRELATION)
    method, baseline = seed + own * noise(source, shape) + effect, seed + own * noise(source, shape)
    result: Values = method - baseline
    return result


def intervals(values: Values, rule: Rule) -> Iterator[tuple[int, Values, Values]]:
    """Yield each look's number of seeds and the ends of its interval in every campaign."""
    looks = schedule([(n, n) for n in range(rule.first, rule.most + 1)], rule.most, rule.alpha)
    for (n, _), critical in zip(looks, critical_values(looks), strict=True):
        seen = values[:, :n]
        half = critical * seen.std(axis=1, ddof=1) / math.sqrt(n)
        mean = seen.mean(axis=1)
        yield n, mean - half, mean + half


def decide_many(values: Values, rule: Rule) -> tuple[Values, NDArray[np.int64]]:
    """Return the place of the verdict in ``VERDICTS`` and the number of seeds of each campaign.

    Only where the interval makes a claim, the sign-flip test is asked.
    """
    verdicts = np.full(len(values), VERDICTS.index("cannot tell"))
    seeds = np.full(len(values), rule.most)
    open_ = np.ones(len(values), dtype=bool)
    for n, low, high in intervals(values, rule):
        looks = schedule([(k, k) for k in range(rule.first, n + 1)], rule.most, rule.alpha)
        for index in np.flatnonzero(open_ & ((low > 0) | (high < 0))):
            if sign_flips.rejects(values[index, :n].tolist(), looks):
                verdicts[index], seeds[index] = VERDICTS.index("higher" if low[index] > 0 else "lower"), n
                open_[index] = False
        for index in np.flatnonzero(open_ & (low > -rule.difference) & (high < rule.difference)):
            row = values[index, :n]
            # The nearer end is the one that may not be rejected.
            nearer = math.copysign(rule.difference, low[index] + high[index])
            if all(sign_flips.rejects((row - end).tolist(), looks) for end in (nearer, -nearer)):
                verdicts[index], seeds[index] = VERDICTS.index("no difference"), n
                open_[index] = False
    return verdicts, seeds


def true_claims(effect: float, rule: Rule) -> tuple[Verdict, ...]:
    """Return the verdicts that are true; "cannot tell" claims nothing."""
    direction: tuple[Verdict, ...] = ("higher",) if effect > 0 else ("lower",) if effect < 0 else ()
    return (*direction, "no difference") if abs(effect) < rule.difference else direction


def fixed_number(
    noise: Noise, effect: float, spread: float, rule: Rule, power: float, campaigns: int = 20_000
) -> int | None:
    """Return the fewest seeds with which a single t interval makes a true claim with at least this probability."""
    values = differences(np.random.default_rng(SEED + 1), noise, (campaigns, LARGEST_FIXED), effect, spread)
    true = true_claims(effect, rule)
    sums, squares = np.cumsum(values, axis=1), np.cumsum(values**2, axis=1)
    for n in range(rule.first, LARGEST_FIXED + 1):
        mean = sums[:, n - 1] / n
        sd = np.sqrt(np.maximum(0.0, squares[:, n - 1] / n - mean**2) * n / (n - 1))
        half = float(stdtrit(n - 1, 1 - rule.alpha / 2)) * sd / math.sqrt(n)
        low, high = mean - half, mean + half
        claims = {
            "higher": low > 0,
            "lower": high < 0,
            "no difference": (-rule.difference < low) & (high < rule.difference),
        }
        if np.mean(np.any([claims[name] for name in true], axis=0)) >= power:
            return n
    return None


def measure(name: str, effect: float, spread: float, campaigns: int, rule: Rule = RULE) -> Row:
    """Simulate campaigns of one setting."""
    noise, source = NOISES[name], np.random.default_rng(SEED)
    counts: dict[Verdict, int] = dict.fromkeys(VERDICTS, 0)
    covered = seeds_used = checked = 0
    for start in range(0, campaigns, _BATCH):
        values = differences(source, noise, (min(_BATCH, campaigns - start), rule.most), effect, spread)
        verdicts, seeds = decide_many(values, rule)
        for index, verdict in enumerate(VERDICTS):
            counts[verdict] += int(np.count_nonzero(verdicts == index))
        seeds_used += int(seeds.sum())
        covered += int(
            np.all([(low <= effect) & (effect <= high) for _, low, high in intervals(values, rule)], axis=0).sum()
        )
        for index in range(max(0, min(len(values), _CHECKED - start))):
            (decision,) = decide([values[index].tolist()], rule)
            found = (VERDICTS[int(verdicts[index])], int(seeds[index]))
            if (decision.verdict, decision.seeds) != found:
                raise AssertionError(f"campaign {index}: {decision} is not {found}")
            checked += 1
    shares = {verdict: count / campaigns for verdict, count in counts.items()}
    true = true_claims(effect, rule)
    return Row(
        name,
        effect,
        spread,
        campaigns,
        shares,
        false=sum(share for verdict, share in shares.items() if verdict not in (*true, "cannot tell")),
        covered=covered / campaigns,
        seeds=seeds_used / campaigns,
        fixed=fixed_number(noise, effect, spread, rule, sum(shares[verdict] for verdict in true)),
        checked=checked,
    )


@dataclass(frozen=True)
class Family:
    """What experiments with several methods came to.

    Attributes:
        effects: True differences of the methods.
        false: Share of the experiments with a false claim about any method.
        true: Mean share of the methods with a true claim.
        runs: Mean number of runs, those of the baseline included.
        most_runs: The number of runs with the most seeds for every method.
    """

    noise: str
    effects: tuple[float, ...]
    campaigns: int
    false: float
    true: float
    runs: float
    most_runs: int


def measure_family(name: str, effects: Sequence[float], campaigns: int, rule: Rule = RULE) -> Family:
    """Simulate experiments whose methods share a baseline. A decided method gets no more seeds."""
    noise, source = NOISES[name], np.random.default_rng(SEED)
    scale = SPREAD / math.sqrt(2 * (1 - CORRELATION))
    own = scale * math.sqrt(1 - CORRELATION)
    false = true = runs = 0
    for _ in range(campaigns):
        baseline, *methods = own * noise(source, (1 + len(effects), rule.most))  # the seeds' effects cancel
        decisions = decide(
            [(row + effect - baseline).tolist() for row, effect in zip(methods, effects, strict=True)], rule
        )
        claims = [
            decision.verdict in true_claims(effect, rule)
            for decision, effect in zip(decisions, effects, strict=True)
            if decision.verdict != "cannot tell"
        ]
        false += not all(claims)
        true += sum(claims)
        runs += max(decision.seeds for decision in decisions) + sum(decision.seeds for decision in decisions)
    return Family(
        name,
        tuple(effects),
        campaigns,
        false=false / campaigns,
        true=true / campaigns / len(effects),
        runs=runs / campaigns,
        most_runs=rule.most * (1 + len(effects)),
    )
