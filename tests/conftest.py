"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

ALL_PARTS = "DKD_TESTS_NO_SKIP"
"""Set where every part is installed (CI): a test that would be skipped for want of one fails instead."""


# Builds two images of several GB: only `make test-compose` asks for it.
collect_ignore = [] if os.environ.get("DKD_TESTS_COMPOSE") else ["compose"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get(ALL_PARTS) and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"skipped although {ALL_PARTS} is set: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds a teacher's logits that another one, or the person at this machine, has left."""
    monkeypatch.setenv("DKD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is as wide as the terminal that the tests were started in: where they run in parallel, 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def _own_umask() -> Iterator[None]:
    """A stack that a test starts in this process makes its files private; the next test's are as the person's."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
