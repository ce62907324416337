"""Query parameters of widgets: unique keys, and former labels in saved links."""

from __future__ import annotations

import ast
from collections import defaultdict

import pytest

from tests.dashboard.conftest import SCRIPT, visit
from tests.dashboard.fakes import FakeBackend, digits_spec


def test_no_two_pages_bind_a_widget_of_the_same_name() -> None:
    """Otherwise the value of one page would be used on the other, with an extra entry in the browser's history."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in SCRIPT.parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            arguments = {item.arg: item.value for item in call.keywords}
            shared = any(name is None and ast.unparse(value) == "bound" for name, value in arguments.items())
            if ("bind" in arguments or shared) and "key" in arguments:
                places[ast.unparse(arguments["key"])].add(path.name)
    assert len(places) > 20, "the pages are not read"
    assert not {key: pages for key, pages in places.items() if len(pages) > 1}


@pytest.mark.parametrize(
    ("page", "link", "key", "value"),
    [
        ("compare", {"figure": "author's two axes"}, "figure", "two axes"),
        ("compare", {"figure": "similarity and accuracy"}, "figure", "two axes"),
        ("compare", {"figure": "metric"}, "figure", "single metric"),
        ("compare", {"band": "least to greatest"}, "band", "range"),
        ("compare", {"goal": "share of the teacher's"}, "goal", "relative to teacher"),
        ("compare", {"goal": "accuracy"}, "goal", "absolute"),
        ("runs", {"archived": "only those"}, "archived", "only archived"),
        ("runs", {"archived": "shown too"}, "archived", "show"),
        ("runs", {"sort": "started last"}, "sort", "last started"),
        ("loss", {"p_shape": "each less than the last"}, "p_shape", "falling"),
        ("loss", {"q_shape": "weights of your own"}, "q_shape", "custom"),
    ],
)
def test_former_labels_in_saved_links_select_the_same_option(
    backend: FakeBackend, page: str, link: dict[str, str], key: str, value: str
) -> None:
    backend.submit(digits_spec())
    app = visit(page, **link)
    assert not app.exception
    assert not app.warning
    assert app.session_state[key] == value
    assert app.run().session_state[key] == value
