"""Dose and response: methods of one experiment that differ in one number, such as the share of a term."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.comparisons import statistics
from backend.comparisons.sheets import escape_markdown
from benchmarks.result_pages import family, figures
from benchmarks.result_pages.family import Row
from common.formatting import difference_unit
from core.catalog import METHODS
from core.protocol.comparisons import Comparison

_LEAST_DOSES = 3

Values = Mapping[int, float]
"""Values by seed."""


@dataclass(frozen=True)
class Doses:
    """Methods with one name that differ in one number, and in at most one further setting.

    Attributes:
        parameter: Name of the number.
        other: Name of the further setting; empty if there is none.
        series: By the value of the further setting, the label of each method by its dose.
    """

    parameter: str
    other: str
    series: Mapping[str, Mapping[float, str]]

    def text(self, dose: float) -> str:
        """Return a dose as it is written in a sentence."""
        return f"{100 * dose:g} %" if self.is_share else f"{dose:g}"

    @property
    def is_share(self) -> bool:
        """Whether the number is a share, which is shown in per cent."""
        return self.parameter.endswith("share")


def find(methods: Sequence[Mapping[str, Any]]) -> Doses | None:
    """Return the doses among the methods of a spec; None if no method has three or more of a positive number."""
    for name in dict.fromkeys(method["name"] for method in methods):
        params = {
            method["label"]: dict(METHODS[name].params.model_validate(method["params"]))
            for method in methods
            if method["name"] == name
        }
        for parameter in next(iter(params.values())):
            found = _of_parameter(parameter, params)
            if found is not None:
                return found
    return None


def _of_parameter(parameter: str, params: Mapping[str, Mapping[str, Any]]) -> Doses | None:
    groups: dict[tuple[tuple[str, str], ...], dict[float, str]] = {}
    for label, given in params.items():
        dose = given[parameter]
        if isinstance(dose, bool) or not isinstance(dose, int | float) or dose <= 0:
            continue
        rest = tuple((name, str(value)) for name, value in given.items() if name != parameter)
        groups.setdefault(rest, {}).setdefault(float(dose), label)
    series = {rest: dict(sorted(doses.items())) for rest, doses in groups.items() if len(doses) >= _LEAST_DOSES}
    if not series:
        return None
    settings = [dict(rest) for rest in series]
    differing = [name for name in settings[0] if len({setting[name] for setting in settings}) > 1]
    if len(differing) > 1:
        return None
    other = differing[0] if differing else ""
    return Doses(parameter, other, {dict(rest).get(other, ""): doses for rest, doses in series.items()})


def section(doses: Doses, comparison: Comparison) -> tuple[str, str]:
    """Return the section without its heading, and its figure; both empty if a method has no values by seed."""
    values = {group.label: group.values for group in comparison.groups}
    labels = [label for of_series in doses.series.values() for label in of_series.values()]
    if not all(values.get(label) for label in [*labels, comparison.baseline]):
        return "", ""
    unit = difference_unit(comparison.unit)
    baseline = values[comparison.baseline]
    responses = {
        name: {dose: _paired(values[label], baseline) for dose, label in of_series.items()}
        for name, of_series in doses.series.items()
    }
    rows = [
        *_points(doses, responses, comparison),
        *(slopes := _slopes(doses, responses)),
        *_contrasts(doses, responses),
    ]
    decisions = [decision for row, decision in zip(rows, family.decided(rows), strict=True) if row in slopes]
    about = (
        f"Methods that differ {f'in `{doses.other}` and ' if doses.other else ''}in the number `{doses.parameter}` are "
        f"compared with {escape_markdown(comparison.baseline)}, seed by seed. A slope is fitted to the differences "
        "of each seed by least squares. The tests of this section are a family of their own."
    )
    text = "\n\n".join(
        [about, family.sentences(slopes, decisions, unit), family.table(rows, "mean [95 % interval]", unit)]
    )
    drawn = figures.doses(
        {
            name: [(dose, statistics.summarize(list(found.values()))) for dose, found in of_series.items()]
            for name, of_series in responses.items()
        },
        f"{doses.parameter} (%)" if doses.is_share else doses.parameter,
        f"difference to {comparison.baseline}{f' ({unit})' if unit else ''}",
        100.0 if doses.is_share else 1.0,
    )
    return text, drawn


Responses = Mapping[str, Mapping[float, Values]]
"""By series and dose, the differences to the baseline by seed."""


def _points(doses: Doses, responses: Responses, comparison: Comparison) -> list[Row]:
    return [
        Row(f"{_prefix(doses, name)}{doses.text(dose)}", list(found.values()), comparison.better)
        for name, of_series in responses.items()
        for dose, found in of_series.items()
    ]


def _slopes(doses: Doses, responses: Responses) -> list[Row]:
    """Return the change along the fitted line from the smallest to the largest dose, one value per seed."""
    rows = []
    for name, of_series in responses.items():
        least, most = min(of_series), max(of_series)
        seeds = _shared(of_series.values())
        changes = [
            (most - least) * _slope([(dose, found[seed]) for dose, found in of_series.items()]) for seed in seeds
        ]
        rows.append(Row(f"{_prefix(doses, name)}slope from {doses.text(least)} to {doses.text(most)}", changes))
    return rows


def _contrasts(doses: Doses, responses: Responses) -> list[Row]:
    """Return the first series minus the second at each dose that both have."""
    if len(responses) != 2:
        return []
    (first, of_first), (second, of_second) = responses.items()
    return [
        Row(f"{first} minus {second}, {doses.text(dose)}", list(_paired(of_first[dose], of_second[dose]).values()))
        for dose in of_first
        if dose in of_second
    ]


def _prefix(doses: Doses, name: str) -> str:
    return f"{name}, " if doses.other else ""


def _paired(values: Values, baseline: Values) -> dict[int, float]:
    return {seed: values[seed] - baseline[seed] for seed in sorted(values) if seed in baseline}


def _shared(found: Iterable[Values]) -> list[int]:
    return sorted(set.intersection(*(set(values) for values in found)))


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line of least squares."""
    centre = math.fsum(x for x, _ in points) / len(points)
    return math.fsum((x - centre) * y for x, y in points) / math.fsum((x - centre) ** 2 for x, _ in points)
