"""The preparation of a training: the task with its data, the networks, their weights and the execution plan."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from pydantic import ValidationError
from torch import nn

from core import tasks
from core.distill.objective import is_closed_form
from core.errors import TrainingError
from core.specs.momenta import momenta_of
from core.tasks.registry import load_task
from core.tasks.task import LoadedTeacher, SuppliedWeights, Task
from core.train.checkpoint import Checkpoint
from core.train.engine import Engine
from core.train.ensemble import EnsembleNetwork
from core.train.job import Job
from core.train.performance import ExecutionPlan, plan_execution
from core.turns import in_group
from core.weights.metadata import Metadata

_WHOLE_STEPS: tuple[Literal["compile", "cuda_graphs"], ...] = ("compile", "cuda_graphs")


def prepare(job: Job, device: torch.device, checkpoint: Checkpoint | None) -> tuple[Engine, SuppliedWeights | None]:
    """Make a run's engine, with the network's initial weights loaded.

    Args:
        job: The training.
        device: Where it trains.
        checkpoint: What the run continues from; the engine is not restored from it yet.

    Returns:
        The engine; and the initial weights if the run uses them unchanged, else None.

    Raises:
        TrainingError: The data set, the weights or the teacher cannot be used for this run.
    """
    spec = job.spec
    with journal_data_messages(job):
        task = load_task(job.context).to(device)
    weights = task.read_supplied_weights() if checkpoint is None else None
    resumed = Metadata.parse(checkpoint.metadata) if checkpoint else None
    torch.manual_seed(spec.seed)  # on the CPU, so that every device starts from the same weights
    model = task.build_network(weights, resumed)
    plan = _execution_plan(job, task, model, weights, checkpoint).apply()
    task.check_network(model)
    model.to(device)
    if resumed:
        for warning in task.compare_checkpoint(resumed):
            job.warn(warning)
    teacher = _load_teacher(job, task)
    if job.ranks.rank:  # each rank draws the dropout of its own samples
        torch.manual_seed(spec.seed + (job.ranks.rank << 32))
    with journal_data_messages(job):  # the reports may read images to measure robustness on
        engine = Engine(job, task, model, plan, teacher)
    if weights:
        task.load_supplied_weights(model, weights)
        if spec.weights and spec.weights.fine_tune:
            weights = None  # while the network learns, no copy of its initial weights takes memory
    return engine, weights


@contextmanager
def journal_data_messages(job: Job) -> Iterator[None]:
    """Log the messages of the task's data in the run's journal too: a first reading of images takes a while."""

    own_thread = threading.get_ident() if in_group() else None  # the others of a group have journals of their own

    class JournalHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if own_thread not in (None, record.thread):
                return
            with job.options.interruption.shielded():
                job.journal.log(record.getMessage(), "warning" if record.levelno >= logging.WARNING else "info")

    logger, handler = logging.getLogger(tasks.__name__), JournalHandler()
    with _INFORMATION.logged_by(logger):
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _InformationLevel:
    """The level INFO of a logger, from the first run of a group that needs it to the last."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._runs = 0
        self._level_before = logging.NOTSET

    @contextmanager
    def logged_by(self, logger: logging.Logger) -> Iterator[None]:
        with self._changing:
            if not self._runs:
                self._level_before = logger.level
                logger.setLevel(logging.INFO)
            self._runs += 1
        try:
            yield
        finally:
            with self._changing:
                self._runs -= 1
                if not self._runs:
                    logger.setLevel(self._level_before)


_INFORMATION = _InformationLevel()


def _load_teacher(job: Job, task: Task) -> LoadedTeacher | None:
    spec, sources = job.spec, {source.spec.fingerprint(): source for source in job.teachers}
    loaded = []
    for fingerprint in spec.teachers:
        if fingerprint not in sources:
            raise TrainingError("spec", f"the run needs the teacher {fingerprint}, which was not given")
        teacher = task.load_teacher(sources[fingerprint])
        loaded.append(teacher if spec.training.speed.reuse_teacher else replace(teacher, cache_key=None))
    if not spec.ensemble:
        return loaded[0] if loaded else None
    network = EnsembleNetwork([teacher.network for teacher in loaded], spec.ensemble)
    return LoadedTeacher(network, members=tuple(loaded))


def _for_single_terms(job: Job, plan: ExecutionPlan) -> ExecutionPlan:
    """Return the plan of a run in which each term has a backward pass of its own."""
    reason = "each term has its own way back through the network"
    for switch in _WHOLE_STEPS:
        plan = plan.without(switch, reason) if getattr(plan, switch) else plan
    if plan.precision == "float16":
        job.warn(f"the run computes in float32 and not in float16, because {reason}, and only one sum can be scaled")
        plan = plan.model_copy(update={"precision": "float32", "reasons": plan.reasons | {"precision": reason}})
    return plan


def _execution_plan(
    job: Job, task: Task, model: nn.Module, weights: SuppliedWeights | None, checkpoint: Checkpoint | None
) -> ExecutionPlan:
    """Return the plan that the run began with if it fits this machine; else the best one here, with a warning."""
    device, ranks = task.device, job.ranks
    # On a GPU, the number of CPU threads is not what decides the time of a step.
    workload = task.workload(model, weights, count_products=device.type == "cpu")
    workload = replace(workload, step_products=workload.step_products / ranks.size)
    plan = plan_execution(job.spec.training.speed, device, workload, fixed_threads=job.settings.threads is not None)
    training, name = job.spec.training, job.spec.training.optimizer.name
    if not training.optimizer.entry.fused:
        plan = plan.model_copy(update={"fused": False})
        plan = plan.without("cuda_graphs", f"{name} cannot be recorded") if plan.cuda_graphs else plan
    if momenta_of(job.spec.method, training.optimizer):
        plan = plan.model_copy(update={"fused": False})
        plan = _for_single_terms(job, plan)
    elif job.spec.method.all_shares and not is_closed_form(job.spec.method):
        plan = _for_single_terms(job, plan)
    if not task.has_fixed_shapes:
        for switch in _WHOLE_STEPS:
            plan = plan.without(switch, "batches of many shapes") if getattr(plan, switch) else plan
    if training.accumulate > 1 and plan.cuda_graphs:
        plan = plan.without("cuda_graphs", "micro-batches")
    if ranks.size > 1:  # both rewrite or record a step, and the ranks communicate within a step
        for switch in ("compile", "cuda_graphs"):
            plan = plan.without(switch, "several ranks") if getattr(plan, switch) else plan
    if checkpoint is None:
        return plan
    try:
        first_plan = ExecutionPlan.model_validate(checkpoint.plan)
    except ValidationError:
        reason = "the checkpoint is of another version"
    else:
        if checkpoint.device != device.type:
            reason = f"it began on another kind of device ({checkpoint.device})"
        elif len(checkpoint.random) != ranks.size:
            reason = f"it began on {len(checkpoint.random)} ranks and continues on {ranks.size}"
        else:
            return first_plan
    job.warn(f"the execution plan of the run was chosen again, because {reason}: results may differ by rounding")
    return plan
