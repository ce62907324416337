"""Fixtures and options of all tests."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """With ``--durations``, also print the modules that took longest, since many short tests add up."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    if count := config.getoption("durations"):
        terminalreporter.section(f"slowest modules of {sum(seconds.values()):.0f} s")
        for module, duration in sorted(seconds.items(), key=lambda item: -item[1])[:count]:
            terminalreporter.write_line(f"{duration:.1f}s {module}")


_cache_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty cache, without logits of other tests or of this machine's user."""
    # pytest's own numbers are found by reading the folder, which after thousands of tests takes milliseconds.
    folder = tmp_path_factory.mktemp(f"cache-{next(_cache_numbers)}", numbered=False)
    monkeypatch.setenv("DKD_CACHE_DIR", str(folder))


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
