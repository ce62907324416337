"""Parts of pages that are drawn again by themselves show errors of the backend as messages, as a page does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_WAITS_FOR_THE_BACKEND = "_wait_for_backend"  # what such a message itself repeats


def _fragments() -> Iterator[tuple[Path, ast.FunctionDef]]:
    for path in sorted((ROOT / "dashboard").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any("st.fragment" in ast.unparse(d) for d in node.decorator_list):
                yield path, node


FRAGMENTS = [(path, node) for path, node in _fragments() if node.name != _WAITS_FOR_THE_BACKEND]


def test_there_are_fragments() -> None:
    assert len(FRAGMENTS) > 5


@pytest.mark.parametrize(("path", "node"), FRAGMENTS, ids=lambda item: getattr(item, "stem", getattr(item, "name", "")))
def test_every_request_of_a_fragment_is_within_the_boundary(path: Path, node: ast.FunctionDef) -> None:
    bodies = [
        child
        for child in node.body
        if isinstance(child, ast.With) and "session.error_boundary()" in ast.unparse(child.items[0])
    ]
    assert bodies, f"{path.name}: {node.name} draws without session.error_boundary()"
    outside = [ast.unparse(child) for child in node.body if child not in bodies and "session." in ast.unparse(child)]
    assert not outside
