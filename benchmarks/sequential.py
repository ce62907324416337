"""Simulated campaigns of ``seeds: {until: decided}``: false claims, coverage, and seeds against a fixed number.

    python -m benchmarks sequential [--campaigns 100000] [--families 10000] [--write]

A campaign is an experiment that adds seeds until a method's comparison with the baseline is decided. Both runs of a
seed share the seed's effect, so that their values correlate. The true difference is nothing, half and the whole of the
rule's ``difference``; at the whole, "no difference of this size or more" is false. The decisions are those of
``common.sequential.decision.decide``, computed for many campaigns at once; on a part of them ``decide`` itself is
called too, and must agree.

``--write`` stores the tables in ``benchmarks/results/sequential.{md,json}``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from common.sequential import sign_flips, spending
from common.sequential.decision import Rule, Verdict, decide
from common.sequential.spending import schedule
from common.sequential.student import critical_values

RESULTS = Path(__file__).parent / "results"
RULE = Rule(first=3, most=20, difference=0.5, alpha=0.05)
VERDICTS: tuple[Verdict, ...] = ("higher", "lower", "no difference", "cannot tell")
SPREAD = 0.5
"""Standard deviation of the paired differences, in the unit of the rule's difference."""
CORRELATION = 0.5
"""Correlation of the two runs of a seed."""
_SEED = 23
_BATCH = 20_000
_CHECKED = 500
"""Campaigns of each row that are also decided by ``decide``."""
_LARGEST_FIXED = 80
_RHOS = (1.0, 1.5, 2.0, 3.0)

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
            if all(sign_flips.rejects((row - end).tolist(), looks) for end in (-rule.difference, rule.difference)):
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
    values = differences(np.random.default_rng(_SEED + 1), noise, (campaigns, _LARGEST_FIXED), effect, spread)
    true = true_claims(effect, rule)
    for n in range(rule.first, _LARGEST_FIXED + 1):
        seen = values[:, :n]
        half = float(stdtrit(n - 1, 1 - rule.alpha / 2)) * seen.std(axis=1, ddof=1) / math.sqrt(n)
        low, high = seen.mean(axis=1) - half, seen.mean(axis=1) + half
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
    noise, source = NOISES[name], np.random.default_rng(_SEED)
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
    noise, source = NOISES[name], np.random.default_rng(_SEED)
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


@contextmanager
def exponent(rho: float) -> Iterator[None]:
    """Use another exponent of the spending function for the duration of the block."""
    before = spending.RHO
    spending.RHO = rho
    try:
        yield
    finally:
        spending.RHO = before


def mixture_half_width(n: int, alpha: float, c2: float) -> float:
    """Return the half width, in standard errors, of the confidence sequence without an end (Wang and Ramdas 2023).

    It holds at every n without a most. The likelihood ratio of the scale-invariant t test is mixed over a normal
    effect size of variance 1/c²; the value is infinite while no interval is bounded.
    """
    r = ((n + c2) / (c2 * alpha**2)) ** (1 / n)
    bound = n + c2 - r * c2
    return math.inf if bound <= 0 else math.sqrt((r - 1) * (n + c2) / bound) * math.sqrt(n - 1)


def widths(rule: Rule = RULE) -> list[dict[str, float]]:
    """Return half widths in standard errors: of one t interval, of these looks, and without a most."""
    looks = schedule([(n, n) for n in range(rule.first, rule.most + 1)], rule.most, rule.alpha)
    critical = dict(zip((n for n, _ in looks), critical_values(looks), strict=True))
    return [
        {
            "n": n,
            "one look": float(stdtrit(n - 1, 1 - rule.alpha / 2)),
            "these looks": critical[n],
            "without a most": min(mixture_half_width(n, rule.alpha, c2) for c2 in np.geomspace(0.01, 10, 200)),
        }
        for n in (3, 5, 8, 10, 15, 20)
    ]


def report(
    rows: Sequence[Row], spreads: Sequence[Row], families: Sequence[Family], rhos: Mapping[float, Sequence[Row]]
) -> str:
    """Return the tables in Markdown."""
    rule = RULE
    lines = [
        "# Seeds until it is known: simulated campaigns",
        "",
        f"`python -m benchmarks sequential --campaigns {rows[0].campaigns} --families {families[0].campaigns} --write` "
        f"writes this file; the numbers do not depend on the machine. Rule: first {rule.first}, most {rule.most}, "
        f"difference {rule.difference:g}, alpha {rule.alpha:g}. The differences of a pair have the standard deviation "
        f"{SPREAD:g}, the two runs of a seed the correlation {CORRELATION:g}.",
        "",
        f"## One comparison, {rows[0].campaigns:,} campaigns a row",
        "",
        "False: the campaign claimed something that is not true. Covered: the intervals of all looks contain the true "
        "difference. Fixed: the fewest seeds, fixed in advance, with which one ordinary t interval makes a true claim "
        f"as often. In each row `decide` itself agreed on {rows[0].checked} campaigns.",
        "",
        *_rows_table(rows, spread=False),
        "",
        f"## Other spreads, {spreads[0].campaigns:,} campaigns a row",
        "",
        *_rows_table(spreads, spread=True),
        "",
        f"## Several methods against one baseline, {families[0].campaigns:,} experiments a row",
        "",
        "False: a claim about any of the methods is not true. True: share of the methods with a true claim.",
        "",
        "| noise | true differences | false | true | runs | of at most |",
        "|---|---|--:|--:|--:|--:|",
        *(
            f"| {item.noise} | {', '.join(f'{effect:g}' for effect in item.effects)} | {_percent(item.false)} | "
            f"{_percent(item.true)} | {item.runs:.1f} | {item.most_runs} |"
            for item in families
        ),
        "",
        "## Half width of the interval, in standard errors",
        "",
        "One look: an ordinary 95 % t interval. Without a most: the best over its parameter, at each n, of the "
        "confidence sequence of Wang and Ramdas (2023), which holds for any number of seeds.",
        "",
        "| pairs | one look | these looks | without a most |",
        "|--:|--:|--:|--:|",
        *(
            f"| {item['n']} | {item['one look']:.2f} | {item['these looks']:.2f} | {item['without a most']:.2f} |"
            for item in widths()
        ),
        "",
        "## The exponent of the spending function",
        "",
        "Normal noise; true claims and mean seeds, by the true difference.",
        "",
        "| exponent | " + " | ".join(f"{row.difference:g}: true | seeds" for row in next(iter(rhos.values()))) + " |",
        "|--:|" + "--:|--:|" * len(next(iter(rhos.values()))),
        *(
            f"| {rho:g} | " + " | ".join(f"{_percent(_true(row))} | {row.seeds:.1f}" for row in measured) + " |"
            for rho, measured in rhos.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _rows_table(rows: Sequence[Row], *, spread: bool) -> list[str]:
    columns = [
        "noise",
        *(["sd"] if spread else []),
        "true difference",
        "higher",
        "lower",
        "no difference",
        "cannot tell",
    ]
    columns += ["false", "covered", "seeds", "fixed"]
    text = 1
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * text}{'--:|' * (len(columns) - text)}",
        *(
            f"| {row.noise} |{f' {row.spread:g} |' if spread else ''} {row.difference:g} | "
            f"{' | '.join(_percent(row.verdicts[name]) for name in VERDICTS)} | **{_percent(row.false)}** | "
            f"{_percent(row.covered)} | {row.seeds:.1f} | {row.fixed or f'> {_LARGEST_FIXED}'} |"
            for row in rows
        ),
    ]


def _true(row: Row) -> float:
    return sum(row.verdicts[name] for name in true_claims(row.difference, RULE))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def main(arguments: Sequence[str] = ()) -> None:
    """Run the simulation and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sequential", description=_DESCRIPTION)
    parser.add_argument("--campaigns", type=int, default=100_000, metavar="N", help="campaigns a row; default: 100000")
    parser.add_argument("--families", type=int, default=10_000, metavar="N", help="experiments a row; default: 10000")
    parser.add_argument("--write", action="store_true", help="store the tables in benchmarks/results")
    options = parser.parse_args(arguments)
    whole = RULE.difference
    rows = []
    for name in NOISES:
        for effect in (0.0, whole / 2, whole):
            rows.append(measure(name, effect, SPREAD, options.campaigns))
            _progress(f"{name}, {effect:g}: false {_percent(rows[-1].false)}, {rows[-1].seeds:.1f} seeds")
    fewer = max(1, options.campaigns // 10)
    spreads = [measure("normal", effect, spread, fewer) for spread in (0.2, 1.0) for effect in (0.0, whole / 2, whole)]
    _progress("spreads measured")
    families = [
        measure_family(name, effects, options.families)
        for name in NOISES
        for effects in ((0.0, 0.0, 0.0), (0.0, 0.0, 2 * whole), (whole, whole, whole))
    ]
    _progress("families measured")
    rhos = {}
    for rho in _RHOS:
        with exponent(rho):
            effects = (0.0, whole / 2, whole, 2 * whole)
            rhos[rho] = [measure("normal", effect, SPREAD, fewer) for effect in effects]
    text = report(rows, spreads, families, rhos)
    print(text)
    if options.write:
        (RESULTS / "sequential.md").write_text(text, encoding="utf-8")
        record = {
            "rule": asdict(RULE),
            "rows": [asdict(row) for row in rows],
            "spreads": [asdict(row) for row in spreads],
            "families": [asdict(item) for item in families],
            "widths": widths(),
            "exponents": {f"{rho:g}": [asdict(row) for row in measured] for rho, measured in rhos.items()},
        }
        (RESULTS / "sequential.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


_DESCRIPTION = "Simulate campaigns that add seeds until a comparison is decided."


def _progress(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
