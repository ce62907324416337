"""Runs checks concurrently, each with a deadline, so that the report is always completed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

Status = Literal["ok", "warning", "error"]

DEFAULT_SECONDS = 15.0


class Finding(BaseModel):
    """The result of a check.

    Attributes:
        check: Name of the check.
        status: "error" if something does not work, "warning" if it may not.
        message: The result in one sentence, without secrets.
        action: The action that solves the problem; empty for "ok".
    """

    check: str
    status: Status
    message: str
    action: str = ""


class Report(BaseModel):
    """The findings of all checks, in the order of the checks."""

    ok: bool
    findings: list[Finding]


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: One word.
        run: Returns the findings. An exception becomes a finding.
        seconds: The deadline.
    """

    name: str
    run: Callable[[], Iterable[Finding]]
    seconds: float = DEFAULT_SECONDS


def run_checks(checks: Sequence[Check]) -> Report:
    """Run the checks at the same time and return their findings.

    A check that exceeds its deadline is reported. Its thread continues, but does not keep the process alive.
    """
    started = time.monotonic()
    results: list[list[Finding]] = [[] for _ in checks]
    threads = [
        threading.Thread(target=_run, args=(check, result), name=f"check-{check.name}", daemon=True)
        for check, result in zip(checks, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    findings: list[Finding] = []
    for check, thread, result in zip(checks, threads, results, strict=True):
        thread.join(max(0.0, started + check.seconds - time.monotonic()))
        # Copied, because the thread of a check that exceeded its deadline may still append.
        findings += [*result] if not thread.is_alive() else [_too_slow(check)]
    return Report(ok=all(finding.status != "error" for finding in findings), findings=findings)


def _run(check: Check, result: list[Finding]) -> None:
    try:
        result.extend(check.run())
    except Exception as error:  # noqa: BLE001 (one broken check must not hide the others)
        # The text of an unexpected error may contain an address with its password.
        message = f"the check failed with {type(error).__name__}"
        action = "run `dkd doctor` again; if the check fails again, report it with the versions that it prints"
        result.append(Finding(check=check.name, status="error", message=message, action=action))


def _too_slow(check: Check) -> Finding:
    message = f"not finished after {check.seconds:g} s"
    action = "the machine may be busy, or a disk or server may not respond: run `dkd doctor` again"
    return Finding(check=check.name, status="error", message=message, action=action)
