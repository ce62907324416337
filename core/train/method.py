"""The method of a run, built for its networks."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from core.catalog import METHODS
from core.distill.objective import (
    NetworkShape,
    Objective,
    ObjectiveError,
    Outputs,
    Setting,
    Step,
    build_objective,
    student_shapes,
)
from core.distill.rows import Rows
from core.errors import TrainingError
from core.specs import RunSpec
from core.tasks.task import Task
from core.train.job import Job


def prepare_objective(job: Job, task: Task, student: nn.Module, teacher: nn.Module | None) -> Objective:
    """Build the method of a run on the task's device. torch's random state stays as it is.

    Args:
        job: The training.
        task: Decides the shapes.
        student: The student.
        teacher: The teacher; None for a run without one.

    Raises:
        TrainingError: A network has no such tap, the method cannot join the shapes of the taps, it weights terms by
            share on several ranks, or it fails on outputs of these shapes.
    """
    method = job.spec.method
    if job.ranks.size > 1 and method.shares and METHODS[method.name].taps_of(method.parsed_params):
        text = "shares of a method that reads inner layers need the whole batch in one process"
        raise TrainingError("spec", f"{method.name}: {text}")
    device = task.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        objective, setting = objective_for(job.spec, task, student, teacher)
        objective.to(device)
        try:
            try_out(objective, setting, device)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a method raises, its first step would raise it
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise TrainingError("spec", f"{method.name} cannot compute its loss of these networks: {reason}") from error
    return objective


def objective_for(
    spec: RunSpec, task: Task, student: nn.Module, teacher: nn.Module | None
) -> tuple[Objective, Setting]:
    """Build the method that a run's spec names. It sets torch's random state.

    Returns:
        The method on the CPU; and what it was built for.

    Raises:
        TrainingError: A network has no such tap, or the method cannot join the shapes of the taps.
    """
    method = spec.method
    taps = METHODS[method.name].taps_of(method.parsed_params)
    setting = Setting(
        task.network_shape(student, taps.student),
        task.network_shape(teacher, taps.teacher) if teacher else None,
        task.train_size,
        task.training_labels(),
        spec.training.batch_size,
        lambda model: task.build_another(model or spec.model),
        partial(task.outputs_of, teacher) if teacher else None,
    )
    torch.manual_seed(_own_seed(spec.seed))
    try:
        return build_objective(method, setting), setting
    except ObjectiveError as error:
        raise TrainingError("spec", f"{method.name}: {error}") from error


def try_out(objective: Objective, setting: Setting, device: torch.device) -> None:
    """Compute the loss of two rows of random outputs, in the first epoch and at full strength.

    What fails in the first step fails here, before any data is read. A copy of the method computes it, so that neither
    its buffers nor its memory banks change. torch's random state changes if the method draws numbers.

    Args:
        objective: The method.
        setting: What it was built for.
        device: Where it is.

    Raises:
        Exception: What the method raises.
    """
    trial, step = copy.deepcopy(objective).train(), _random_step(objective, setting, device)
    if not objective.reads_index:
        step = replace(step, index=None)
    for epoch in (0, None):
        trial(replace(step, epoch=epoch))


def _random_step(objective: Objective, setting: Setting, device: torch.device) -> Step:
    generator, count = torch.Generator().manual_seed(0), 2

    def outputs(shape: NetworkShape, *, trained: bool) -> Outputs:
        def sample(*size: int) -> Tensor:
            return torch.randn(count, *size, generator=generator).to(device).requires_grad_(trained)

        return Outputs(sample(shape.num_classes), {name: sample(*size) for name, size in shape.taps.items()})

    student = outputs(replace(setting.student, taps=student_shapes(objective, setting)), trained=True)
    teacher = outputs(setting.teacher, trained=False) if setting.teacher else None
    target = torch.arange(count, device=device) % setting.student.num_classes
    index = torch.arange(count, device=device) % max(setting.samples, 1)
    rows = Rows(student.logits, teacher.logits if teacher else None, target)
    return Step(rows, student, teacher, index)


def _own_seed(seed: int) -> int:
    """Return the seed of a method's own parameters, so that the student's are the same with and without them."""
    return int.from_bytes(hashlib.sha256(f"objective {seed}".encode()).digest()[:7])
