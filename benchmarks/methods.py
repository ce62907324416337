"""Images per second and memory of each method: the engine's, and those of the public repository mdistiller.

Both train the same networks, batch and recipe. The public code trains as its trainer does: PIL images through
torchvision's transforms in two DataLoader workers, float32, the teacher in every step. The engine runs in ``float32``
(eager) and in ``auto`` (with the choices of a full run of 240 epochs), without reuse of the teacher's outputs. Each
measurement has a process of its own, the loops alternate, and the table has the medians of the rounds.

    python -m benchmarks methods --mdistiller DIR [--method NAME …] [--case TEACHER:STUDENT …] [--rounds 3]

Without ``--mdistiller`` only the engine is measured. Each round measures every method once. Each measurement is stored
at once in ``benchmarks/results/methods-DEVICE.json``, and the same command measures only what is missing there, so a
machine that is quiet for half an hour at a time is enough. The table is ``methods-DEVICE.md`` beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.public_code import NAMES, PublicCode, WithNegatives
from benchmarks.train import Case, PILImages, engine, plain_images, run_plain_loop
from core.catalog import METHODS
from core.settings import TrainingSettings
from core.train.performance import apply_thread_limit
from core.train.ranks import SINGLE_PROCESS

RESULTS = Path(__file__).parent / "results"
LOOPS = ("public", "float32", "auto")
BARS = {"cpu": {"float32": 1.5, "auto": 2.0}, "cuda": {"float32": 5.0, "auto": 5.0}}
CASES = ("resnet20:resnet8", "resnet32x4:resnet8x4")


def public(case: Case, device: torch.device, folder: Path) -> dict[str, float]:
    """Measure the public code in its own training loop."""
    images = plain_images(case)
    if device.type == "cpu":  # CRD's memory moves its tensors to a GPU, whether there is one or not
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    distiller = PublicCode(folder).distiller(case.method, case.student, case.teacher, len(images.train.labels))
    distiller.to(device)
    samples: torch.utils.data.Dataset[Any] = PILImages(images)
    if case.method == "crd":
        samples = WithNegatives(samples, images.train.labels)

    def step(inputs: Tensor, target: Tensor, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        more = dict(zip(("index", "contrastive_index"), numbers, strict=False))
        logits, losses = distiller(image=inputs, target=target, epoch=1, **more)
        return logits, torch.stack([loss.mean() for loss in losses.values()]).sum()

    measured = run_plain_loop(case, device, samples, distiller.get_learnable_parameters(), step)
    return measured | {"parameters_added": float(distiller.get_extra_parameters())}


def measure(loop: str, case: Case, device: torch.device, folder: Path | None) -> dict[str, Any]:
    """Run one measurement; ``memory_mb`` is the peak of the process, or of the GPU."""
    if loop == "public":
        assert folder is not None
        measured: dict[str, Any] = public(case, device, folder)
    else:
        measured = engine(loop, case, device)
    on_gpu = device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated() / 1e6 if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    )
    return measured | {"memory_mb": peak}


def child(loop: str, case: Case, folder: Path | None) -> dict[str, Any]:
    """Run one measurement in a process of its own.

    Raises:
        RuntimeError: The process failed.
    """
    command = [sys.executable, "-m", "benchmarks.methods", "--loop", loop, "--method", case.method]
    command += ["--case", f"{case.teacher}:{case.student}", "--batch", str(case.batch), "--steps", str(case.steps)]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [*command, *(["--mdistiller", str(folder)] if folder else [])],
            env=os.environ | {"DKD_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{case.method} {loop}: {done.stderr[-1500:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@dataclass
class Measurements:
    """What was measured so far, in a file.

    Attributes:
        path: The file.
        conditions: What all measurements have in common; those under other conditions are dropped.
        measured: The measurements by case, method and loop, one for each round.
        failed: The last line of the error, by case and method.
    """

    path: Path
    conditions: dict[str, Any]
    measured: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, conditions: dict[str, Any]) -> Self:
        """Return the measurements in a file that were made under the same conditions; failed ones are tried again."""
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if stored.get("conditions") != conditions:
            return cls(path, conditions)
        return cls(path, conditions, stored["measured"])

    def of(self, case: Case) -> dict[str, list[dict[str, Any]]]:
        """Return the measurements of a pair with a method, by loop."""
        return self.measured.setdefault(_pair(case), {}).setdefault(case.method, {})

    def add(self, case: Case, loop: str, folder: Path | None) -> None:
        """Measure once more, and store the result at once."""
        try:
            self.of(case).setdefault(loop, []).append(child(loop, case, folder))
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
            self.failed.setdefault(_pair(case), {})[case.method] = str(error).splitlines()[-1][:80]
        content = {"conditions": self.conditions, "measured": self.measured, "failed": self.failed}
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _pair(case: Case) -> str:
    return f"{case.teacher}:{case.student}"


def measure_missing(measurements: Measurements, cases: Sequence[Case], rounds: int, folder: Path | None) -> None:
    """Measure until each loop of each method has so many rounds; within a round, the loops of a method take turns."""
    for number in range(rounds):
        for case in cases:
            loops = [loop for loop in LOOPS if loop != "public" or (folder and case.method in NAMES)]
            for loop in loops:
                failed = case.method in measurements.failed.get(_pair(case), {})
                if not failed and len(measurements.of(case).get(loop, ())) <= number:
                    measurements.add(case, loop, folder)
            row = _row(METHODS[case.method].title, measurements.of(case), measurements.conditions["device"])
            print(f"round {number + 1}, {_pair(case)}: {row}", flush=True)


def report(measurements: Measurements) -> str:
    """Return the tables in Markdown."""
    conditions = measurements.conditions
    rounds = {
        len(ones) for methods in measurements.measured.values() for loops in methods.values() for ones in loops.values()
    }
    count = " to ".join(str(number) for number in sorted({min(rounds, default=0), max(rounds, default=0)}))
    bars = BARS[conditions["device"]]
    lines = [
        "# Speed of the methods",
        "",
        f"Measured on {conditions['machine']}, torch {conditions['torch']}, {conditions['threads']} threads: medians "
        f"of {count} rounds in turn, {conditions['steps']} steps each. Written by `python -m benchmarks methods`. "
        f"The goal is {bars['float32']:g} × in float32 and {bars['auto']:g} × in auto; ratios below it are bold. "
        "Memory is the peak of the process, with torch's own code.",
    ]
    for pair, methods in measurements.measured.items():
        lines += [
            "",
            f"## {pair.replace(':', ' → ')}, batch {conditions['batch']}",
            "",
            "| method | public, images/s | float32, images/s | times | auto, images/s | times | parameters added "
            "| memory, MB: public, float32, auto |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for method, loops in methods.items():
            if failure := measurements.failed.get(pair, {}).get(method):
                lines.append(f"| {METHODS[method].title} | failed: {failure} |||||||")
            elif loops:
                lines.append(_row(METHODS[method].title, loops, conditions["device"]))
    return "\n".join(lines) + "\n"


def _row(title: str, measured: Mapping[str, Sequence[Mapping[str, Any]]], device: str) -> str:
    def median(loop: str, name: str) -> float | None:
        values = [one[name] for one in measured.get(loop, ())]
        return statistics.median(values) if values else None

    speeds = {loop: median(loop, "images_per_second") for loop in LOOPS}
    cells = [title, _number(speeds["public"])]
    for loop in ("float32", "auto"):
        own, theirs = speeds[loop], speeds["public"]
        times = own / theirs if own and theirs else None
        bar = BARS[device][loop]
        cells += [_number(own), "" if times is None else f"{times:.1f}" if times >= bar else f"**{times:.1f}**"]
    cells += [_number(median("float32", "parameters_added"))]
    cells += [", ".join(_number(median(loop, "memory_mb")) or "–" for loop in LOOPS)]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store the tables; with ``--loop``, print one measurement as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mdistiller", type=Path, metavar="DIR", help="a checkout of megvii-research/mdistiller")
    parser.add_argument("--method", action="append", metavar="NAME", help="default: every method that both have")
    parser.add_argument("--case", action="append", metavar="TEACHER:STUDENT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, help="measured steps per round; default: 30 on a CPU, 300 on a GPU")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    apply_thread_limit(TrainingSettings.from_environment())
    device = SINGLE_PROCESS.device()
    on_gpu = device.type == "cuda"
    methods = options.method or [entry.name for entry in METHODS if entry.name in NAMES]
    pairs = [name.split(":") for name in options.case or CASES]
    steps = options.steps or (300 if on_gpu else 30)
    cases = [Case(teacher, student, options.batch, steps, method) for teacher, student in pairs for method in methods]
    if options.loop:
        print(json.dumps(measure(options.loop, cases[0], device, options.mdistiller)))
        return
    conditions = {
        "device": "cuda" if on_gpu else "cpu",
        "machine": torch.cuda.get_device_name(device) if on_gpu else machine.describe(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": options.batch,
        "steps": steps,
    }
    path = RESULTS / f"methods-{conditions['device']}.json"
    measurements = Measurements.read(path, conditions)
    measure_missing(measurements, cases, options.rounds, options.mdistiller)
    path.with_suffix(".md").write_text(report(measurements), encoding="utf-8")
    print(f"written to {path.with_suffix('.md').relative_to(RESULTS.parents[1])}")


if __name__ == "__main__":
    main()
