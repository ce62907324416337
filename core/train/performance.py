"""The execution plan: how a run computes, decided by the spec and the device alone, so that equal runs choose alike."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field

from common.processors import openmp_threads, processor_count
from core.settings import TrainingSettings
from core.specs import Speed
from core.tasks.workload import Workload

Precision = Literal["float32", "bfloat16", "float16"]

MIN_16_BIT_SIZE = 16
"""Image size in pixels from which 16 bits save time: below, a layer costs its call, and conversions add to it."""

MIN_COMPILE_PIXELS = {"cpu": 5e8, "cuda": 1e10}
"""Pixels that a run must see before compiling pays, by device. On two cores resnet20 and resnet8 took 23 s to compile,
and a step of 64 images then took 33 ms instead of 51, which makes up for it after 8e7. The number for GPUs is an
estimate."""

PRODUCTS_PER_THREAD = 1.5e8
"""Multiplications of a step's forward pass that are worth a CPU thread: with fewer for each, the threads wait for each
other longer than they compute. resnet20 on 64 images of 8 px has 1.6e8 in all and took twice as long with two threads
as with one on a busy machine; resnet8 on 64 images of 32 px has 8e8. This was measured with two threads; for more of
them it is an assumption."""

MIN_GRAPH_STEPS = 50
"""Steps per epoch from which a CUDA graph pays: it is captured once per epoch, which takes as long as a few steps."""


class ExecutionPlan(BaseModel):
    """How a run computes. A resumed run keeps the plan that it began with.

    The names of the fields are part of checkpoints and of the keys of cached teacher outputs.

    Attributes:
        precision: The number format of the networks in training; weights, losses and evaluation use float32.
        channels_last: Whether images and weights are stored with the channels last.
        fused: Whether the optimiser updates all parameters in one kernel.
        compile: Whether the networks are compiled.
        cuda_graphs: Whether steps are captured as CUDA graphs.
        threads: The number of torch's threads on the CPU.
        deterministic: Whether only kernels that repeat bit for bit may train; a CPU has no others.
        reasons: A phrase for each choice that has a reason.
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
        """The number format as torch's type."""
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> torch.autocast:
        """A block in which networks compute in ``precision`` on a device."""
        return torch.autocast(device.type, self.dtype, enabled=self.precision != "float32")

    def environment(self) -> dict[str, str]:
        """Return the plan as texts for ``Started.environment``, by which a comparison tells whether a pair differs."""
        switches = {name: getattr(self, name) for name in ("channels_last", "fused", "compile", "cuda_graphs")}
        words = {name: "on" if value else "off" for name, value in switches.items()}
        return {"precision": self.precision, **words, "threads": str(self.threads)} | (
            {"deterministic": "on"} if self.deterministic else {}
        )

    def summary(self) -> str:
        """Return the plan with its reasons as one line for the run's log."""
        parts = [
            f"{name} {value} ({self.reasons[name]})" if name in self.reasons else f"{name} {value}"
            for name, value in self.environment().items()
        ]
        return f"for speed: {', '.join(parts)}"

    def without(self, name: Literal["compile", "cuda_graphs"], reason: str) -> Self:
        """Return the same plan with one switch off.

        Args:
            name: The switch.
            reason: Why it is off.
        """
        return self.model_copy(update={name: False, "reasons": self.reasons | {name: reason}})

    def apply(self) -> Self:
        """Apply the settings that hold for the whole process. Returns the plan itself."""
        torch.set_num_threads(self.threads)
        if self.deterministic:
            # cuBLAS reads the variable at its first use; NVIDIA documents this value for repeatable products.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        return self

    @contextmanager
    def deterministic_kernels(self) -> Iterator[None]:
        """A block in which a kernel that does not repeat raises RuntimeError, if the plan is deterministic."""
        before = torch.are_deterministic_algorithms_enabled()
        if self.deterministic:
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            if self.deterministic:
                torch.use_deterministic_algorithms(before)


@dataclass(frozen=True)
class _Choice:
    """Whether something is on, and why."""

    on: bool
    reason: str


def apply_thread_limit(settings: TrainingSettings) -> int:
    """Set torch's number of CPU threads to the one that a training may use.

    That is ``settings.threads``, or else ``settings.max_threads``, or else torch's own default: ``OMP_NUM_THREADS``, or
    else the processors, of which a container may not be allowed to use all. ``plan_execution`` may use fewer unless
    ``settings.threads`` is set.

    Returns:
        The number of threads.
    """
    default = torch.get_num_threads()
    if openmp_threads() is None:
        default = min(default, processor_count())  # torch knows of no quota
    torch.set_num_threads(settings.threads or settings.max_threads or default)
    return torch.get_num_threads()


@contextmanager
def restoring_threads(settings: TrainingSettings) -> Iterator[None]:
    """A block with the threads of one training; after it torch has as many as before, because the next may want more.

    Args:
        settings: What the training takes from its environment.
    """
    before = torch.get_num_threads()
    try:
        apply_thread_limit(settings)
        yield
    finally:
        torch.set_num_threads(before)


def plan_execution(
    speed: Speed, device: torch.device, workload: Workload, *, fixed_threads: bool = False
) -> ExecutionPlan:
    """Decide how a run computes. Nothing is timed, because two equal runs would then differ.

    Args:
        speed: The choices of the spec.
        device: Where the run trains.
        workload: How much it has to compute.
        fixed_threads: Whether the current number of CPU threads must be kept.
    """
    precision, reason = _precision(speed, device, workload)
    compiled = _compile(speed, device, workload)
    graphs = _cuda_graphs(speed, device, workload, precision)
    threads, threads_reason = _threads(device, workload, fixed=fixed_threads)
    large = workload.image_size >= MIN_16_BIT_SIZE
    reasons = {
        "precision": reason,
        "compile": compiled.reason,
        "cuda_graphs": graphs.reason,
        "threads": threads_reason,
    }
    return ExecutionPlan(
        precision=precision,
        channels_last=speed.channels_last == "on" or (speed.channels_last == "auto" and large),
        fused=device.type in ("cpu", "cuda"),
        compile=compiled.on,
        cuda_graphs=graphs.on,
        threads=threads,
        deterministic=speed.deterministic and device.type == "cuda",
        reasons={name: text for name, text in reasons.items() if text},
    )


def _precision(speed: Speed, device: torch.device, workload: Workload) -> tuple[Precision, str]:
    if speed.precision != "auto":
        return speed.precision, "set in the spec"
    if workload.image_size < MIN_16_BIT_SIZE:
        return "float32", f"16 bits save nothing on images below {MIN_16_BIT_SIZE} px"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return "bfloat16", "the GPU has tensor cores for it"
        if torch.cuda.get_device_capability(device) >= (7, 0):
            return "float16", "the GPU has tensor cores for it, but not for bfloat16"
        return "float32", "the GPU has no tensor cores"
    if device.type == "cpu" and cpu_flags() & {"avx512_bf16", "amx_bf16"}:
        return "bfloat16", "the CPU multiplies it in hardware"
    return "float32", f"this {device.type} has no fast 16-bit products"


def _compile(speed: Speed, device: torch.device, workload: Workload) -> _Choice:
    if speed.compile != "auto":
        return _Choice(speed.compile == "on", "set in the spec")
    least = MIN_COMPILE_PIXELS.get(device.type)
    pays = least is not None and workload.samples * workload.image_size**2 >= least
    return _Choice(pays, "" if pays else "the run is too short for it to pay")


def _cuda_graphs(speed: Speed, device: torch.device, workload: Workload, precision: Precision) -> _Choice:
    if device.type != "cuda":
        return _Choice(False, "no GPU")
    if precision == "float16":
        return _Choice(False, "float16 checks its gradients on the host")
    if speed.cuda_graphs != "auto":
        return _Choice(speed.cuda_graphs == "on", "set in the spec")
    pays = workload.steps >= MIN_GRAPH_STEPS
    return _Choice(pays, "" if pays else f"fewer than {MIN_GRAPH_STEPS} steps per epoch")


def _threads(device: torch.device, workload: Workload, *, fixed: bool) -> tuple[int, str]:
    available = torch.get_num_threads()
    if fixed:
        return available, "set in the environment"
    if device.type != "cpu":  # the number of CPU threads is not what decides the time of a step
        return available, ""
    useful = max(1, int(min(available, workload.step_products / PRODUCTS_PER_THREAD)))
    if useful == available:
        return available, ""
    return useful, "the steps are too small to share" if useful == 1 else "the steps are too small for more"


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the feature flags of the CPU; empty on systems other than Linux."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
