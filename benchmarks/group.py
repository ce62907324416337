"""How fast several trainings share one device: as processes, as processes under MPS, and as a group in one process.

    python -m benchmarks group [--runs 1 2 4 8 15] [--rounds 3] [--cached] [--write]

All runs have the same teacher, data and views, and other seeds. The output is the sum of their images per second, from
the end of each run's first epoch to its last, beside that of the plain loop of ``benchmarks.train`` with the same
networks. All cases take turns in each round. The outputs of the teacher are not on the disk when a case begins, as for
the first runs of an experiment; with ``--cached`` they are. MPS is measured on a GPU whose control daemon runs.

``--write`` stores the table in ``benchmarks/results/group-DEVICE.{md,json}``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, train
from common.mps import LOGS, PIPES, Mps
from core.events import JOURNAL_NAME, MOST_THREADS, THREADS, Metrics, read_journal
from core.specs import RunSpec, parse_experiment
from core.train import run_training

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GOALS = {1: 8.0, 15: 20.0}
"""Times the plain loop that are aimed at on one H200-class GPU, by number of runs."""
LIMIT_SECONDS = 1800.0
NETWORKS = {"cpu": ("resnet20", "resnet8"), "cuda": ("resnet32x4", "resnet8x4")}
RUNS = {"cpu": (1, 2, 4), "cuda": (1, 2, 4, 8, 15)}
STEPS = {"cpu": 30, "cuda": 782}
BATCH = 64


@dataclass
class Case:
    """Some runs at the same time, in one way.

    Attributes:
        way: ``plain``, ``processes``, ``mps`` or ``group``.
        runs: Number of runs.
        speeds: Sum of their images per second, in each round.
    """

    way: str
    runs: int
    speeds: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.speeds)


class Lab:
    """A teacher, and students of it that differ in their seeds.

    Args:
        folder: A folder for everything.
        device: ``cpu`` or ``cuda``.
        steps: Steps of an epoch.
        epochs: Epochs of a student.
        cached: Whether the outputs of the teacher are on the disk.
    """

    def __init__(self, folder: Path, device: str, steps: int, epochs: int, *, cached: bool) -> None:
        self._folder, self._steps, self._epochs, self._cached = folder, steps, epochs, cached
        teacher, student = NETWORKS[device]
        data = {"image_size": 32, "train_size": steps * BATCH, "test_size": 64}
        experiment = parse_experiment(
            {
                "name": "group",
                "dataset": {"name": "synthetic", "params": data},
                "teacher": {"model": teacher, "training": {"epochs": 1}},
                "student": {"model": student},
                "methods": ["dkd"],
                "seeds": [0],
                "training": {"epochs": epochs, "batch_size": BATCH},
            }
        )
        self._teacher, self._student = (run.spec for run in experiment.plan())
        (folder / "teacher.json").write_text(self._teacher.model_dump_json(), encoding="utf-8")
        if run_training(self._teacher, folder / "teacher") != "finished":
            raise RuntimeError(f"the teacher was not trained, see {folder / 'teacher' / JOURNAL_NAME}")

    def measure(self, case: Case) -> float:
        """Train the runs of a case, and return the sum of their images per second."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            out = Path(name)
            cache = self._folder / "cache" if self._cached else out / "cache"
            runs = [self._arguments(out / str(seed), seed) for seed in range(case.runs)]
            environment = _environment(case.way) | {"DKD_CACHE_DIR": str(cache)}
            (_train_as_group if case.way == "group" else _train_as_processes)(runs, environment)
            return sum(self._speed(out / str(seed)) for seed in range(case.runs))

    def _arguments(self, out: Path, seed: int) -> list[str]:
        out.mkdir()
        spec: RunSpec = self._student.model_copy(update={"seed": seed})
        (out / "run.json").write_text(spec.model_dump_json(), encoding="utf-8")
        teacher = ["--teacher", str(self._folder / "teacher.json")]
        weights = ["--teacher-weights", str(self._folder / "teacher" / "weights.safetensors")]
        return ["--run", str(out / "run.json"), "--out", str(out), *teacher, *weights]

    def _speed(self, out: Path) -> float:
        """Return the images per second of a run after its first epoch, evaluations included."""
        events = (record.event for record in read_journal(out / JOURNAL_NAME))
        ends = {event.epoch: event.elapsed for event in events if isinstance(event, Metrics) and event.epoch % 1 == 0}
        return (self._epochs - 1) * self._steps * BATCH / (ends[self._epochs] - ends[1])


def _environment(way: str) -> dict[str, str]:
    """Return the environment of trainings: on a CPU each has a thread, since they share the processors."""
    inherited = {name: value for name, value in os.environ.items() if name not in (THREADS, MOST_THREADS)}
    if not torch.cuda.is_available():
        inherited |= {THREADS: "1", "OMP_NUM_THREADS": "1"}
    if way == "mps":
        return inherited
    # A folder without a daemon: CUDA does not become a client.
    return inherited | {PIPES: "/dev/null", LOGS: "/dev/null"}


def _train_as_processes(runs: Sequence[list[str]], environment: dict[str, str]) -> None:
    with ExitStack() as processes:
        started = [
            processes.enter_context(_process([sys.executable, "-m", "core", "train", *run], environment))
            for run in runs
        ]
        codes = [process.wait(LIMIT_SECONDS) for process in started]
    if any(codes):
        raise RuntimeError(f"trainings ended with {codes}")


def _train_as_group(runs: Sequence[list[str]], environment: dict[str, str]) -> None:
    control, theirs = socket.socketpair()
    command = [sys.executable, "-m", "core", "group", "--control", str(theirs.fileno())]
    with ExitStack() as opened:
        opened.enter_context(_process(command, environment, pass_fds=[theirs.fileno()]))
        theirs.close()
        opened.enter_context(control)
        connections = []
        for run in runs:
            connection, member = socket.socketpair()
            connections.append(opened.enter_context(connection))
            connection.settimeout(LIMIT_SECONDS)
            socket.send_fds(control, [b"+"], [member.fileno()])
            member.close()
            connection.sendall(json.dumps(run).encode() + b"\n")
        answers = [connection.makefile().readline() for connection in connections]
    codes = [json.loads(answer)["code"] if answer else None for answer in answers]
    if any(code != 0 for code in codes):
        raise RuntimeError(f"the runs of the group ended with {answers}")


@contextmanager
def _process(command: list[str], environment: dict[str, str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, **more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _plain(device: str, steps: int) -> float:
    teacher, student = NETWORKS[device]
    return float(train.child(train.Case(teacher, student, BATCH, steps), "plain")["images_per_second"])


def measure(device: str, counts: Sequence[int], rounds: int, steps: int, epochs: int, *, cached: bool) -> list[Case]:
    """Measure all cases in turn, ``rounds`` times, every second round in the reverse order."""
    ways = ["processes", *(["mps"] if device == "cuda" and Mps().status().running else []), "group"]
    cases = [Case("plain", 1), *(Case(way, count) for count in counts for way in ways)]
    with tempfile.TemporaryDirectory(prefix="dkd-group-") as name:
        lab = Lab(Path(name), device, steps, epochs, cached=cached)
        if cached:
            lab.measure(Case("processes", 1))
        for number in range(rounds):
            for case in cases if number % 2 == 0 else reversed(cases):
                speed = _plain(device, steps) if case.way == "plain" else lab.measure(case)
                case.speeds.append(speed)
                print(f"round {number + 1}: {case.runs} × {case.way}: {speed:,.0f} images/s", flush=True)
    return cases


def report(cases: Sequence[Case], device: str, name: str, *, cached: bool) -> str:
    """Return the table in Markdown."""
    teacher, student = NETWORKS[device]
    plain = next(case for case in cases if case.way == "plain")
    ways = list(dict.fromkeys(case.way for case in cases if case.way != "plain"))
    lines = [
        "# Several trainings on one device",
        "",
        f"{name}, torch {torch.__version__}; {teacher} → {student}, batch {BATCH}, DKD. Sum of images per second of "
        "runs with the same teacher, data and views, and how many times that of one plain loop it is "
        f"({plain.speed:,.0f} images/s). The outputs of the teacher are {'' if cached else 'not '}on the disk at the "
        f"beginning. Medians of {len(plain.speeds)} round(s), in which all cases take turns. Written by "
        "`python -m benchmarks group --write`.",
        "",
        f"| runs | {' | '.join(ways)} |",
        f"|---:|{'---:|' * len(ways)}",
    ]
    speeds = {(case.runs, case.way): case.speed for case in cases}
    for count in sorted({case.runs for case in cases}):
        cells = [f"{speeds[count, way]:,.0f} ({speeds[count, way] / plain.speed:.1f} ×)" for way in ways]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    if device == "cuda":
        goals = " and ".join(f"{goal:g} × for {runs} run{'s' if runs > 1 else ''}" for runs, goal in GOALS.items())
        lines += ["", f"The goals are {goals}."]
    else:
        lines += [
            "",
            "On a CPU the runs of a group compute in turn on one thread, and processes on as many processors as there "
            "are: a group only saves what the runs have together. No GPU was at hand; the same command measures one.",
        ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks group", description=__doc__.splitlines()[0] if __doc__ else None
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--runs", type=int, nargs="+", default=RUNS[device], help="numbers of runs at the same time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS[device], help="steps of an epoch")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a run; the first is not counted")
    parser.add_argument("--cached", action="store_true", help="the outputs of the teacher are on the disk")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    options = parser.parse_args(arguments)
    if options.epochs < 2 or min(options.runs) < 1 or options.rounds < 1 or options.steps < 1:
        parser.error("--epochs is at least 2, the other numbers at least 1")
    name = torch.cuda.get_device_name() if device == "cuda" else machine.describe()
    cases = measure(device, options.runs, options.rounds, options.steps, options.epochs, cached=options.cached)
    text = report(cases, device, name, cached=options.cached)
    print(f"\n{text}")
    if options.write:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") if device == "cuda" else "cpu"
        content = {"device": name, "cached": options.cached, "cases": [asdict(case) for case in cases]}
        (RESULTS / f"group-{slug}.md").write_text(text, encoding="utf-8")
        (RESULTS / f"group-{slug}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
