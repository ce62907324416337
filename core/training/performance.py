"""What is chosen for speed: a rule of the spec and the device alone, so that two runs of one spec choose alike."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field

from core.events import MOST_THREADS, THREADS
from core.specs import Speed

Precision = Literal["float32", "bfloat16", "float16"]

SMALL_SIDE = 16
"""Of smaller images 16 bits save nothing: what a layer costs is then its call, and the conversions come on top."""

COMPILE_PIXELS = {"cpu": 5e8, "cuda": 1e10}
"""Pixels that a run has to see before compiling is worth its time. On two cores resnet20 and resnet8 took 23 s to
compile, and a step of 64 images 33 ms instead of 51: that is made up for after 8e7. The GPU's is an estimate."""

THREADED_PRODUCTS = 3e8
"""Multiplications of a step's forward pass from which a second CPU thread pays: below, threads wait for each other
longer than they compute. resnet20 on 64 images of 8 px has 1.6e8 and took twice as long with two threads as with one on
a busy machine; resnet8 on 64 images of 32 px has 8e8."""

GRAPH_STEPS = 50
"""Steps of an epoch from which a CUDA graph pays: it is recorded once an epoch, which takes as long as a few steps."""


class ExecutionPlan(BaseModel):
    """How a run does its arithmetic. A resumed run goes on with what it began with.

    Attributes:
        precision: of the networks in training; weights, losses and evaluation are in float32.
        fused: whether the optimiser updates all parameters in one kernel.
        threads: of torch on the CPU.
        deterministic: whether only such kernels may train as repeat bit for bit; a CPU has no others.
        reasons: a phrase for each choice that has one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Precision = "float32"
    channels_last: bool = False
    fused: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    threads: int = Field(ge=1)
    deterministic: bool = False
    reasons: dict[str, str] = Field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> torch.autocast:
        """A block in which networks compute in ``precision``."""
        return torch.autocast(device.type, self.dtype, enabled=self.precision != "float32")

    def environment(self) -> dict[str, str]:
        """As ``Started.environment`` keeps it: pairs of runs are compared by these."""
        switches = {name: getattr(self, name) for name in ("channels_last", "fused", "compile", "cuda_graphs")}
        words = {name: "on" if value else "off" for name, value in switches.items()}
        return {"precision": self.precision, **words, "threads": str(self.threads)} | (
            {"deterministic": "on"} if self.deterministic else {}
        )

    def summary(self) -> str:
        """For the run's log."""
        parts = [
            f"{name} {value} ({self.reasons[name]})" if name in self.reasons else f"{name} {value}"
            for name, value in self.environment().items()
        ]
        return f"for speed: {', '.join(parts)}"

    def without(self, name: Literal["compile", "cuda_graphs"], reason: str) -> Self:
        """The same with one switch off, because it did not work here."""
        return self.model_copy(update={name: False, "reasons": self.reasons | {name: reason}})

    def apply(self) -> Self:
        """Set what holds for the whole process."""
        torch.set_num_threads(self.threads)
        if self.deterministic:
            # cuBLAS reads it when it is first used; the setting is NVIDIA's own for repeatable products.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        return self

    @contextmanager
    def deterministic_kernels(self) -> Iterator[None]:
        """A block in which a kernel that does not repeat is refused (RuntimeError), where that is asked for."""
        before = torch.are_deterministic_algorithms_enabled()
        if self.deterministic:
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            if self.deterministic:
                torch.use_deterministic_algorithms(before)


@dataclass(frozen=True)
class Workload:
    """How much there is to do.

    Attributes:
        images: that the network is trained on in the whole run, all epochs together.
        steps: of an epoch.
        image_size: side of what the network sees.
        step_products: multiplications of the student's forward pass in a step, on one process; infinite where unknown.
    """

    images: int
    steps: int
    image_size: int
    step_products: float = math.inf


@dataclass(frozen=True)
class _Choice:
    """Whether something is on, and why."""

    on: bool
    reason: str


def apply_thread_limit() -> int:
    """Give torch the CPU threads that a training may have. Returns how many.

    They are as many as ``DKD_THREADS`` says, else as ``DKD_MOST_THREADS`` says, else as many as torch takes by itself;
    ``plan_execution`` may take fewer where the first is not set. Raises ValueError where it is no positive number.
    """
    name = THREADS if os.environ.get(THREADS) else MOST_THREADS
    if given := os.environ.get(name):
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"{name} is {given!r}; it is a positive number of threads")
        torch.set_num_threads(int(given))
    return torch.get_num_threads()


@contextmanager
def restoring_threads() -> Iterator[None]:
    """A block of one training, behind which torch has as many threads as before: the next may want more."""
    before = torch.get_num_threads()
    try:
        apply_thread_limit()
        yield
    finally:
        torch.set_num_threads(before)


def plan_execution(speed: Speed, device: torch.device, work: Workload) -> ExecutionPlan:
    """What a spec's ``speed`` comes to on a device. Nothing is timed: two runs would then differ."""
    precision, reason = _precision(speed, device, work)
    compiled = _compile(speed, device, work)
    graphs = _cuda_graphs(speed, device, work, precision)
    threads, why_threads = _threads(device, work)
    channels_last = speed.channels_last == "on" or (speed.channels_last == "auto" and work.image_size >= SMALL_SIDE)
    reasons = {
        "precision": reason,
        "compile": compiled.reason,
        "cuda_graphs": graphs.reason,
        "threads": why_threads,
    }
    return ExecutionPlan(
        precision=precision,
        channels_last=channels_last,
        fused=device.type in ("cpu", "cuda"),
        compile=compiled.on,
        cuda_graphs=graphs.on,
        threads=threads,
        deterministic=speed.deterministic and device.type == "cuda",
        reasons={name: text for name, text in reasons.items() if text},
    )


def _precision(speed: Speed, device: torch.device, work: Workload) -> tuple[Precision, str]:
    if speed.precision != "auto":
        return speed.precision, "asked for"
    if work.image_size < SMALL_SIDE:
        return "float32", f"16 bits save nothing on images below {SMALL_SIDE} px"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return "bfloat16", "the GPU has tensor cores for it"
        if torch.cuda.get_device_capability(device) >= (7, 0):
            return "float16", "the GPU has tensor cores for it, and none for bfloat16"
        return "float32", "the GPU has no tensor cores"
    if device.type == "cpu" and cpu_flags() & {"avx512_bf16", "amx_bf16"}:
        return "bfloat16", "the CPU multiplies it in hardware"
    return "float32", f"this {device.type} has no fast 16-bit products"


def _compile(speed: Speed, device: torch.device, work: Workload) -> _Choice:
    if speed.compile != "auto":
        return _Choice(speed.compile == "on", "asked for")
    least = COMPILE_PIXELS.get(device.type)
    pays = least is not None and work.images * work.image_size**2 >= least
    return _Choice(pays, "" if pays else "too little to do for it to pay")


def _cuda_graphs(speed: Speed, device: torch.device, work: Workload, precision: Precision) -> _Choice:
    if device.type != "cuda":
        return _Choice(False, "no GPU")
    if precision == "float16":
        return _Choice(False, "float16 looks at its gradients on the host")
    if speed.cuda_graphs != "auto":
        return _Choice(speed.cuda_graphs == "on", "asked for")
    pays = work.steps >= GRAPH_STEPS
    return _Choice(pays, "" if pays else f"fewer than {GRAPH_STEPS} steps an epoch")


def _threads(device: torch.device, work: Workload) -> tuple[int, str]:
    most = torch.get_num_threads()
    if os.environ.get(THREADS):
        return most, "asked for"
    if most > 1 and device.type == "cpu" and work.step_products < THREADED_PRODUCTS:
        return 1, "steps too small to share out"
    return most, ""


@functools.cache
def cpu_flags() -> frozenset[str]:
    """What the CPU says it can do, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
