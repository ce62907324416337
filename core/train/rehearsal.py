"""What the start of a student's run would refuse, found before its teacher is trained.

Some reasons need the images or the networks: too few classes in a folder, levels of other shapes, other anchors. A
student starts after its teacher, so these reasons would come after hours of training that no student can use.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from core.errors import TrainingError
from core.settings import TrainingSettings
from core.specs import RunSpec
from core.tasks.registry import load_task
from core.tasks.task import RunContext
from core.train.ensemble import EnsembleNetwork
from core.train.method import prepare_objective

log = logging.getLogger(__name__)

SECONDS = 120.0
"""Time after which no further student is rehearsed; it finds out at its own start."""


@dataclass(frozen=True)
class Rehearsal:
    """What was found.

    Attributes:
        refused: The runs that cannot be trained, one of each kind, each with the reason.
        kinds: The number of kinds of runs: those of one kind differ in their seeds and their teachers' seeds alone.
    """

    refused: Sequence[tuple[RunSpec, str]]
    kinds: int

    @property
    def all_refused(self) -> bool:
        """Whether no run can be trained."""
        return self.kinds > 0 and len(self.refused) == self.kinds


def rehearse(
    students: Iterable[RunSpec], teachers: Iterable[RunSpec], settings: TrainingSettings, *, seconds: float = SECONDS
) -> Rehearsal:
    """Prepare one student of each kind on the CPU, with its teacher's network untrained. torch's random state stays.

    Args:
        students: Runs that have a teacher, teachers among them.
        teachers: The runs of teachers that are known. Without those of a student, its networks are not compared.
        settings: What the trainings take from their environment.
        seconds: Time after which no further student is prepared.
    """
    known = {teacher.fingerprint(): teacher for teacher in teachers}
    kinds: dict[str, RunSpec] = {}
    for spec in students:
        kinds.setdefault(kind_of(spec), spec)
    until = time.monotonic() + seconds
    refused = []
    for spec in kinds.values():
        if time.monotonic() > until:
            break
        reason = _refusal(spec, [known[key] for key in spec.teachers if key in known], settings)
        if reason:
            refused.append((spec, reason))
    return Rehearsal(refused, len(kinds))


def kind_of(spec: RunSpec) -> str:
    """Return a text that is equal for runs that differ in their seeds and their teachers' seeds alone."""
    seeds = {"seed", "data_seed", "teacher", "further_teachers"}
    return json.dumps(spec.model_dump(mode="json", exclude=seeds), sort_keys=True)


def _refusal(spec: RunSpec, teachers: Sequence[RunSpec], settings: TrainingSettings) -> str | None:
    """Return why a run cannot be trained; None if nothing was found, and also if something else is wrong here."""
    try:
        with torch.random.fork_rng(devices=[]):
            _prepare(spec, teachers, settings)
    except TrainingError as error:
        # Other kinds are of this machine, such as a missing folder. The run itself says so where it is trained.
        return str(error) if error.kind == "spec" else None
    except Exception:
        # A fault of the rehearsal must not stop a teacher that may be of use.
        log.debug("the start of a student could not be rehearsed", exc_info=True)
    return None


def _prepare(spec: RunSpec, teachers: Sequence[RunSpec], settings: TrainingSettings) -> None:
    context = RunContext(spec, settings, lambda message, level: None)
    task = load_task(context).to(torch.device("cpu"))
    if spec.weights or any(teacher.weights for teacher in teachers) or len(teachers) != len(spec.teachers):
        return  # such networks may see other images, or have another head
    network = task.build_another(spec.model)
    task.check_network(network)
    networks = [task.build_another(teacher.model).eval().requires_grad_(False) for teacher in teachers]
    for teacher, built in zip(teachers, networks, strict=True):
        task.check_teacher_network(teacher.model.name, built)
    if networks:
        together = EnsembleNetwork(networks, spec.ensemble) if spec.ensemble else networks[0]
        prepare_objective(spec, task, network, together)
