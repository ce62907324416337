"""The preparation of a training: the data set, the networks, the initial weights and the execution plan."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pydantic import ValidationError

from core.specs import Weights
from core.tasks.classification import data, models
from core.tasks.classification.data import Dataset
from core.train.checkpoint import Checkpoint
from core.train.engine import Engine
from core.train.errors import TrainingError
from core.train.job import Job
from core.train.performance import ExecutionPlan, forward_multiplications, plan_execution, workload_of
from core.train.preflight import check_dataset_fits, check_last_batch
from core.train.supplied_weights import InitialWeights, read_initial_weights, with_supplied_normalization
from core.train.teacher_source import LoadedTeacher, build_network, load_teacher
from core.train.weights_metadata import compare_checkpoint
from core.weights.metadata import Metadata


def prepare(job: Job, device: torch.device, checkpoint: Checkpoint | None) -> tuple[Engine, InitialWeights | None]:
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
    dataset = _load_dataset(job, device)
    initial: InitialWeights | None = None
    if spec.weights and checkpoint is None:
        initial = read_initial_weights(job, spec.weights, dataset)
    torch.manual_seed(spec.seed)  # on the CPU, so that every device starts from the same weights
    model = build_network(spec.model, dataset, initial.input if initial else None)
    shown = replace(dataset, upscaled_size=initial.input.image_size) if initial and initial.input else dataset
    plan = _execution_plan(job, shown, model, checkpoint).apply()
    check_last_batch(spec, dataset, model)
    model.to(device)
    if checkpoint:
        for warning in compare_checkpoint(Metadata.parse(checkpoint.metadata), spec, dataset):
            job.warn(warning)
    teacher = _load_teacher(job, dataset)
    if job.ranks.rank:  # each rank draws the dropout of its own images
        torch.manual_seed(spec.seed + (job.ranks.rank << 32))
    with journal_data_messages(job):  # the engine may read images to measure robustness on
        engine = Engine(job, dataset, model, plan, teacher)
    if spec.weights and initial:
        _load_initial_weights(job, model, spec.weights, initial)
        if spec.weights.fine_tune:
            initial = None  # while the network learns, no copy of its initial weights takes memory
    return engine, initial


@contextmanager
def journal_data_messages(job: Job) -> Iterator[None]:
    """Log the messages of the data set's loader in the run's journal too: a first reading of images takes a while."""

    class JournalHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with job.options.interruption.shielded():
                job.journal.log(record.getMessage(), "warning" if record.levelno >= logging.WARNING else "info")

    logger, handler = logging.getLogger(data.__name__), JournalHandler()
    previous_level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(previous_level)


def _load_dataset(job: Job, device: torch.device) -> Dataset:
    try:
        with journal_data_messages(job):
            dataset = data.load(job.spec.dataset, job.settings).to(device)
    except data.DatasetError as error:
        raise TrainingError("error", str(error)) from error
    check_dataset_fits(job.spec, dataset)
    if job.spec.weights and job.spec.weights.fine_tune:
        return with_supplied_normalization(job.spec.weights, dataset)
    return dataset


def _load_teacher(job: Job, dataset: Dataset) -> LoadedTeacher | None:
    spec, source = job.spec, job.teacher
    if not spec.teacher:
        return None
    if source is None or source.spec.fingerprint() != spec.teacher:
        raise TrainingError("spec", f"the run needs the teacher {spec.teacher}, which was not given")
    network, input_format = load_teacher(job, source, dataset)
    network.to(dataset.device).eval().requires_grad_(False)
    if not spec.training.speed.reuse_teacher:
        return LoadedTeacher(network)
    key = {"model": source.spec.model.model_dump(mode="json"), "sha256": _sha256(source.weights)}
    if input_format:
        key["input"] = asdict(input_format)
    return LoadedTeacher(network, key)


def _load_initial_weights(job: Job, model: models.Network, weights: Weights, initial: InitialWeights) -> None:
    try:
        notes = models.load_supplied(
            model,
            initial.weights,
            any_classes=weights.fine_tune,
            allow_download=job.settings.download,
            fresh_last_layer=initial.fresh_last_layer,
        )
    except models.WeightsError as error:
        raise TrainingError("spec", f"the teacher's weights: {error}") from error
    use = "trained on" if weights.fine_tune else "used as they are"
    job.journal.log("; ".join((f"weights from {weights.source}, {use}", *notes)))


def _execution_plan(job: Job, dataset: Dataset, model: models.Network, checkpoint: Checkpoint | None) -> ExecutionPlan:
    """Return the plan that the run began with if it fits this machine; else the best one here, with a warning."""
    spec, device, ranks = job.spec, dataset.device, job.ranks
    workload = workload_of(spec, dataset)
    if device.type == "cpu":  # on a GPU, the number of CPU threads is not what decides the time of a step
        multiplications = forward_multiplications(model, dataset) * spec.training.batch_size / ranks.size
        workload = replace(workload, step_products=multiplications)
    plan = plan_execution(spec.training.speed, device, workload, fixed_threads=job.settings.threads is not None)
    if ranks.size > 1:  # both rewrite or record a step, and the ranks communicate within a step
        for name in ("compile", "cuda_graphs"):
            plan = plan.without(name, "several ranks") if getattr(plan, name) else plan
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
