"""Query parameters are validated before a request uses them, and shown as text."""

from __future__ import annotations

import pytest

from tests.dashboard.conftest import texts, visit
from tests.dashboard.fakes import FakeBackend

EVIL = "![x](http://evil.example/x.png)"


@pytest.mark.parametrize(
    ("page", "given"),
    [
        ("run", {"id": EVIL}),
        ("run", {"id": "run-0001%00"}),
        ("run", {"id": "../workers"}),
        ("run", {"id": "a" * 65}),
        ("experiment", {"id": "a\x00"}),
        ("experiment", {"id": "a" * 201}),
        ("compare", {"run": EVIL}),
        ("compare", {"experiment": "a\x00"}),
        ("compare", {"experiment": "a" * 201}),
        ("new", {"clone": "a\x1b[0m"}),
        ("runs", {"cursor": EVIL}),
        ("runs", {"teacher": EVIL}),
        ("results", {"claims": "a" * 201}),
        ("leaderboard", {"experiment": "a\x00"}),
        ("leaderboard", {"without": "a" * 201}),
    ],
)
def test_invalid_query_values_are_not_sent_to_the_backend(
    backend: FakeBackend, page: str, given: dict[str, str]
) -> None:
    app = visit(page, **given)
    assert not app.exception
    assert "The link may be old." in texts(app)
    assert EVIL not in texts(app)
    requested = [
        path for path in backend.requests if path.startswith(("GET /api/v1/runs/", "GET /api/v1/experiments/"))
    ]
    assert requested == []


def test_overlong_search_terms_are_ignored(backend: FakeBackend) -> None:
    app = visit("runs", text="a" * 5000)
    assert not app.exception
    assert "GET /api/v1/runs" in backend.requests
