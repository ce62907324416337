"""The fields in which two specs differ, as pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from common.formatting import NOTHING
from common.plain_data import leaves

_OF_ONE = frozenset(("name", "notes", "tags"))
"""Fields that belong to one experiment and have no effect on its results."""
_SAME = object()


def difference_rows(
    first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]
) -> list[dict[str, str]]:
    """Return one row per field in which two specs differ, in the order of the first.

    Methods are matched by their labels, so that another order of the methods is not a difference of each of them.

    Args:
        first: A spec.
        second: The other spec.
        names: Titles of their columns; they must differ.
    """
    left, right = dict(_fields(_with_teachers_training(first))), dict(_fields(_with_teachers_training(second)))
    return [
        {"Field": path, names[0]: _text(left.get(path, _SAME)), names[1]: _text(right.get(path, _SAME))}
        for path in [*left, *(path for path in right if path not in left)]
        if left.get(path, _SAME) != right.get(path, _SAME)
    ]


def _with_teachers_training(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec in which a teacher that is trained like the students has their training written out.

    A copy has it written out so that its teacher stays the same, which is no difference.
    """
    complete = dict(spec)
    teacher = spec.get("teacher")
    if isinstance(teacher, Mapping) and teacher.get("training") is None and "training" in spec:
        complete["teacher"] = {**teacher, "training": spec["training"]}
    return complete


def _fields(spec: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from leaves({name: value for name, value in spec.items() if name not in _OF_ONE}, name_of=_label_or_index)


def _label_or_index(index: int, item: Any) -> object:
    return (item.get("label") if isinstance(item, Mapping) else None) or index


def _text(value: Any) -> str:
    if value is _SAME:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
