"""What one setting changes: two experiments that differ in it alone, method by method and seed by seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.comparisons import experiment_keys
from backend.comparisons.sheets import escape_markdown
from benchmarks.result_pages import family
from benchmarks.result_pages.family import Row
from common.formatting import difference_unit
from core.protocol.comparisons import Comparison

_ABSENT = "not set"


@dataclass(frozen=True)
class Setting:
    """The field in which two specs differ.

    Attributes:
        path: Its path.
        first: Its value in the first spec, as text.
        second: Its value in the second spec, as text.
    """

    path: str
    first: str
    second: str


def find(first: Mapping[str, Any], second: Mapping[str, Any]) -> Setting | None:
    """Return the one field in which two specs differ; None if there is not just one, or if a method differs too.

    Seeds, and methods that only one of the specs has, do not count.
    """
    methods = [experiment_keys.methods(experiment_keys.with_defaults(dict(spec))) for spec in (first, second)]
    if any(methods[0][label] != methods[1][label] for label in methods[0].keys() & methods[1].keys()):
        return None
    one, other = (_flat(experiment_keys.setting(dict(spec))) for spec in (first, second))
    differing = [path for path in sorted(one | other) if one.get(path) != other.get(path)]
    if len(differing) != 1:
        return None
    (path,) = differing
    return Setting(path, *(_text(side.get(path)) for side in (one, other)))


def section(setting: Setting, first: Comparison, second: Comparison) -> str:
    """Return the section without its heading; empty if no method has a seed in both experiments.

    Args:
        setting: As of ``find``.
        first: Comparison of the first experiment.
        second: Comparison of the second one, of the same metric.
    """
    unit = difference_unit(first.unit)
    values = [{group.label: group.values for group in comparison.groups} for comparison in (first, second)]
    changes = {
        label: {seed: values[1][label][seed] - value for seed, value in found.items() if seed in values[1][label]}
        for label, found in values[0].items()
        if label in values[1]
    }
    changes = {label: found for label, found in changes.items() if found}
    if not changes or first.metric != second.metric:
        return ""
    rows = [Row(label, list(found.values()), first.better) for label, found in changes.items()]
    baseline = changes.get(first.baseline, {})
    gaps = [
        Row(f"gap of {label} to {first.baseline}", [found[seed] - baseline[seed] for seed in found if seed in baseline])
        for label, found in changes.items()
        if label != first.baseline and found.keys() & baseline.keys()
    ]
    family_rows = [*rows, *gaps]
    decisions = family.decided(family_rows)
    change = f"`{setting.path}` from {setting.first} to {setting.second}"
    about = (
        f"{escape_markdown(first.experiment)} and {escape_markdown(second.experiment)} differ in {change} alone. A row "
        "is the value with the second setting minus the value with the first, seed by seed; the change of a gap is "
        f"what the setting adds to the difference between a method and {escape_markdown(first.baseline)}. The tests of "
        "this section are a family of their own."
    )
    return "\n\n".join(
        [
            about,
            family.sentences(family_rows, decisions, unit),
            family.table(family_rows, "change [95 % interval]", unit),
        ]
    )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for name, inner in value.items():
            found |= _flat(inner, f"{path}.{name}" if path else str(name))
        return found
    return {} if value is None else {path: value}


def _text(value: Any) -> str:
    return _ABSENT if value is None else json.dumps(value, ensure_ascii=False)
