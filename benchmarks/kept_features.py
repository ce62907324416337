"""CPU seconds that the penultimate features of a run cost: whole runs with the default and without, in turn.

CPU seconds and not seconds, so that other programs on the machine change little. The start of the process is included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LIMIT = 2.0
"""Percent of a run that the default may cost."""
_TRAINING = {"epochs": 40, "optimizer": {"lr": 0.05}}
_SPEC: dict[str, Any] = {
    "name": "features",
    "dataset": "digits",
    "student": {"model": {"name": "small_cnn", "params": {"width": 8}}},
    "methods": ["ce"],
    "seeds": [0],
}
CASES: dict[str, dict[str, Any]] = {"with features": {}, "without": {"features_every": 0}}
"""The fields of the training that differ."""


def cpu_seconds(training: dict[str, Any], folder: Path) -> float:
    """Return the user and system time of a process that trains the spec in an empty folder."""
    spec = folder / "spec.yaml"
    spec.write_text(yaml.safe_dump(_SPEC | {"training": _TRAINING | training}), encoding="utf-8")
    before = os.times()
    command = [sys.executable, "-m", "core", "run", str(spec), "--out", str(folder / "runs")]
    environment = os.environ | {"DKD_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each case, one value per round; the order of the cases changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(-1, rounds):  # the first round fills the disk cache
        for name in sorted(CASES, reverse=bool(number % 2)):
            with tempfile.TemporaryDirectory() as folder:
                used = cpu_seconds(CASES[name], Path(folder))
            if number >= 0:
                seconds[name].append(used)
    return seconds


def report(seconds: dict[str, list[float]]) -> str:
    """Return the table."""
    kept, without = (seconds[name] for name in CASES)
    shares = [100 * (one - other) / other for one, other in zip(kept, without, strict=True)]
    return "\n".join(
        [
            "# The cost of penultimate features",
            "",
            f"`python -m benchmarks features --write` writes this file. Machine: {machine.describe()}, one thread. "
            f"Whole runs of {_TRAINING['epochs']} epochs of digits, with the default of `training.features_every` and "
            f"with 0, in turn; CPU seconds of the process, its start included. The default may cost {LIMIT:g} % of a "
            "run.",
            "",
            "| | n | median (CPU s) | min | max |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {name} | {len(values)} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |"
                for name, values in seconds.items()
            ),
            "",
            f"Difference within a round: median {statistics.median(shares):+.1f} %, from {min(shares):+.1f} % to "
            f"{max(shares):+.1f} %.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks features", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    options = parser.parse_args(arguments)
    seconds = measure(options.rounds)
    text = report(seconds)
    sys.stdout.write(text)
    if options.write:
        (RESULTS / "features.md").write_text(text, encoding="utf-8")
        content = {"machine": machine.describe(), "cpu_seconds": seconds}
        (RESULTS / "features.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
