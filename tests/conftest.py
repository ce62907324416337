"""Fixtures and options of all tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

ALL_PARTS = "DKD_TESTS_NO_SKIP"
"""Set if every optional part is installed (CI): a test that would be skipped without one fails instead."""


# The compose tests build two images of several GB: only `make test-compose` runs them.
collect_ignore = [] if os.environ.get("DKD_TESTS_COMPOSE") else ["compose"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    optional = item.get_closest_marker("gpu") or item.get_closest_marker("heavy")
    if report.skipped and os.environ.get(ALL_PARTS) and not optional:
        report.outcome = "failed"
        report.longrepr = f"skipped although {ALL_PARTS} is set: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty cache, without logits of other tests or of this machine's user."""
    monkeypatch.setenv("DKD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make widths independent of the terminal in which the tests were started."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def _restore_umask() -> Iterator[None]:
    """Restore the umask, which a stack that a test starts in this process changes."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
