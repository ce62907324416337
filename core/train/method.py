"""The method of a run, built for its networks."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from core.catalog import METHODS
from core.distill.objective import Objective, ObjectiveError, Setting, build_objective
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
        TrainingError: A network has no such tap, the method cannot join the shapes of the taps, or it weights terms by
            share on several ranks.
    """
    method = job.spec.method
    if job.ranks.size > 1 and method.shares and METHODS[method.name].taps_of(method.parsed_params):
        text = "shares of a method that reads inner layers need the whole batch in one process"
        raise TrainingError("spec", f"{method.name}: {text}")
    with torch.random.fork_rng(devices=[]):
        objective, _ = objective_for(job.spec, task, student, teacher)
    return objective.to(task.device)


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
    )
    torch.manual_seed(_own_seed(spec.seed))
    try:
        return build_objective(method, setting), setting
    except ObjectiveError as error:
        raise TrainingError("spec", f"{method.name}: {error}") from error


def _own_seed(seed: int) -> int:
    """Return the seed of a method's own parameters, so that the student's are the same with and without them."""
    return int.from_bytes(hashlib.sha256(f"objective {seed}".encode()).digest()[:7])
