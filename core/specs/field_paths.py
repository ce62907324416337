"""Access to a field of plain data by its path: ``training.epochs``, ``methods.1.params.alpha``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.specs.problems import Problem, SpecError

MAX_PATH = 200
"""Characters of a path; the paths of a spec's fields are much shorter."""


def with_field(data: Any, path: str, value: Any) -> Any:
    """Return a copy of the data with one field changed. Missing mappings on the path are made; list items must exist.

    Args:
        data: The data.
        path: Names separated by dots. Items of a list count from 0.
        value: The new value.

    Raises:
        SpecError: The path is empty, or leads through a value that has no fields.
    """
    if len(path) > MAX_PATH:
        raise SpecError([Problem(path[:MAX_PATH], f"a path of a field has at most {MAX_PATH} characters")])
    parts = path.split(".")
    if not all(parts):
        raise SpecError([Problem(path, "name a field by its path, such as training.epochs")])
    return _with_value(data, parts, value, path)


def with_fields(data: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of the data with several fields changed, in the order of the changes."""
    for path, value in changes.items():
        data = with_field(data, path, value)
    return data


def field_at(data: Any, path: str) -> Any:
    """Return the value of a field or of a list's item; None if it does not exist."""
    for part in path.split("."):
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list | tuple) and part.isascii() and part.isdecimal() and int(part) < len(data):
            data = data[int(part)]
        else:
            return None
    return data


def _with_value(data: Any, parts: Sequence[str], value: Any, path: str) -> Any:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if isinstance(data, Mapping) or data is None:
        fields = dict(data or {})
        fields[head] = _with_value(fields.get(head), rest, value, path)
        return fields
    if isinstance(data, list | tuple):
        if not (head.isascii() and head.isdecimal()) or int(head) >= len(data):
            raise SpecError([Problem(path, f"{head!r} is no item of a list of {len(data)}; items count from 0")])
        items = list(data)
        items[int(head)] = _with_value(items[int(head)], rest, value, path)
        return items
    if isinstance(data, str):  # a bare name is short for {name: …}
        return _with_value({"name": data}, parts, value, path)
    raise SpecError([Problem(path, f"{head!r} leads through {str(data)[:100]!r}, which has no fields")])
