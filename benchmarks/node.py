"""How a CPU node shares its processors out: how many trainings at a time, and how many threads each.

    python -m benchmarks node [--rounds 3] [--write]

Two things are measured, each with all its cases in turn:

- trainings alone: some copies of one training at the same time, each with a number of threads, pinned to processors of
  their own or not. The output is the seconds per training, which is the wall time divided by the number of copies;
- a whole node: an experiment of 12 students and their teacher, submitted to a stack of backend and worker, from the
  submission to the end of the last run, with one training at a time, as a worker did by default before, and with as
  many as it takes by default now.

``--write`` stores the tables in ``benchmarks/results/node.{md,json}``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine
from client.stack import Stack, StackOptions, StopSignals, embedded_plan
from client.stack.services import connect
from common.home import Home
from common.processors import default_cpu_slots, processor_count
from core.events import MOST_THREADS, THREADS
from core.specs import RunSpec, parse_experiment

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GOAL = 1.3
LIMIT_SECONDS = 1800.0
ALIGN = {"beta": 2.0, "reduction": "sample", "epsilon": 6.0}
_DECIDING = ("OMP_", "GOMP_", "KMP_", "MKL_")


@dataclass
class Arrangement:
    """Copies of one training at the same time.

    Attributes:
        training: Name of the training.
        copies: Number of trainings at the same time.
        threads: CPU threads of each.
        pinned: Whether each may use only processors of its own.
        seconds: Wall time per training, of each round.
    """

    training: str
    copies: int
    threads: int
    pinned: bool = False
    seconds: list[float] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The arrangement in words."""
        text = f"{self.copies} × {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{text}, pinned" if self.pinned else text


@dataclass
class Node:
    """A worker's number of concurrent trainings, with the duration of the whole experiment in each round."""

    title: str
    slots: int
    seconds: list[float] = field(default_factory=list)


def trainings(epochs: int) -> dict[str, RunSpec]:
    """Return a small, a middle and a large training by name.

    Args:
        epochs: Epochs of the small one; the others have a number that takes about as long.
    """
    exact = {"precision": "float32", "compile": "off"}

    def of(model: str, size: int, images: int, count: int) -> RunSpec:
        spec = {
            "name": "node",
            "dataset": {"name": "synthetic", "params": {"image_size": size, "train_size": images, "test_size": 256}},
            "student": {"model": model},
            "methods": ["ce"],
            "seeds": [0],
            "training": {"epochs": count, "speed": exact},
        }
        return parse_experiment(spec).plan()[0].spec

    quick = parse_experiment({"name": "node", "preset": "quick", "teacher": {"training": {"epochs": epochs}}})
    return {
        f"resnet20, digits (8 px), {epochs} epochs": quick.plan()[0].spec,
        "resnet8, 2,048 images of 32 px, 4 epochs": of("resnet8", 32, 2048, 4),
        "resnet8x4, 1,024 images of 32 px, 2 epochs": of("resnet8x4", 32, 1024, 2),
    }


def arrangements(names: Sequence[str], processors: int) -> list[Arrangement]:
    """Return what is compared for each training: one with all processors, and one on each processor."""
    shapes = [(1, processors, False), (processors, 1, False), (processors, 1, True)]
    return [Arrangement(name, *shape) for name in names for shape in shapes]


def together(spec: RunSpec, arrangement: Arrangement, folder: Path) -> float:
    """Train the copies at the same time, each in a process of its own.

    Args:
        spec: The run.
        arrangement: How many copies with how many threads.
        folder: A folder for the cache, which stays, and the trainings' files.

    Returns:
        The wall time in seconds divided by the number of copies.
    """
    run = folder / "run.json"
    run.write_text(spec.model_dump_json(), encoding="utf-8")
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_DECIDING) and name not in (THREADS, MOST_THREADS)
    }
    environment = inherited | {"DKD_CACHE_DIR": str(folder / "cache"), THREADS: str(arrangement.threads)}
    usable = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        start = time.perf_counter()
        processes = []
        for copy in range(arrangement.copies):
            command = [sys.executable, "-m", "core", "train", "--run", str(run), "--out", f"{out}/{copy}"]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
            if arrangement.pinned:
                os.sched_setaffinity(process.pid, {usable[copy % len(usable)]})
            processes.append(process)
        codes = [process.wait(LIMIT_SECONDS) for process in processes]
        seconds = time.perf_counter() - start
    if any(codes):
        raise RuntimeError(f"trainings of {arrangement.title} ended with {codes}")
    return seconds / arrangement.copies


def measure_together(runs: Mapping[str, RunSpec], rounds: int) -> list[Arrangement]:
    """Run all arrangements in turn, ``rounds`` times, every second round in the reverse order."""
    cases = arrangements(list(runs), processor_count())
    with tempfile.TemporaryDirectory(prefix="dkd-node-") as name:
        folder = Path(name)
        for training, spec in runs.items():  # fills the disk cache
            together(spec, Arrangement(training, 1, 1), folder)
        for number in range(rounds):
            for case in cases if number % 2 == 0 else reversed(cases):
                case.seconds.append(together(runs[case.training], case, folder))
                print(f"round {number + 1}: {case.training}, {case.title}: {case.seconds[-1]:.1f} s each", flush=True)
    return cases


def experiment(name: str, epochs: int) -> dict[str, Any]:
    """Return the spec of 12 students and their teacher on digits."""
    return {
        "name": name,
        "preset": "quick",
        "methods": ["ce", "kd", "dkd", {"name": "dkd_align", "params": ALIGN}],
        "seeds": [0, 1, 2],
        "teacher": {"model": "resnet20", "training": {"epochs": epochs}},
        "training": {"epochs": epochs},
    }


def measure_node(node: Node, epochs: int, signals: StopSignals) -> None:
    """Start a stack whose worker has the slots, and add the seconds from the submission to the end of all runs."""
    with tempfile.TemporaryDirectory(prefix="dkd-node-") as home:
        options = StackOptions(home=Home(Path(home)), slots=node.slots, dashboard=False)
        stack = Stack(options, embedded_plan(options), signals, lambda _: None)
        try:
            stack.start()
            with connect(stack.home, stack.api_url) as client:
                start = time.perf_counter()
                created = client.experiments.create(experiment("node", epochs))
                while (state := client.experiments.get(created.id).state) == "active":
                    if time.perf_counter() - start > LIMIT_SECONDS:
                        raise RuntimeError(f"the experiment is not finished after {LIMIT_SECONDS:g} s")
                    stack.check()
                    time.sleep(0.2)
                node.seconds.append(time.perf_counter() - start)
        finally:
            stack.stop()
    if state != "finished":
        raise RuntimeError(f"the experiment ended as {state}")


def measure_nodes(rounds: int, epochs: int) -> list[Node]:
    """Measure both numbers of slots in turn, ``rounds`` times, every second round in the reverse order."""
    nodes = [Node("one training at a time", 1), Node("the default", default_cpu_slots())]
    with StopSignals() as signals:
        for number in range(rounds):
            for node in nodes if number % 2 == 0 else reversed(nodes):
                measure_node(node, epochs, signals)
                print(f"round {number + 1}: {node.title}, {node.slots} slot(s): {node.seconds[-1]:.1f} s", flush=True)
    return nodes


def report(cases: Sequence[Arrangement], nodes: Sequence[Node]) -> str:
    """Return the tables in Markdown."""
    lines = [
        "# A CPU node",
        "",
        f"{machine.describe()}; {processor_count()} processors may be used. Medians of {len(nodes[0].seconds)} "
        "round(s), in which all cases take turns. Written by `python -m benchmarks node --write`.",
        "",
        "Seconds per training: the wall time of trainings at the same time, from the start of their processes to the "
        "last one's end, divided by their number.",
        "",
        "| training | at the same time | seconds per training | times the first |",
        "|---|---|---:|---:|",
    ]
    first: dict[str, float] = {}
    for case in cases:
        seconds = statistics.median(case.seconds)
        base = first.setdefault(case.training, seconds)
        lines.append(f"| {case.training} | {case.title} | {seconds:.1f} | {base / seconds:.2f} |")
    lines += [
        "",
        "A whole node: 12 students and their teacher on digits, from the submission to the end of the last run. The "
        f"goal is {GOAL:g} times the speed of one training at a time.",
        "",
        "| worker | slots | seconds | times the first |",
        "|---|---:|---:|---:|",
    ]
    base = statistics.median(nodes[0].seconds)
    for node in nodes:
        seconds = statistics.median(node.seconds)
        lines.append(f"| {node.title} | {node.slots} | {seconds:.1f} | {base / seconds:.2f} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks node", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the small training and of the experiment")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    options = parser.parse_args(arguments)
    parse_experiment(experiment("node", options.epochs))  # a fault in it would show only after the first half
    cases = measure_together(trainings(options.epochs), options.rounds)
    nodes = measure_nodes(options.rounds, options.epochs)
    text = report(cases, nodes)
    print(f"\n{text}")
    if options.write:
        content = {
            "machine": machine.describe(),
            "processors": processor_count(),
            "together": [asdict(case) for case in cases],
            "nodes": [asdict(node) for node in nodes],
        }
        (RESULTS / "node.md").write_text(text, encoding="utf-8")
        (RESULTS / "node.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
