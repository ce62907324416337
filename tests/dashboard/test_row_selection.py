"""Selection of table rows by id."""

from __future__ import annotations

import pytest

from dashboard.lists.row_selection import merge_selection


@pytest.mark.parametrize(
    ("chosen", "shown", "rows", "expected"),
    [
        ([], ["a", "b", "c"], [2, 0], ["c", "a"]),
        (["c", "a"], ["a", "b", "c"], [0, 2], ["c", "a"]),  # the order of selection is kept
        (["c", "a"], ["a", "b", "c"], [0], ["a"]),  # deselected
        (["x", "a"], ["a", "b"], [1], ["x", "b"]),  # on another page
        (["x"], [], [], ["x"]),
        ([], ["a"], [0, 5], ["a"]),  # a row that is no longer on the page
    ],
)
def test_merge_selection(chosen: list[str], shown: list[str], rows: list[int], expected: list[str]) -> None:
    assert merge_selection(chosen, shown, rows) == expected
