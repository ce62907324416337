"""The method of a run, built for its networks."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from core.catalog import METHODS
from core.distill.objective import Objective, ObjectiveError, Setting, build_objective
from core.errors import TrainingError
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
        TrainingError: A network has no such tap, or the method cannot join the shapes of the taps.
    """
    method = job.spec.method
    taps = METHODS[method.name].taps_of(method.parsed_params)
    setting = Setting(
        task.network_shape(student, taps.student),
        task.network_shape(teacher, taps.teacher) if teacher else None,
        task.train_size,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_own_seed(job.spec.seed))
        try:
            objective = build_objective(method, setting)
        except ObjectiveError as error:
            raise TrainingError("spec", f"{method.name}: {error}") from error
    return objective.to(task.device)


def _own_seed(seed: int) -> int:
    """Return the seed of a method's own parameters, so that the student's are the same with and without them."""
    return int.from_bytes(hashlib.sha256(f"objective {seed}".encode()).digest()[:7])
