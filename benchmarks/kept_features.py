"""CPU time of the code for penultimate features, relative to the CPU time of the run that contains it.

Both are clocks of the same process: the share does not depend on what other programs do to the difference between two
runs. The run includes the start of its process.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LIMIT = 2.0
"""Percent of a run that the default may cost."""
_EPOCHS = 40
CASES: dict[str, dict[str, Any]] = {
    "digits, ce": {
        "name": "features",
        "dataset": "digits",
        "student": {"model": {"name": "small_cnn", "params": {"width": 8}}},
        "methods": ["ce"],
        "seeds": [0],
        "training": {"epochs": _EPOCHS, "optimizer": {"lr": 0.05}},
    }
}
"""Specs with the default of ``training.features_every``."""
PARTS = {
    "choose": "which test images are looked at",
    "take": "taking the features out of the pass over the test images",
    "measure": "NC1–NC4, angles, and the values that are kept",
    "checkpoint": "their part of a checkpoint, before it is written",
    "file": "the file at the end",
}
"""What is timed."""


class Clock:
    """Adds up the CPU time of this process within some functions; time within one of them counts once.

    Args:
        now: The clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.calls = dict.fromkeys(PARTS, 0)
        self._now, self._inside = now, False

    def watch(self, part: str, owner: Any, name: str) -> None:
        """Replace a function of a module or class by one that is timed."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return function(*arguments, **options)
            self._inside, start = True, self._now()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[part] += self._now() - start
                self.calls[part] += 1
                self._inside = False

        setattr(owner, name, timed)


def run_here(case: str, folder: Path) -> dict[str, Any]:
    """Train a case in this process, and return the CPU seconds of the process and of each part, and their calls."""
    from core.specs import parse_experiment
    from core.standalone import run_experiment
    from core.tasks.classification import task
    from core.tasks.classification.diagnostics.penultimate import Capture
    from core.train import run
    from core.train.feature_log import FeatureLog

    clock = Clock()
    clock.watch("choose", task, "choose_images")
    clock.watch("take", Capture, "_take")
    clock.watch("take", Capture, "features")
    clock.watch("measure", task, "take_snapshot")
    clock.watch("checkpoint", FeatureLog, "state")
    clock.watch("file", run, "save_features")
    if run_experiment(parse_experiment(CASES[case]), folder):
        raise SystemExit(f"the training of {case} failed, see {folder}")
    return {"run": time.process_time(), "parts": clock.seconds, "calls": clock.calls}


def measure(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Return what ``run_here`` measured in a process of its own for each case and round."""
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    for number in range(-1, rounds):  # the first round fills the disk cache
        for case, results in found.items():
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "benchmarks", "features", "--run", case, "--out", folder]
                environment = os.environ | {"DKD_THREADS": "1"}
                done = subprocess.run(command, cwd=ROOT, check=True, env=environment, stdout=subprocess.PIPE, text=True)
            if number >= 0:
                results.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def shares(results: Sequence[dict[str, Any]]) -> list[float]:
    """Return the share of the features in each run, in % of the CPU time of the rest of the run."""
    costs = [sum(result["parts"].values()) for result in results]
    return [100 * cost / (result["run"] - cost) for cost, result in zip(costs, results, strict=True)]


def report(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return the tables."""
    lines = [
        "# The cost of penultimate features",
        "",
        f"`python -m benchmarks features --write` writes this file. Machine: {machine.describe()}, one thread. Runs of "
        f"{_EPOCHS} epochs of digits with the default of `training.features_every`. The CPU time of the code for "
        "features is measured inside the training process, and compared with that of the rest of the process, its "
        f"start included. The default may cost {LIMIT:g} %. Medians, with the least and the largest value.",
        "",
        "| run | n | process (CPU s) | features (CPU s) | share of the rest (%) |",
        "|---|---:|---:|---:|---:|",
    ]
    for case, results in found.items():
        processes = _spread([result["run"] for result in results], 2)
        costs = _spread([sum(result["parts"].values()) for result in results], 3)
        lines.append(f"| {case} | {len(results)} | {processes} | {costs} | {_spread(shares(results), 2)} |")
    lines += ["", "| part | " + " | ".join(f"{case}: ms (calls)" for case in found) + " |"]
    lines.append("|---|" + "---:|" * len(found))
    for part, text in PARTS.items():
        cells = (
            f"{1000 * statistics.median(result['parts'][part] for result in results):.1f} ({results[0]['calls'][part]})"
            for results in found.values()
        )
        lines.append(f"| {text} | {' | '.join(cells)} |")
    lines += ["", "Bytes that a checkpoint or an upload has more because of the features are not in these times.", ""]
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks features", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    parser.add_argument("--run", choices=list(CASES), help="train one case in this process, and print its times")
    parser.add_argument("--out", type=Path, help="the folder of --run")
    options = parser.parse_args(arguments)
    if options.run:
        if not options.out:
            parser.error("--run needs --out")
        sys.stdout.write("\n" + json.dumps(run_here(options.run, options.out)) + "\n")
        return
    found = measure(options.rounds)
    text = report(found)
    sys.stdout.write(text)
    if options.write:
        (RESULTS / "features.md").write_text(text, encoding="utf-8")
        content = {"machine": machine.describe(), "cpu_seconds": found}
        (RESULTS / "features.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
