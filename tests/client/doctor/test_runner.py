"""Running checks: their order, deadlines and failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from client.doctor import ALL_CHECKS, Check, Finding, run_checks


def finding(check: str, status: str = "ok") -> Finding:
    return Finding.model_validate({"check": check, "status": status, "message": "text"})


def test_findings_come_in_the_order_of_the_checks() -> None:
    later = threading.Event()

    def slow() -> Iterator[Finding]:
        assert later.wait(10)
        yield finding("first")

    def quick() -> Iterator[Finding]:
        later.set()
        yield finding("second", "warning")
        yield finding("second")

    report = run_checks([Check("first", slow), Check("second", quick)])
    assert [item.check for item in report.findings] == ["first", "second", "second"]
    assert report.ok, "a warning is no error"


def test_a_check_beyond_its_deadline_is_an_error() -> None:
    hung = threading.Event()

    def hang() -> Iterator[Finding]:
        hung.wait(60)
        yield finding("never")

    started = time.monotonic()
    report = run_checks([Check("hung", hang, seconds=0.05), Check("fine", lambda: [finding("fine")])])
    hung.set()
    assert time.monotonic() - started < 30
    assert [(item.check, item.status) for item in report.findings] == [("hung", "error"), ("fine", "ok")]
    assert "not finished after 0.05 s" in report.findings[0].message
    assert not report.ok


def test_an_exception_is_a_finding_without_its_text() -> None:
    def broken() -> Iterator[Finding]:
        raise ValueError("redis://:secret@host")
        yield finding("never")

    (item,) = run_checks([Check("broken", broken)]).findings
    assert (item.status, item.message) == ("error", "the check failed with ValueError")
    assert item.action


@pytest.mark.parametrize("check", ALL_CHECKS, ids=lambda check: check.name)
def test_every_check_has_a_deadline(check: Check) -> None:
    assert 0 < check.seconds <= 120
