"""Plain data, as JSON or YAML have it: mappings, lists and single values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def leaves(
    value: Any, path: str = "", name_of: Callable[[int, Any], object] = lambda index, item: index
) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each leaf, such as ``training.optimizer.lr``.

    A list is a leaf unless it contains mappings, whose leaves have their position in the path. An empty mapping is a
    leaf.

    Args:
        value: The data.
        path: Path of the data.
        name_of: Returns the part of the path for an item of a list, from its position and the item.
    """
    if isinstance(value, Mapping) and value:
        parts = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        parts = [(name_of(index, item), item) for index, item in enumerate(value)]  # type: ignore[assignment]
    else:
        yield path, value
        return
    for name, item in parts:
        yield from leaves(item, f"{path}.{name}" if path else str(name), name_of)
