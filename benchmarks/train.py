"""Images per second of a plain training loop and of the engine, with the same networks, batch and recipe.

The plain loop is that of common distillation repositories: PIL images through torchvision's transforms in DataLoader
workers, float32, the teacher's forward pass in every step, DKD by autograd, and ``.item()`` in every step. The engine
runs in ``auto`` (with the choices of a full run of 240 epochs) and in float32, without reuse of the teacher's logits;
``reused`` shows the effect of their reuse. Each measurement has a process of its own, and the loops alternate. The
output is the medians of the rounds, with their share of the measured peak of matrix products.

    python -m benchmarks.train [--rounds 3] [--case resnet20:resnet8] [--batch 64]

The result is printed and written to ``benchmarks/results/train-DEVICE.json``. Images are from CIFAR-100
if it is in ``DATA_DIR``, otherwise random bytes: the speed does not depend on the content of the images.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import machine
from benchmarks.public_code import PARAMS
from core.catalog.methods import DKDParams
from core.events import Journal, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import DatasetRef, MethodRef, RunSpec, Speed, parse_experiment
from core.tasks.classification import data, models
from core.tasks.classification.data import Augmentation, Dataset, DatasetError, Split
from core.tasks.classification.diagnostics.accuracy import top_accuracies
from core.tasks.classification.task import ClassificationTask
from core.tasks.task import LoadedTeacher
from core.tasks.workload import Workload
from core.train.engine import Engine
from core.train.job import Job
from core.train.performance import ExecutionPlan, apply_thread_limit, plan_execution
from core.train.ranks import SINGLE_PROCESS

RESULTS = Path(__file__).parent / "results"
LOOPS = ("plain", "float32", "auto", "reused")
FULL = Workload(samples=240 * 50_000, steps=782, image_size=32)
BARS = {"cpu": {"auto": 2.0, "float32": 1.2}, "cuda": {"auto": 8.0}}
STALL_BAR = 3.0
CASES = {"cpu": ["resnet20:resnet8"], "cuda": ["resnet32x4:resnet8x4", "resnet50_cifar:resnet18_cifar"]}
WORKERS = 2


@dataclass(frozen=True)
class Case:
    """A pair of networks, a batch size and a method; ``steps`` are measured after a warm-up."""

    teacher: str
    student: str
    batch: int
    steps: int
    method: str = "dkd"

    def networks(self, device: torch.device) -> tuple[models.Network, models.Network]:
        """Return an untrained teacher and student: the speed does not depend on their weights."""
        torch.manual_seed(0)
        teacher, student = (
            models.build(name, num_classes=100, image_size=32).to(device) for name in (self.teacher, self.student)
        )
        return teacher.eval().requires_grad_(False), student


def images(count: int) -> Dataset:
    """Return the first training images of CIFAR-100, or random ones if it is absent, and a few test images."""
    try:
        cifar = data.load(DatasetRef(name="cifar100"), TrainingSettings.from_environment())
        pixels, labels = cifar.train.images[:count], cifar.train.labels[:count]
    except DatasetError:
        random = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=random)
        labels = torch.randint(100, (count,), generator=random)
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    train, test = Split(pixels.clone(), labels.clone()), Split(pixels[:64].clone(), labels[:64].clone())
    return Dataset(train, test, 100, mean, std, Augmentation(pad=4, flip=True))


class PILImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A data set like torchvision's CIFAR100: each array becomes a PIL image, which is then transformed."""

    def __init__(self, dataset: Dataset) -> None:
        from torchvision import transforms

        self.arrays = dataset.train.images.permute(0, 2, 3, 1).numpy()
        self.labels = dataset.train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def usual_dkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Compute cross-entropy plus DKD with the catalog's weights, without a ramp, step by step as in the paper.

    Args:
        student: Logits (B, C).
        teacher: Logits (B, C).
        target: Classes (B,).
    """
    params = MethodRef(name="dkd").parsed_params
    assert isinstance(params, DKDParams)
    temperature = params.temperature
    is_target = functional.one_hot(target, student.shape[1]).bool()
    p, q = ((logits / temperature).softmax(1) for logits in (student, teacher))
    p_two, q_two = (torch.stack([(rows * is_target).sum(1), (rows * ~is_target).sum(1)], 1) for rows in (p, q))
    tckd = functional.kl_div(p_two.log(), q_two, reduction="batchmean")
    p_rest, q_rest = (logits / temperature - 1000.0 * is_target for logits in (student, teacher))
    nckd = functional.kl_div(p_rest.log_softmax(1), q_rest.softmax(1), reduction="batchmean")
    distilled = temperature**2 * (params.alpha * tckd + params.beta * nckd)
    return params.ce_weight * functional.cross_entropy(student, target) + distilled


PublicStep = Callable[..., tuple[Tensor, Tensor]]
"""Maps the tensors of a batch to the student's logits and the loss."""


def plain(case: Case, device: torch.device) -> dict[str, float]:
    """Measure the plain loop with DKD by autograd."""
    teacher, student = case.networks(device)

    def step(inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            teacher_logits = teacher(inputs)
        logits = student(inputs)
        return logits, usual_dkd(logits, teacher_logits, target)

    student.train()
    return run_plain_loop(case, device, PILImages(plain_images(case)), student.parameters(), step)


WARM_UP = 10
"""Steps of the plain loop before its measurement. They hide the start of its workers, which every epoch repeats."""


def plain_images(case: Case) -> Dataset:
    """Return the images that the plain loop reads, warm-up included."""
    return images((case.steps + WARM_UP) * case.batch)


def run_plain_loop(
    case: Case,
    device: torch.device,
    samples: torch.utils.data.Dataset[Any],
    parameters: Iterable[Tensor],
    step: PublicStep,
) -> dict[str, float]:
    """Measure a plain loop over all samples; each batch's tensors are the arguments of ``step``."""
    loader = torch.utils.data.DataLoader(
        samples, case.batch, shuffle=True, num_workers=WORKERS, pin_memory=device.type == "cuda"
    )
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)
    began, waited = 0.0, 0.0
    requested = time.perf_counter()
    for number, batch in enumerate(loader):
        if number == WARM_UP:
            began, waited, requested = time.perf_counter(), 0.0, time.perf_counter()
        waited += time.perf_counter() - requested
        tensors = [tensor.to(device, non_blocking=True) for tensor in batch]
        optimizer.zero_grad()
        logits, loss = step(*tensors)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        accuracies = top_accuracies(logits.detach(), tensors[1])
        f"loss {loss.item():.4f} top-1 {accuracies['top1'].item():.2f} top-5 {accuracies['top5'].item():.2f}"
        requested = time.perf_counter()
    seconds = requested - began
    return {"images_per_second": case.steps * case.batch / seconds, "input_stall": 100 * waited / seconds}


def plan_for(loop: str, device: torch.device) -> ExecutionPlan:
    """Return the engine's execution plan. In float32 it is eager, so that only its loop differs from the plain one."""
    speed = Speed(precision="float32", compile="off", cuda_graphs="off") if loop == "float32" else Speed()
    return plan_execution(speed, device, FULL)


def engine(loop: str, case: Case, device: torch.device) -> dict[str, Any]:
    """Return the engine's own metrics of its second epoch; with ``reused``, of the second of two runs."""
    plan = plan_for(loop, device)
    dataset = images(case.steps * case.batch).to(device)
    key = {"teacher": {"model": case.teacher, "sha256": "benchmark"}} if loop == "reused" else None
    values: dict[str, float] = {}
    added = 0
    for _ in range(2 if key else 1):
        teacher, student = case.networks(device)
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "events.jsonl") as journal:
            job = Job(_spec(case), journal, TrainingSettings.from_environment())
            task = ClassificationTask(job.context, dataset)
            training = Engine(job, task, student, plan, LoadedTeacher(teacher, key))
            training.train()
            added = sum(parameter.numel() for parameter in training.objective.parameters())
            events = [record.event for record in read_journal(journal.path)]
        values = [event.values for event in events if isinstance(event, Metrics)][-1]
    metrics = {name: values[f"speed/{name}"] for name in ("images_per_second", "input_stall")}
    return metrics | {"chosen": plan.environment(), "parameters_added": added}


def _spec(case: Case) -> RunSpec:
    spec = parse_experiment(
        {
            "name": "speed",
            "dataset": "cifar100",
            "teacher": {"model": case.teacher},
            "student": {"model": case.student},
            "methods": [{"name": case.method, "params": dict(PARAMS.get(case.method, {}))}],
            "seeds": [0],
            "training": {"epochs": 2, "batch_size": case.batch},
        }
    )
    return spec.plan()[-1].spec


def operations(case: Case) -> float:
    """Return the multiplications and additions per image: student forward and backward, teacher forward."""
    from torch.utils.flop_counter import FlopCounterMode

    teacher, student = case.networks(torch.device("cpu"))
    inputs = torch.zeros(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            teacher(inputs)
        student(inputs).sum().backward()
    total: int = counter.get_total_flops()
    return total / len(inputs)


def peak(precision: str, device: torch.device) -> float:
    """Return the operations per second of large matrix products, the best of several.

    They are computed as products and as 1 × 1 convolutions: on an AMD CPU, the library that multiplies float32 matrices
    leaves half of the arithmetic units idle, and the library that convolves does not.
    """
    size, dtype = (2048, 8192)[device.type == "cuda"], getattr(torch, precision)
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    side = 32
    pixels = one.reshape(-1, side, side, 512).permute(0, 3, 1, 2)  # channels last
    kernel = other.reshape(-1)[: 512 * 512].view(512, 512, 1, 1)
    products: list[tuple[int, Callable[[], object]]] = [
        (2 * size**3, lambda: one @ other),
        (2 * 512 * one.numel(), lambda: functional.conv2d(pixels, kernel)),
    ]
    best = 0.0
    for _ in range(10):
        for count, product in products:
            _wait(device)
            began = time.perf_counter()
            product()
            _wait(device)
            best = max(best, count / (time.perf_counter() - began))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profile(case: Case, device: torch.device) -> str:
    """Return a table of the GPU kernels of ``auto`` by time, one line each."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        engine("auto", Case(case.teacher, case.student, case.batch, 60), device)
    table: str = profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=20, max_name_column_width=60)
    return table


def child(case: Case, loop: str) -> dict[str, Any]:
    """Run one measurement in a process of its own. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "benchmarks.train", "--loop", loop, "--case", f"{case.teacher}:{case.student}"]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [*command, "--batch", str(case.batch), "--steps", str(case.steps)],
            env=os.environ | {"DKD_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{loop}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(case: Case, rounds: int, device: torch.device, loops: tuple[str, ...] = LOOPS) -> dict[str, Any]:
    """Measure all loops of a case in turn, and return their medians and ratios."""
    rounds_by_loop: dict[str, list[dict[str, Any]]] = {loop: [] for loop in loops}
    for number in range(rounds):
        for loop in loops:
            rounds_by_loop[loop].append(child(case, loop))
            speed = rounds_by_loop[loop][-1]["images_per_second"]
            print(f"  round {number + 1} {loop:<8} {speed:,.0f} images/s", flush=True)
    per_image = operations(case)
    medians = {
        loop: statistics.median(one["images_per_second"] for one in runs) for loop, runs in rounds_by_loop.items()
    }
    result: dict[str, Any] = {
        "case": f"{case.teacher} → {case.student}, batch {case.batch}",
        "gigaflop_an_image": round(per_image / 1e9, 4),
        "loops": {},
    }
    for loop, runs in rounds_by_loop.items():
        chosen = runs[-1].get("chosen", {"precision": "float32"})
        top = peak(chosen["precision"], device)
        result["loops"][loop] = {
            "images_per_second": round(medians[loop], 1),
            "rounds": [round(one["images_per_second"], 1) for one in runs],
            "input_stall_percent": round(statistics.median(one["input_stall"] for one in runs), 2),
            "times_plain": round(medians[loop] / medians["plain"], 2) if "plain" in medians else None,
            "matmul_peak_gigaflops": round(top / 1e9),
            # A reused teacher does not run, so the share would count operations that are not executed.
            "share_of_peak_percent": None if loop == "reused" else round(100 * medians[loop] * per_image / top, 2),
            "chosen": chosen,
        }
    return result


def best_batch(case: Case, device: torch.device) -> dict[str, Any]:
    """Return the batch size at which ``auto`` is fastest, with a profile of it."""
    speeds = {}
    for size in (64, 128, 256, 512, 1024, 2048):
        at = Case(case.teacher, case.student, size, max(50, 30_000 // size))
        try:
            speeds[size] = child(at, "auto")["images_per_second"]
        except RuntimeError as error:
            print(f"  batch {size}: {str(error).splitlines()[-1]}")
            break
    best = max(speeds, key=speeds.__getitem__)
    at = Case(case.teacher, case.student, best, 100)
    return {"images_per_second_by_batch": speeds, "best": best, "profile": profile(at, device).splitlines()}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store the results; with ``--loop``, print one measurement as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", action="append", metavar="TEACHER:STUDENT", help="default: the cases of the device")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, help="measured steps per round; default: 60 on a CPU, 500 on a GPU")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    apply_thread_limit(TrainingSettings.from_environment())
    device = SINGLE_PROCESS.device()
    on_gpu = device.type == "cuda"
    steps = options.steps or (500 if on_gpu else 60)
    pairs = [name.split(":") for name in options.case or CASES[device.type]]
    cases = [Case(teacher, student, options.batch, steps) for teacher, student in pairs]
    if options.loop:
        (case,) = cases
        print(json.dumps(plain(case, device) if options.loop == "plain" else engine(options.loop, case, device)))
        return
    name = torch.cuda.get_device_name(device) if on_gpu else machine.describe()
    print(f"\nTraining, images/s, median of {options.rounds} rounds in turn; {name}, torch {torch.__version__}")
    results = []
    for case in cases:
        print(f"{case.teacher} → {case.student}, batch {case.batch}")
        results.append(measure(case, options.rounds, device))
        if on_gpu:
            results[-1]["batches"] = best_batch(case, device)
    print("| networks | loop | images/s | times plain | waiting for images | share of matmul peak |")
    print("|---|---|---|---|---|---|")
    for result in results:
        for loop, row in result["loops"].items():
            share = "" if row["share_of_peak_percent"] is None else f"{row['share_of_peak_percent']:.1f} %"
            figures = f"{row['images_per_second']:,.0f} | {row['times_plain']:.2f} | {row['input_stall_percent']:.1f} %"
            print(f"| {result['case']} | {loop} | {figures} | {share} |")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") if on_gpu else "cpu"
    content = {
        "machine": machine.describe(),
        "device": name if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bars": {"times_plain": BARS[device.type], "input_stall_percent": STALL_BAR},
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"train-{slug}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {path.relative_to(RESULTS.parents[1])}")


if __name__ == "__main__":
    main()
