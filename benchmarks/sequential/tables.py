"""The tables of the simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from benchmarks.sequential.campaigns import (
    CORRELATION,
    LARGEST_FIXED,
    RULE,
    SPREAD,
    VERDICTS,
    Family,
    Row,
    true_claims,
)
from benchmarks.sequential.races import SETTINGS, Race
from common.sequential.decision import Rule
from common.sequential.spending import schedule
from common.sequential.student import critical_values


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
    rows: Sequence[Row],
    spreads: Sequence[Row],
    families: Sequence[Family],
    races: Sequence[Race],
    rhos: Mapping[float, Sequence[Row]],
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
        f"## Other spreads and other noise, {spreads[0].campaigns:,} campaigns a row",
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
            f"| {item.noise} | {', '.join(f'{effect:g}' for effect in item.effects)} | {percent(item.false)} | "
            f"{percent(item.true)} | {item.runs:.1f} | {item.most_runs} |"
            for item in families
        ),
        "",
        f"## Races of {len(SETTINGS['steps'])} settings, {races[0].campaigns:,} races a row",
        "",
        f"Equal settings; one that is better by {SETTINGS['one is better'][0]:g} than all others; steps of "
        f"{SETTINGS['steps'][1]:g} from one to the next. False: a setting lost to one that is not better. Best lost: "
        "the best setting lost. Worse lost: share of the worse settings that lost. Seeds: mean over the settings, of "
        f"{rule.most}. In each row `better_setting` itself agreed on {races[0].checked} races.",
        "",
        "| noise | settings | false | best lost | worse lost | seeds |",
        "|---|---|--:|--:|--:|--:|",
        *(
            f"| {item.noise} | {item.settings} | **{percent(item.false)}** | {percent(item.best)} | "
            f"{percent(item.lost)} | {item.seeds:.1f} |"
            for item in races
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
            f"| {rho:g} | " + " | ".join(f"{percent(_true(row))} | {row.seeds:.1f}" for row in measured) + " |"
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
            f"{' | '.join(percent(row.verdicts[name]) for name in VERDICTS)} | **{percent(row.false)}** | "
            f"{percent(row.covered)} | {row.seeds:.1f} | {row.fixed or f'> {LARGEST_FIXED}'} |"
            for row in rows
        ),
    ]


def _true(row: Row) -> float:
    return sum(row.verdicts[name] for name in true_claims(row.difference, RULE))


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"
