"""CPU seconds to import the modules that must start fast, the interpreter's start included: medians of processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import machine

ROOT = Path(__file__).parents[1]
ROUNDS = 5
TARGET = 2.0


def cpu_seconds(code: str) -> float:
    """Return the user and system time of a process that runs ``code``."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and print the table."""
    pages = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "dashboard").rglob("*.py"))
        if path.name not in ("app.py", "__init__.py")
    ]
    cases = {
        "python alone": "pass",
        "core.specs": "import core.specs",
        "backend.app": "import backend.app",
        "client": "import client",
        "client.cli (dkd)": "import client.cli",
        "worker.app": "import worker.app",
        "all of dashboard": f"import {', '.join(pages)}",
    }
    print(f"CPU seconds to import, median of {ROUNDS} fresh processes (target: {TARGET:g} s); {machine.describe()}")
    for name, code in cases.items():
        cpu_seconds(code)  # the first process fills the disk cache
        print(f"  {name:<20} {statistics.median(cpu_seconds(code) for _ in range(ROUNDS)):.2f}")


if __name__ == "__main__":
    main()
