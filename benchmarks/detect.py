"""Images per second of torchvision's reference training of detectors and of the engine, with the same networks.

The reference is the way of torchvision's public script: JPEG files, decoded and transformed one by one in DataLoader
workers, a list of images and of targets, float32, the model's own transform, and the loss read in every step. DKD is
added as the public code for COCO adds it: the teacher runs on the images, and the box heads of student and teacher run
on the student's proposals, the student's a second time.

The engine asks the teacher in each step (``engine``), or has its logits of fixed boxes from disk (``kept``, the second
of two runs). Each measurement has a process of its own, the loops alternate, and the table has the medians.

    python -m benchmarks.detect [--rounds 3] [--case resnet20:resnet8] [--batch 8] [--side 192]

The images are scenes of digits, so nothing is needed from elsewhere. The result is printed and written to
``benchmarks/results/detect-DEVICE.md``, and that of another pair than the usual one to a file with its name.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import machine
from core.events import Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import DatasetRef, RunSpec, parse_experiment
from core.tasks.detection import data
from core.tasks.detection.data import DetectionData
from core.tasks.detection.models.detector import Detector
from core.tasks.detection.networks import build_detector
from core.train import TeacherSource, run_training
from core.train.performance import apply_thread_limit
from core.train.ranks import SINGLE_PROCESS
from core.weights.metadata import Metadata
from core.weights.network_weights import save_weights

RESULTS = Path(__file__).parent / "results"
LOOPS = ("reference", "engine", "kept")
BARS = {"engine": 1.5, "kept": 2.5}
STALL_BAR = 3.0
WORKERS = 2
WARM_UP = 5
USUAL = "resnet20:resnet8"
ALPHA, BETA = 1.0, 0.25


@dataclass(frozen=True)
class Case:
    """A pair of Faster R-CNN by their backbones; ``steps`` are measured after a warm-up."""

    teacher: str
    student: str
    batch: int
    side: int
    steps: int

    @property
    def dataset(self) -> dict[str, Any]:
        """The scenes, one for each image of an epoch."""
        params = {"train_size": self.batch * self.steps, "test_size": 4, "image_size": self.side, "max_digit": 48}
        return {"name": "digit_scenes", "params": params}

    def spec(self, boxes: str = "student") -> list[RunSpec]:
        """Return the runs of teacher and student."""
        experiment = parse_experiment(
            {
                "name": "speed",
                "dataset": self.dataset,
                "teacher": {"model": _network(self.teacher)},
                "student": {"model": _network(self.student)},
                "methods": [
                    {"name": "dkd", "params": {"temperature": 1, "beta": BETA, "ramp_epochs": 0}, "regions": boxes}
                ],
                "seeds": [0],
                "training": {"epochs": 2, "batch_size": self.batch, "evaluate_every": 2},
            }
        )
        return [run.spec for run in experiment.plan()]


def _network(backbone: str) -> dict[str, Any]:
    return {"name": "faster_rcnn", "params": {"backbone": backbone}}


class JPEGs(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images in files with their targets, as torchvision's script reads them.

    Args:
        scenes: The images.
        folder: Where the files are written.
    """

    def __init__(self, scenes: DetectionData, folder: Path) -> None:
        from PIL import Image
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        self.paths, self.targets = [], []
        split = scenes.train
        for number in range(len(split)):
            path = folder / f"{number}.jpg"
            Image.fromarray(split.image(number).permute(1, 2, 0).numpy()).save(path, quality=95)
            rows = split.objects.image == number
            boxes = torch.from_numpy(split.objects.boxes[rows])
            height, width = (int(side) for side in split.originals[number])
            self.paths.append(path)
            self.targets.append(
                {
                    "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
                    "labels": torch.from_numpy(split.objects.labels[rows]),
                }
            )
        self.transform = v2.Compose(
            [v2.RandomHorizontalFlip(0.0), v2.PILToTensor(), v2.ToDtype(torch.float, scale=True)]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            shown: tuple[Tensor, dict[str, Tensor]] = self.transform(image.convert("RGB"), self.targets[index])
        return shown


class WithDKD(nn.Module):
    """A student of torchvision whose losses are joined by DKD on its own proposals, with both box heads run on them."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self._teacher = [teacher]  # no submodule: it is not trained

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the losses by name."""
        student: Any = self.student
        teacher: Any = self._teacher[0]
        batch, objects = student.transform(images, targets)
        features = student.backbone(batch.tensors)
        proposals, losses = student.rpn(batch, features, objects)
        sampled, _, labels, regression = student.roi_heads.select_training_samples(proposals, objects)
        from torchvision.models.detection.roi_heads import fastrcnn_loss

        logits, offsets = _head(student.roi_heads, features, sampled, batch.image_sizes)
        losses["loss_classifier"], losses["loss_box_reg"] = fastrcnn_loss(logits, offsets, labels, regression)
        with torch.no_grad():
            seen, _ = teacher.transform(images)
            teachers, _ = _head(teacher.roi_heads, teacher.backbone(seen.tensors), sampled, batch.image_sizes)
        again, _ = _head(student.roi_heads, features, sampled, batch.image_sizes)
        losses["loss_dkd"] = usual_dkd(again, teachers, torch.cat(labels))
        return losses  # type: ignore[no-any-return]


def _head(heads: Any, features: Any, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    logits, offsets = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, sizes)))
    return logits, offsets


def usual_dkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Compute DKD at temperature 1, step by step as in the paper."""
    is_target = functional.one_hot(target, student.shape[1]).bool()
    p, q = student.softmax(1), teacher.softmax(1)
    p_two, q_two = (torch.stack([(rows * is_target).sum(1), (rows * ~is_target).sum(1)], 1) for rows in (p, q))
    tckd = functional.kl_div(p_two.log(), q_two, reduction="batchmean")
    p_rest, q_rest = (logits - 1000.0 * is_target for logits in (student, teacher))
    nckd = functional.kl_div(p_rest.log_softmax(1), q_rest.softmax(1), reduction="batchmean")
    return ALPHA * tckd + BETA * nckd


def reference(case: Case, device: torch.device) -> dict[str, float]:
    """Measure torchvision's way."""
    teacher_run, student_run = case.spec()
    settings = TrainingSettings.from_environment()
    more = case.batch * WARM_UP
    params = {**case.dataset["params"], "train_size": case.dataset["params"]["train_size"] + more}
    scenes = data.load(DatasetRef(name="digit_scenes", params=params), settings)
    networks = [
        _of_torchvision(build_detector(run.model, scenes.num_classes), case) for run in (student_run, teacher_run)
    ]
    student, teacher = (network.to(device) for network in networks)
    teacher.eval().requires_grad_(False)
    model = WithDKD(student, teacher).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        loader = torch.utils.data.DataLoader(
            JPEGs(scenes, Path(folder)), case.batch, shuffle=True, num_workers=WORKERS, collate_fn=_tuples
        )
        began = waited = 0.0
        requested = time.perf_counter()
        for number, (images, targets) in enumerate(loader):
            if number == WARM_UP:
                began, waited, requested = time.perf_counter(), 0.0, time.perf_counter()
            waited += time.perf_counter() - requested
            shown = [image.to(device) for image in images]
            objects = [{name: value.to(device) for name, value in target.items()} for target in targets]
            losses = model(shown, objects)
            total = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(total):
                raise RuntimeError("the loss is not finite")
            f"{total.item():.4f} {' '.join(f'{value.item():.4f}' for value in losses.values())}"
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            requested = time.perf_counter()
    seconds = requested - began
    return {"images_per_second": case.steps * case.batch / seconds, "input_stall": 100 * waited / seconds}


def _tuples(batch: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*batch, strict=True))


def _of_torchvision(detector: Detector, case: Case) -> nn.Module:
    """Return a detector's network with torchvision's pooling, and a transform that keeps the size of the images."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.ops import MultiScaleRoIAlign

    network: Any = detector.network
    mean, std = ([float(x) for x in values.flatten()] for values in (detector.mean, detector.std))
    network.transform = GeneralizedRCNNTransform(case.side, case.side, mean, std)
    ours = network.roi_heads.box_roi_pool
    pool = MultiScaleRoIAlign(ours.featmap_names, ours.output_size, ours.sampling_ratio)
    pool.scales, pool.map_levels = ours.scales, ours.map_levels
    network.roi_heads.box_roi_pool = pool
    return network  # type: ignore[no-any-return]


def engine(loop: str, case: Case) -> dict[str, float]:
    """Return the engine's own metrics of its second epoch; with ``kept``, of the second of two runs."""
    teacher_run, student_run = case.spec("fixed" if loop == "kept" else "student")
    settings = TrainingSettings.from_environment()
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "teacher.safetensors"
        scenes = data.load(teacher_run.dataset, settings)
        torch.manual_seed(0)
        save_weights(build_detector(teacher_run.model, scenes.num_classes), weights, Metadata())
        for number in range(2 if loop == "kept" else 1):
            out = Path(folder) / str(number)
            if run_training(student_run, out, TeacherSource(teacher_run, weights), settings=settings) != "finished":
                raise RuntimeError((out / "events.jsonl").read_text()[-2000:])
            events = [record.event for record in read_journal(out / "events.jsonl")]
            values = [event.values for event in events if isinstance(event, Metrics)][-1]
    return {name: values[f"speed/{name}"] for name in ("images_per_second", "input_stall")}


def child(case: Case, loop: str) -> dict[str, float]:
    """Run one measurement in a process of its own. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "benchmarks.detect", "--loop", loop, "--case", f"{case.teacher}:{case.student}"]
    command += ["--batch", str(case.batch), "--steps", str(case.steps), "--side", str(case.side)]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            command, env=os.environ | {"DKD_CACHE_DIR": cache}, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{loop}: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and store the table; with ``--loop``, print one measurement as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", default=USUAL, metavar="TEACHER:STUDENT")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=192, help="pixels of a side of the images")
    parser.add_argument("--steps", type=int, default=20, help="measured steps per round")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    apply_thread_limit(TrainingSettings.from_environment())
    device = SINGLE_PROCESS.device()
    teacher, student = options.case.split(":")
    case = Case(teacher, student, options.batch, options.side, options.steps)
    if options.loop:
        print(json.dumps(reference(case, device) if options.loop == "reference" else engine(options.loop, case)))
        return
    rounds: dict[str, list[dict[str, float]]] = {loop: [] for loop in LOOPS}
    for number in range(options.rounds):
        for loop in LOOPS:
            rounds[loop].append(child(case, loop))
            print(f"  round {number + 1} {loop:<9} {rounds[loop][-1]['images_per_second']:,.1f} images/s", flush=True)
    lines = _table(case, rounds, device)
    print("\n".join(lines))
    pair = "" if options.case == USUAL else f"-{teacher}-{student}"
    path = RESULTS / f"detect-{device.type}{pair}.md"
    path.write_text("\n".join(lines) + "\n")
    print(f"written to {path.relative_to(RESULTS.parents[1])}")


def _table(case: Case, rounds: dict[str, list[dict[str, float]]], device: torch.device) -> list[str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.describe()
    speeds = {loop: statistics.median(one["images_per_second"] for one in of_loop) for loop, of_loop in rounds.items()}
    lines = [
        "# Training of detectors: images per second",
        "",
        f"Faster R-CNN, {case.teacher} → {case.student}, {case.side} px, batch {case.batch}, DKD; {name}, torch "
        f"{torch.__version__}. Medians of {len(rounds['engine'])} rounds in turn, {case.steps} steps each, by "
        "`python -m benchmarks.detect`. `reference`: torchvision's public way. `engine`: the teacher in each step. "
        "`kept`: the teacher's logits of fixed boxes from disk.",
        "",
        "| loop | images/s | rounds | times the reference | goal | waiting for images |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for loop, of_loop in rounds.items():
        each = ", ".join(f"{one['images_per_second']:.1f}" for one in of_loop)
        stall = statistics.median(one["input_stall"] for one in of_loop)
        times = speeds[loop] / speeds["reference"]
        goal = f"{BARS[loop]}" if loop in BARS else ""
        lines.append(f"| {loop} | {speeds[loop]:.1f} | {each} | {times:.2f} | {goal} | {stall:.1f} % |")
    return lines


if __name__ == "__main__":
    main()
