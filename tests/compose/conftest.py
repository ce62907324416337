"""Build the images once, run the stack for all tests of this folder, and remove it at the end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import pytest

from tests.compose.stack import Stack

_LINES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LINES] = []


@pytest.fixture(scope="session")
def report_lines(request: pytest.FixtureRequest) -> list[str]:
    """Collect lines that are printed at the end: sizes and times."""
    lines: list[str] = request.config.stash[_LINES]
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(_LINES, []):
        terminalreporter.section("sizes and times")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, report_lines: list[str]) -> Iterator[Stack]:
    """Build and start the stack; remove it with its volumes at the end."""
    made = Stack(tmp_path_factory.mktemp("compose"), f"dkd-test-{secrets.token_hex(3)}")
    began = time.monotonic()
    made.run("build")
    report_lines.append(f"both images were built in {time.monotonic() - began:.0f} s")
    try:
        seconds = made.up()
        report_lines.append(f"up: {times(seconds)}")
        yield made
    finally:
        made.run("down", "--volumes", "--timeout", "10")


def times(seconds: dict[str, float]) -> str:
    """Return the items as text, in their order."""
    return ", ".join(f"{name} {value:.0f} s" for name, value in sorted(seconds.items(), key=lambda item: item[1]))
