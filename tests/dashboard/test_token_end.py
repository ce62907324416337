"""The end of a token is shown on the first page before it comes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from client.connection import Connection
from core.protocol.access import TokenEnd
from tests.dashboard.conftest import visit
from tests.dashboard.fakes import FakeBackend, digits_spec

ENDS_AT = datetime(2026, 12, 10, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (TokenEnd(ENDS_AT), "The dashboard's token ends at 2026-12-10 09:00 UTC. An admin renews it"),
        (TokenEnd(ENDS_AT, replaced=True), "its earlier text ends at 2026-12-10 09:00 UTC. Use the new text."),
    ],
)
def test_overview_shows_when_the_token_ends(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, end: TokenEnd, text: str
) -> None:
    backend.submit(digits_spec())
    monkeypatch.setattr(Connection, "token_end", property(lambda _: end))
    assert any(text in item.value for item in visit("").info)


def test_overview_shows_nothing_for_a_token_that_lasts(backend: FakeBackend) -> None:
    backend.submit(digits_spec())
    assert not visit("").info
