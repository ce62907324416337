"""What pages keep in the address."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.dashboard.conftest import SCRIPT


def test_no_two_pages_bind_a_widget_of_the_same_name() -> None:
    """The value of one would be carried to the other, with an entry in the history that nobody has seen."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in SCRIPT.parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            given = {item.arg: item.value for item in call.keywords}
            shared = any(name is None and ast.unparse(value) == "bound" for name, value in given.items())
            if ("bind" in given or shared) and "key" in given:
                places[ast.unparse(given["key"])].add(path.name)
    assert len(places) > 20, "the pages are not read"
    assert not {key: found for key, found in places.items() if len(found) > 1}
