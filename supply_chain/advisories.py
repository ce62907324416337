"""Looks for published advisories about the locked Python packages: ``make advisories``.

The packages of ``requirements.lock`` are looked up in the database of OSV by pip-audit. Exit codes: 0 if there is no
finding, and also if the database is not reached, which a sentence says; 1 if there is a finding; 2 if the check failed.

A finding that does not apply is accepted in ``pyproject.toml``, with the reason::

    [tool.dkd-lab.accepted-advisories]
    GHSA-xxxx-xxxx-xxxx = "only the command line of the package is affected, which is not used"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

_ROOT = Path(__file__).parents[1]
_URL = "https://api.osv.dev/v1/query"
_SECONDS = 15


@dataclass(frozen=True)
class Finding:
    """An advisory about a locked package.

    Attributes:
        package: Name and version of the package.
        ids: Id of the advisory and its aliases.
        fixed_in: Versions in which it is fixed.
        summary: One line.
    """

    package: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]
    summary: str

    def __str__(self) -> str:
        fixed = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no version is fixed"
        return f"{self.package}: {self.ids[0]}, {fixed}: {self.summary}"


class AuditError(Exception):
    """pip-audit failed; the text contains its message."""


def unreachable(url: str) -> str:
    """Return why the database does not answer a question; empty if it does."""
    question: dict[str, Any] = {"package": {"name": "setuptools", "ecosystem": "PyPI"}, "version": "80.0.0"}
    try:
        response = requests.post(url, json=question, timeout=_SECONDS)
    except requests.RequestException as error:
        return type(error).__name__
    return "" if response.ok else f"status {response.status_code}"


def audit(lock: Path, url: str) -> tuple[int, list[Finding]]:
    """Look up all packages of a lock file.

    Returns:
        The number of packages that were looked up, and the findings.

    Raises:
        AuditError: The check did not finish.
    """
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
        command += ["--vulnerability-service", "osv", "--osv-url", url, "--cache-dir", cache]
        command += ["--timeout", str(_SECONDS), "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AuditError(last[:500]) from None
    return len(dependencies), list(_findings(dependencies))


def _findings(dependencies: list[dict[str, Any]]) -> Iterator[Finding]:
    for item in dependencies:
        for found in item.get("vulns", []):
            yield Finding(
                f"{item['name']} {item['version']}",
                (found["id"], *found.get("aliases", [])),
                tuple(found.get("fix_versions", [])),
                " ".join(found.get("description", "").split())[:200],
            )


def accepted(project: Path) -> dict[str, str]:
    """Return the reasons for which findings are accepted, by the id of the advisory."""
    tables = tomllib.loads(project.read_text(encoding="utf-8")).get("tool", {})
    reasons: dict[str, str] = tables.get("dkd-lab", {}).get("accepted-advisories", {})
    return reasons


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Look for published advisories about the locked packages.")
    parser.add_argument("--lock", type=Path, default=_ROOT / "requirements.lock")
    parser.add_argument("--project", type=Path, default=_ROOT / "pyproject.toml", help="has the accepted advisories")
    parser.add_argument("--url", default=os.environ.get("DKD_OSV_URL", _URL), help="address of an OSV database")
    options = parser.parse_args(arguments)
    if reason := unreachable(options.url):
        print(f"advisories: NOT CHECKED, because the database {options.url} was not reached from here ({reason}).")
        return 0
    try:
        count, findings = audit(options.lock, options.url)
    except AuditError as error:
        print(f"advisories: the check failed: {error}", file=sys.stderr)
        return 2
    reasons = accepted(options.project)
    open_findings = [finding for finding in findings if not reasons.keys() & set(finding.ids)]
    for finding in findings:
        print(f"{finding}" + ("" if finding in open_findings else f" (accepted: {_reason(finding, reasons)})"))
    for unused in sorted(reasons.keys() - {name for finding in findings for name in finding.ids}):
        print(f"advisories: {unused} is accepted in {options.project.name}, but no locked package has it any more.")
    known = len(findings) - len(open_findings)
    print(f"advisories: {count} packages were checked; {len(open_findings)} findings, {known} accepted.")
    return 1 if open_findings else 0


def _reason(finding: Finding, reasons: dict[str, str]) -> str:
    return next(reasons[name] for name in finding.ids if name in reasons)


if __name__ == "__main__":
    sys.exit(main())
