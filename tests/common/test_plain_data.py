"""Leaves of plain data."""

from __future__ import annotations

from typing import Any

from common.plain_data import leaves


def test_leaves_have_their_paths() -> None:
    data = {"a": {"b": 1, "c": {}}, "list": [1, 2], "items": [{"label": "x", "d": None}, {"d": []}], "e": []}
    assert dict(leaves(data)) == {
        "a.b": 1,
        "a.c": {},
        "list": [1, 2],
        "items.0.label": "x",
        "items.0.d": None,
        "items.1.d": [],
        "e": [],
    }


def test_items_of_a_list_have_other_names() -> None:
    def name_of(index: int, item: Any) -> object:
        return item.get("label", index)

    data = [{"label": "x", "d": 1}, {"d": 2}]
    assert dict(leaves(data, "items", name_of)) == {"items.x.label": "x", "items.x.d": 1, "items.1.d": 2}


def test_a_single_value_is_its_own_leaf() -> None:
    assert list(leaves(3, "a")) == [("a", 3)]
