"""The method of a run, built for its networks."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from core.catalog.datasets import task_of
from core.catalog.taps import Taps
from core.distill.objective import (
    NetworkShape,
    Objective,
    ObjectiveError,
    Objects,
    Outputs,
    Setting,
    Step,
    build_objective,
    student_shapes,
)
from core.distill.regions import build_region_objective
from core.distill.rows import Rows
from core.distill.terms import LossTerms, separate
from core.errors import TrainingError
from core.specs import RunSpec
from core.specs.momenta import momenta_of
from core.tasks.task import Task


def prepare_objective(spec: RunSpec, task: Task, student: nn.Module, teacher: nn.Module | None) -> Objective:
    """Build the method of a run on the task's device. torch's random state stays as it is.

    Args:
        spec: The run.
        task: Decides the shapes.
        student: The student.
        teacher: The teacher; None for a run without one.

    Raises:
        TrainingError: A network has no such tap, the method cannot join the shapes of the taps, or it fails on outputs
            of these shapes.
    """
    device = task.device
    momenta = momenta_of(spec.method, spec.training.optimizer)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        objective, setting = objective_for(spec, task, student, teacher)
        objective.to(device)
        try:
            terms = try_out(objective, setting, device, by_term=momenta is not None)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a method raises, its first step would raise it
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            name = spec.method.full_name
            raise TrainingError("spec", f"{name} cannot compute its loss of these networks: {reason}") from error
    if momenta:
        named = {name: value for name, value in momenta.of_terms.items() if name in terms}
        objective.momenta = named | {name: momenta.rest for name in terms if name not in named}
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
    labels, of_regions = task.training_labels(), task_of(spec.dataset.name).rows_are_regions

    def setting_for(taps: Taps) -> Setting:
        return Setting(
            task.network_shape(student, taps.student),
            task.network_shape(teacher, taps.teacher) if teacher else None,
            task.train_size,
            labels,
            spec.training.batch_size,
            lambda model: task.build_another(model or spec.model),
            partial(task.outputs_of, teacher) if teacher else None,
            of_regions,
        )

    taps = [member.entry.taps_of(member.parsed_params) for member in method.members]
    settings = [setting_for(of_member) for of_member in taps]
    torch.manual_seed(_own_seed(spec.seed))
    try:
        objective = (build_region_objective if of_regions else build_objective)(method, *settings)
        return objective, settings[0] if len(settings) == 1 else setting_for(objective.taps)
    except ObjectiveError as error:
        raise TrainingError("spec", f"{method.full_name}: {error}") from error


def try_out(objective: Objective, setting: Setting, device: torch.device, *, by_term: bool = False) -> tuple[str, ...]:
    """Compute the loss of random outputs for two samples, in the first epoch and at full strength.

    What fails in the first step fails here, before any data is read. A copy of the method computes it, so that neither
    its buffers nor its memory banks change. torch's random state changes if the method draws numbers.

    Args:
        objective: The method.
        setting: What it was built for.
        device: Where it is.
        by_term: Whether its terms are needed one by one, also if it has no shares.

    Returns:
        The names of the terms; empty if they are not needed.

    Raises:
        Exception: What the method raises.
    """
    trial, step = copy.deepcopy(objective).train(), _random_step(objective, setting, device)
    if not objective.reads_index:
        step = replace(step, index=None)
    for epoch in (0, None):
        terms: LossTerms = trial(replace(step, epoch=epoch))
    if not (by_term or objective.shares or objective.measures_shares):
        return ()
    parts = separate(terms, step.rows)
    if unknown := objective.shares.keys() - parts.keys():
        raise ValueError(f"it has no term {min(unknown)!r} that could have a share")
    return tuple(parts)


def _random_step(objective: Objective, setting: Setting, device: torch.device) -> Step:
    """Return a step of two samples, which are its rows, or whose three regions are."""
    generator, count = torch.Generator().manual_seed(0), 2
    regions = 3 if setting.rows_are_regions else 0

    def outputs(shape: NetworkShape, *, trained: bool) -> Outputs:
        def random(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator).to(device).requires_grad_(trained)

        logits = random(regions or count, shape.num_classes)
        taps = {name: random(count, *size) for name, size in shape.taps.items()}
        return Outputs(logits, taps, offsets=random(regions, shape.num_classes, 4) if regions else None)

    student = outputs(replace(setting.student, taps=student_shapes(objective, setting)), trained=True)
    teacher = outputs(setting.teacher, trained=False) if setting.teacher else None
    target = torch.arange(regions or count, device=device) % setting.student.num_classes
    index = torch.arange(count, device=device) % max(setting.samples, 1)
    rows = Rows(student.logits, teacher.logits if teacher else None, target)
    if not regions:
        return Step(rows, student, teacher, index)
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.5, 0.4, 0.8]], device=device)
    classes = 1 + torch.arange(count, device=device) % max(setting.student.num_classes - 1, 1)
    objects = Objects(torch.arange(count, device=device), boxes, classes)
    offset_target = torch.randn(regions, 4, generator=generator).to(device)
    return Step(rows, student, teacher, index, objects=objects, offset_target=offset_target, sample_rows=False)


def exported_network(spec: RunSpec, objective: Objective, student: nn.Module) -> nn.Module:
    """Return the network that a run leaves behind.

    Raises:
        TrainingError: The method cannot add its layers to this student.
    """
    try:
        return objective.exported(student)
    except ObjectiveError as error:
        raise TrainingError("spec", f"{spec.method.name}: {error}") from error


def _own_seed(seed: int) -> int:
    """Return the seed of a method's own parameters, so that the student's are the same with and without them."""
    return int.from_bytes(hashlib.sha256(f"objective {seed}".encode()).digest()[:7])
