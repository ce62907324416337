"""The fields of a spec that a sweep can vary, and the values that a person types, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.plain_data import leaves
from dashboard.forms import yaml_import

_OF_ONE = ("name", "notes", "tags", "webhook", "priority", "resources", "seeds")
"""Fields that a sweep cannot vary, or that have no effect on results. Seeds are repetitions of every setting."""


def variable_paths(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the current value of each field that has a single value, by its path.

    Args:
        spec: A complete spec, as a preview returns it.
    """
    varied = {name: part for name, part in spec.items() if name not in _OF_ONE}
    return {
        path: value
        for path, value in leaves(varied)
        if not isinstance(value, Mapping | list | tuple)
        if not (path.startswith("methods.") and path.endswith(".label"))
    }


def parse_values(text: str) -> list[Any]:
    """Return the values that a person has typed, separated by commas, as YAML: ``0.01, 0.1`` or ``kd, dkd``.

    Raises:
        ValueError: There are no values, or the text is not a list; the message is a sentence for people.
    """
    if not text.strip():
        raise ValueError("Type at least one value.")
    try:
        parsed = yaml_import.parse_mapping(f"values: [{text}]")
    except ValueError:
        raise ValueError("Type values separated by commas, such as 0.01, 0.05, 0.1.") from None
    values = parsed.get("values")
    if set(parsed) != {"values"} or not isinstance(values, list) or not values:
        raise ValueError("Type values separated by commas, such as 0.01, 0.05, 0.1.")
    return values
