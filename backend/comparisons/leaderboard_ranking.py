"""The ranks of a leaderboard's methods, their tests, and the methods without which more settings count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from backend.comparisons import ranks, statistics
from backend.comparisons.leaderboard_columns import Column
from common.formatting import SIGNIFICANCE, count_text, p_text
from core.protocol.comparisons import Interval
from core.protocol.leaderboards import FewerMethods, Ranking, RankPair, RankUnit

_MOST_LEFT_OUT = 8
"""Number of methods that a suggestion leaves out at most."""


@dataclass(frozen=True)
class Ranked:
    """The ranks of methods.

    Attributes:
        labels: The methods in the order of their mean ranks.
        mean_ranks: Their mean ranks, each setting with the same weight.
        intervals: Intervals of the mean ranks; None if there is one setting with one unit.
        columns: The settings that count.
        tests: The tests.
    """

    labels: Sequence[str]
    mean_ranks: Sequence[float]
    intervals: Sequence[Interval] | None
    columns: Sequence[Column]
    tests: Ranking


def rank(columns: Sequence[Column], labels: Sequence[str]) -> Ranked | None:
    """Rank the methods within the pairs of setting and seed for which all of them have a value.

    Args:
        columns: All settings.
        labels: The methods that are compared.

    Returns:
        None below two methods, and if no setting has all of them over a common seed.
    """
    counted = [column for column in columns if len(labels) > 1 and column.common_keys(labels)]
    if not counted:
        return None
    unsorted = ranks.mean_row([ranks.mean_row(column.unit_ranks(labels)) for column in counted])
    by_label = dict(zip(labels, unsorted, strict=True))
    # Rounding must not decide the order of equal mean ranks.
    ordered = sorted(labels, key=lambda label: (round(by_label[label], 9), label))
    unit_ranks = [column.unit_ranks(ordered) for column in counted]
    return Ranked(
        ordered,
        [by_label[label] for label in ordered],
        ranks.bootstrap(unit_ranks),
        counted,
        _tests(counted, ordered, unit_ranks),
    )


def _tests(columns: Sequence[Column], labels: Sequence[str], unit_ranks: Sequence[list[list[float]]]) -> Ranking:
    unit: RankUnit = "setting"
    rows = [ranks.mean_row(of_setting) for of_setting in unit_ranks]
    values = [ranks.mean_row(column.unit_values(labels)) for column in columns]
    tested = True
    if len(columns) == 1:
        (column,) = columns
        unit = "teacher" if len({block for block, _ in column.common_keys(labels)}) > 1 else "seed"
        rows, values = unit_ranks[0], column.unit_values(labels)
        # A test for a number of seeds that was fixed before does not apply.
        tested = not column.spec.by_looks
    friedman = ranks.friedman(rows) if tested else None
    pairs = _pairs(labels, values) if tested else []
    differing = {(pair.first, pair.second) for pair in pairs if pair.differs}
    groups = ranks.cliques(len(labels), lambda one, other: (labels[one], labels[other]) in differing)
    return Ranking(
        unit=unit,
        units=len(rows),
        blocks=sum(len(column.common_keys(labels)) for column in columns),
        friedman=friedman.statistic if friedman else None,
        friedman_p=friedman.p if friedman else None,
        friedman_kind=friedman.kind if friedman else None,
        critical_difference=ranks.critical_difference(len(labels), len(rows)) if tested else None,
        pairs=pairs,
        cliques=[[labels[index] for index in group] for group in groups] if tested else [],
    )


def _pairs(labels: Sequence[str], values: Sequence[Sequence[float]]) -> list[RankPair]:
    """Return the comparisons of all pairs, the one with the better mean rank first."""
    columns = dict(zip(labels, zip(*values, strict=True), strict=True))
    named = [(first, second) for index, first in enumerate(labels) for second in labels[index + 1 :]]
    differences = [
        [one - other for one, other in zip(columns[first], columns[second], strict=True)] for first, second in named
    ]
    alone = [ranks.signed_rank_p(of_pair) for of_pair in differences]
    adjusted = statistics.holm(alone)
    return [
        RankPair(
            first=first,
            second=second,
            wins=sum(difference > 0 for difference in of_pair),
            losses=sum(difference < 0 for difference in of_pair),
            ties=sum(difference == 0 for difference in of_pair),
            p=1.0 if p is None else p,
            p_holm=1.0 if p_holm is None else p_holm,
            differs=p_holm is not None and p_holm < SIGNIFICANCE,
        )
        for (first, second), of_pair, p, p_holm in zip(named, differences, alone, adjusted, strict=True)
    ]


def fewer_methods(columns: Sequence[Column], labels: Sequence[str]) -> list[FewerMethods]:
    """Return methods without which more settings count: the best to leave out first, then the best two, and so on.

    There are none below three methods, which includes settings in which nothing has finished.
    """
    if len(labels) < 3:
        return []
    present = [{label: set(method.values) for label, method in column.methods.items()} for column in columns]
    with_value = Counter(label for of_setting in present for label, keys in of_setting.items() if keys)

    def settings_with(kept: Sequence[str]) -> int:
        return sum(
            all(of_setting.get(label) for label in kept) and bool(set.intersection(*map(of_setting.__getitem__, kept)))
            for of_setting in present
        )

    kept, count = list(labels), settings_with(labels)
    without: list[str] = []
    found: list[FewerMethods] = []
    while len(kept) > 2 and count < len(columns) and len(without) < _MOST_LEFT_OUT:
        # If several are equally good to leave out, the method of the fewest settings goes.
        best, _, label = max(
            (settings_with([other for other in kept if other != label]), -with_value[label], label) for label in kept
        )
        without = [*without, label]
        kept.remove(label)
        if best > count:
            count = best
            found.append(FewerMethods(without=sorted(without), settings=count))
    return found


def sentences(ranked: Ranked) -> list[str]:
    """Return what the ranks are over, what the tests show, and what they cannot show."""
    tests = ranked.tests
    if tests.unit == "setting":
        over = (
            f"Mean ranks are over {count_text(tests.units, 'setting')} of the same weight, and within them over "
            f"{count_text(tests.blocks, 'pair')} of setting and seed; 1 is best, and equal values share a rank."
        )
    else:
        over = (
            f"Only one setting counts, so mean ranks are over its {count_text(tests.units, tests.unit)}: they say "
            "nothing of other settings. 1 is best, and equal values share a rank."
        )
    found = [over]
    if ranked.intervals is not None:
        is_few = tests.units < ranks.FEW_UNITS
        narrow = f" With fewer than {ranks.FEW_UNITS} {tests.unit}s they are too narrow." if is_few else ""
        drawn = "settings, and over the seeds within each" if tests.unit == "setting" else f"{tests.unit}s"
        found.append(
            f"Intervals of mean ranks are 95 % percentile bootstrap intervals over {drawn} ({ranks.DRAWS:,} resamples)."
            f"{narrow}"
        )
    if not tests.pairs:
        return [*found, "Seeds were added until comparisons were decided, so ranks over these seeds are not tested."]
    return [*found, *_friedman_sentence(tests), *_pair_sentences(tests)]


_KINDS = {"exact": "all permutations", "drawn": "19,999 permutations", "chi_square": "the χ² distribution"}


def _friedman_sentence(tests: Ranking) -> list[str]:
    if tests.friedman is None or tests.friedman_p is None or tests.friedman_kind is None:
        return []
    shows = "the methods differ" if tests.friedman_p < SIGNIFICANCE else "this does not show that the methods differ"
    return [
        f"Friedman's test over {count_text(tests.units, tests.unit)}: χ² = {tests.friedman:.2f}, "
        f"p = {p_text(tests.friedman_p)} by {_KINDS[tests.friedman_kind]}; {shows}."
    ]


def _pair_sentences(tests: Ranking) -> list[str]:
    pairs = len(tests.pairs)
    drawn = (
        "Bars of the critical-difference figure join methods of which no pair differs: exact Wilcoxon signed-rank "
        f"test over {count_text(tests.units, tests.unit)}, p < 0.05 after Holm over all {count_text(pairs, 'pair')}. "
        "Nemenyi's critical difference (CD) is drawn for comparison only: it depends on which other methods take part."
    )
    smallest = ranks.smallest_holm_p(tests.units, pairs)
    if smallest < SIGNIFICANCE:
        return [drawn]
    needed = ranks.units_needed(pairs, SIGNIFICANCE)
    return [
        drawn,
        f"No pair can differ yet: with {count_text(tests.units, tests.unit)} p after Holm is at least "
        f"{p_text(smallest, 2)}; {count_text(needed, tests.unit)} could show a difference.",
    ]
