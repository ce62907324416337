"""Duration of a training alone and beside two busy processes, as it is started now and as it was started before.

    python -m benchmarks busy [--rounds 3] [--epochs 10] [--large-epochs 4] [--write]

Before, every training took two threads, and threads that waited for each other were spinning for milliseconds. Two
trainings are measured: the teacher of the quick example, whose steps are too small to share, and one whose steps are
worth two threads. Each round runs all cases in turn, each training in a process of its own, as a worker starts it;
every second
round in the reverse order. The output is the medians of the wall times, from the start of a process to its end.

``--write`` stores them in ``benchmarks/results/busy.{md,json}``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine
from common.processors import processor_count
from core.events import JOURNAL_NAME, MOST_THREADS, THREADS, Started, read_journal
from core.specs import RunSpec, parse_experiment

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BUSY = 2
GOAL = 3.0
LIMIT_SECONDS = 1200.0
"""After this time a training is ended, and a busy process ends by itself."""

# What GNU's and LLVM's runtimes do if no variable says anything.
BEFORE, NOW = "before", "now"
SETTINGS: dict[str, dict[str, str]] = {
    BEFORE: {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200", THREADS: "2"},
    NOW: {},
}
_MEANING = {BEFORE: "two threads that spin", NOW: "threads by the work, which spin for 10,000 checks at most"}
_LOAD = """
import os, sys, time
limit, parent = time.monotonic() + float(sys.argv[1]), int(sys.argv[2])
while time.monotonic() < limit and os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@dataclass
class Case:
    """One training under one setting.

    Attributes:
        training: Name of the training.
        setting: ``before`` or ``now``.
        threads: Number of CPU threads that the training has recorded; 0 before the first round.
        alone: Seconds of each round on the machine alone.
        beside: Seconds of each round beside the busy processes.
    """

    training: str
    setting: str
    threads: int = 0
    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    @property
    def slowdown(self) -> float:
        """How many times as long the training takes beside the busy processes, by the medians."""
        return statistics.median(self.beside) / statistics.median(self.alone)


@contextlib.contextmanager
def busy(count: int, limit_seconds: float = LIMIT_SECONDS) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run processes that compute without a pause for the duration of the block.

    They end by themselves after a time, and if this process has been killed.

    Args:
        count: Number of processes.
        limit_seconds: The time after which they end.
    """
    command = [sys.executable, "-I", "-S", "-c", _LOAD, str(limit_seconds), str(os.getpid())]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))  # noqa: PERF401 (ended if one fails)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def specs(epochs: int, large_epochs: int) -> dict[str, RunSpec]:
    """Return the trainings by name: one of small steps, and one of steps that are worth two threads.

    Args:
        epochs: Epochs of the first.
        large_epochs: Epochs of the second, of 8·10⁸ multiplications a step; 0 leaves it out.
    """
    quick = parse_experiment({"name": "busy", "preset": "quick", "teacher": {"training": {"epochs": epochs}}})
    trainings = {f"resnet20, digits (8 px), {epochs} epochs": quick.plan()[0].spec}  # the teacher is the first
    if large_epochs:
        large = parse_experiment(
            {
                "name": "busy",
                "dataset": {"name": "synthetic", "params": {"image_size": 32, "train_size": 2048}},
                "student": {"model": "resnet8"},
                "methods": ["ce"],
                "seeds": [0],
                "training": {"epochs": large_epochs, "speed": {"precision": "float32", "compile": "off"}},
            }
        )
        trainings[f"resnet8, 2,048 images of 32 px, {large_epochs} epochs"] = large.plan()[0].spec
    return trainings


def environment(setting: str, folder: Path) -> dict[str, str]:
    """Return the environment of a training under a setting, without what else decides about threads."""
    deciding = ("OMP_", "GOMP_", "KMP_", "MKL_")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(deciding) and name not in (THREADS, MOST_THREADS)
    }
    return inherited | {"DKD_CACHE_DIR": str(folder / "cache")} | SETTINGS[setting]


def train(spec: RunSpec, setting: str, folder: Path) -> tuple[float, int]:
    """Train in a process of its own.

    Args:
        spec: The run.
        setting: A name in ``SETTINGS``.
        folder: A folder for the cache, which stays, and the training's files.

    Returns:
        The seconds from the start of the process to its end, and the number of CPU threads that it has recorded.
    """
    run = folder / "run.json"
    run.write_text(spec.model_dump_json(), encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", "core", "train", "--run", str(run), "--out", out]
        start = time.perf_counter()
        subprocess.run(
            command,
            cwd=ROOT,
            env=environment(setting, folder),
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=LIMIT_SECONDS,
        )
        seconds = time.perf_counter() - start
        events = [record.event for record in read_journal(Path(out) / JOURNAL_NAME)]
    started = next(event for event in events if isinstance(event, Started))
    return seconds, int(started.environment["threads"])


def measure(trainings: Mapping[str, RunSpec], rounds: int) -> list[Case]:
    """Run all cases in turn, ``rounds`` times."""
    cases = [Case(training, setting) for training in trainings for setting in SETTINGS]
    with tempfile.TemporaryDirectory(prefix="dkd-busy-") as name:
        folder = Path(name)
        for spec in trainings.values():
            train(spec, NOW, folder)  # fills the disk cache
        for number in range(rounds):
            for case in cases if number % 2 == 0 else reversed(cases):
                seconds, case.threads = train(trainings[case.training], case.setting, folder)
                case.alone.append(seconds)
                with busy(BUSY):
                    case.beside.append(train(trainings[case.training], case.setting, folder)[0])
                print(
                    f"round {number + 1}: {case.training}, {case.setting}: "
                    f"{case.alone[-1]:.1f} s alone, {case.beside[-1]:.1f} s beside",
                    flush=True,
                )
    return cases


def report(cases: Sequence[Case], description: str) -> str:
    """Return the tables in Markdown.

    Args:
        cases: What was measured.
        description: The machine.
    """
    rounds = len(cases[0].alone)
    lines = [
        "# A busy machine",
        "",
        f"{description}; {processor_count()} processors may be used. Wall time of a training from the start of its "
        f"process to its end, alone and beside {BUSY} processes that compute without a pause; medians of {rounds} "
        "round(s), in which all cases take turns. "
        f"{'; '.join(f'{name.capitalize()}: {text}' for name, text in _MEANING.items())}. The goal is a slow-down "
        f"below {GOAL:g} ×. Written by `python -m benchmarks busy --write`.",
        "",
        f"| training | start | threads | alone (s) | beside {BUSY} busy processes (s) | slow-down |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {case.training} | {case.setting} | {case.threads} | {statistics.median(case.alone):.1f} | "
        f"{statistics.median(case.beside):.1f} | {case.slowdown:.1f} × |"
        for case in cases
    ]
    lines += ["", "| training | alone: now / before | beside: now / before |", "|---|---:|---:|"]
    by_name = {(case.training, case.setting): case for case in cases}
    for training in dict.fromkeys(case.training for case in cases):
        before, now = by_name[training, BEFORE], by_name[training, NOW]
        ratios = [
            statistics.median(new) / statistics.median(old)
            for new, old in ((now.alone, before.alone), (now.beside, before.beside))
        ]
        lines.append(f"| {training} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks busy", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the teacher of the quick example")
    parser.add_argument("--large-epochs", type=int, default=4, help="epochs of the larger training; 0 leaves it out")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    options = parser.parse_args(arguments)
    cases = measure(specs(options.epochs, options.large_epochs), options.rounds)
    text = report(cases, machine.describe())
    print(f"\n{text}")
    if options.write:
        (RESULTS / "busy.md").write_text(text, encoding="utf-8")
        content: dict[str, Any] = {
            "machine": machine.describe(),
            "busy_processes": BUSY,
            "settings": SETTINGS,
            "cases": [asdict(case) | {"slowdown": case.slowdown} for case in cases],
        }
        (RESULTS / "busy.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
