"""Races of a sweep's settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.sequential.campaigns import CORRELATION, NOISES, RULE, SEED, SPREAD, VERDICTS, Values, decide_many
from common.sequential.decision import Rule
from common.sequential.race import better_setting

SETTINGS: Mapping[str, tuple[float, ...]] = {
    "all equal": (0.0,) * 8,
    "one is better": (4 * RULE.difference, *(0.0,) * 7),
    "steps": tuple(RULE.difference * place for place in range(8)),
}
"""True values of the settings of a race."""


@dataclass(frozen=True)
class Race:
    """What races of a sweep came to.

    Attributes:
        settings: Name of the true values.
        false: Share of the races in which a setting lost to one that is not better.
        best: Share of the races in which the best setting lost; 0 if all are equal and it is counted by ``false``.
        lost: Share of the settings that are worse than the best, and lost.
        seeds: Mean number of seeds of a setting.
        checked: Number of races in which ``better_setting`` agreed.
    """

    noise: str
    settings: str
    campaigns: int
    false: float
    best: float
    lost: float
    seeds: float
    checked: int


def measure_race(name: str, settings: str, campaigns: int, rule: Rule = RULE) -> Race:
    """Simulate races of settings that share their seeds. A setting that loses gets no more of them."""
    noise, source, means = NOISES[name], np.random.default_rng(SEED), SETTINGS[settings]
    own = SPREAD / math.sqrt(2 * (1 - CORRELATION)) * math.sqrt(1 - CORRELATION)  # the seeds' effects cancel
    values = np.stack([mean + own * noise(source, (campaigns, rule.most)) for mean in means])
    pair = Rule(rule.first, rule.most, 1e-9, rule.alpha / math.comb(len(means), 2))
    never = rule.most + 1
    # The first look at which a setting is surely worse than another one, if both have come so far.
    looks = np.full((len(means), len(means), campaigns), never)
    for one in range(len(means)):
        for other in range(one):
            verdicts, seeds = decide_many(values[one] - values[other], pair)
            looks[one, other] = np.where(verdicts == VERDICTS.index("lower"), seeds, never)
            looks[other, one] = np.where(verdicts == VERDICTS.index("higher"), seeds, never)
    lost_at = np.full((len(means), campaigns), never)
    false = np.zeros(campaigns, dtype=bool)
    worse = np.array(means)[:, None] < np.array(means)[None, :]
    for look in range(rule.first, rule.most + 1):
        present = lost_at >= look
        losing = (looks == look) & present[:, None] & present[None, :]
        false |= (losing & ~worse[:, :, None]).any(axis=(0, 1))
        lost_at[losing.any(axis=1)] = look
    checked = min(campaigns, 20)
    for index in range(checked):
        _check_race(values[:, index], lost_at[:, index], rule)
    best = np.flatnonzero(np.array(means) == max(means))
    losers = [place for place in range(len(means)) if place not in best]
    return Race(
        name,
        settings,
        campaigns,
        false=float(false.mean()),
        best=float((lost_at[best] < never).any(axis=0).mean()) if losers else 0.0,
        lost=float((lost_at[losers] < never).mean()) if losers else 0.0,
        seeds=float(np.minimum(lost_at, rule.most).mean()),
        checked=checked,
    )


def _check_race(values: Values, lost_at: NDArray[np.int64], rule: Rule) -> None:
    """Run one race by ``better_setting``, seed by seed."""
    count = dict.fromkeys(range(len(values)), rule.first)
    racing = set(count)
    while racing:
        histories = {place: values[place, : count[place]].tolist() for place in count}
        losing = {
            place
            for place in racing
            if better_setting(histories[place], [histories[other] for other in count if other != place], rule, "higher")
            is not None
        }
        racing = {place for place in racing - losing if count[place] < rule.most}
        for place in racing:
            count[place] += 1
    found = [min(int(look), rule.most) for look in lost_at]
    if list(count.values()) != found:
        raise AssertionError(f"{list(count.values())} seeds are not {found}")
