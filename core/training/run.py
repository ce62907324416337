"""One training from its spec to its weights, in a folder of its own, with a journal of all it says."""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import platform
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from core import data, methods, models
from core.data import Dataset
from core.diagnostics.report import epoch_report
from core.events import (
    JOURNAL_NAME,
    RANKS_KEY,
    Failed,
    Finished,
    Journal,
    Started,
    Stopped,
    is_full_disk,
    read_journal,
)
from core.launch import RankInfo
from core.models.metadata import Metadata
from core.provenance import provenance
from core.specs import RunSpec, Weights
from core.training.checkpoint import Checkpoint, CheckpointLookup, find_checkpoint, promote, save_weights
from core.training.engine import Engine
from core.training.errors import MachineError, TrainingError, is_broken_gpu, is_out_of_memory, out_of_memory_error
from core.training.interruption import Interruption, StopRequested, TrainOptions, ignore_sigterm, stop_on_sigterm
from core.training.performance import ExecutionPlan, Workload, plan_execution, restoring_threads
from core.training.preflight import check_dataset_fits, check_last_batch
from core.training.ranks import SINGLE_PROCESS, Ranks, is_peer_lost, process_group
from core.training.supplied_weights import SuppliedWeights, read_supplied_weights, with_supplied_normalization
from core.training.teacher_check import sample_test_logits, teacher_warnings
from core.training.teacher_input import input_format_of
from core.training.teacher_source import (
    TeacherSource,
    adapt_teacher_input,
    build_network,
    load_teacher,
    uses_weights_unchanged,
)
from core.training.weights_metadata import compare_checkpoint, image_identity, resumed_image_identity, training_metadata

WEIGHTS_NAME = "weights.safetensors"
# For room on a full disk, within the time that a worker gives a training to end.
_SETTLE_SECONDS = 20.0

Result = Literal["finished", "stopped", "failed"]


def run_training(
    spec: RunSpec,
    out: Path,
    teacher: TeacherSource | None = None,
    resume: Path | None = None,
    options: TrainOptions | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> Result:
    """Train one run. Everything it has to say, its failure too, is in ``out/events.jsonl``.

    Args:
        out: a folder for this attempt alone; made where it is missing.
        teacher: needed where ``spec.teacher`` names one.
        resume: a checkpoint of an earlier attempt at the same run.
        ranks: the processes of this training, each of which calls this; all but the first leave ``out`` alone.

    Raises nothing for a training that fails: the reason is the journal's last event. What is the machine's fault and
    no failure of the run is raised: MachineError for a GPU that does not work, OSError where the disk is full and what
    has been trained cannot be written down.
    """
    options = options or TrainOptions()
    if ranks.place and not ranks.is_main:
        out = ranks.place.scratch
    out.mkdir(parents=True, exist_ok=True)
    found = find_checkpoint(resume, spec.fingerprint()) if resume else CheckpointLookup(None, None, [])
    checkpoint = found.checkpoint
    journal_path = out / JOURNAL_NAME
    journal_path.unlink(missing_ok=True)
    if checkpoint:
        journal_path.write_bytes(checkpoint.journal)
    if ranks.is_main:
        promote(found.path, out)
    training = False
    with ExitStack() as threads, Journal(journal_path) as journal:
        _say_where_it_begins(found, journal)
        try:
            device = ranks.device()
            threads.enter_context(restoring_threads())
            with options.interruption.interruptible():
                engine, given = _prepare(spec, device, teacher, journal, checkpoint, options.interruption, ranks)
            if checkpoint:
                engine.restore(checkpoint)
            elif spec.weights and given:
                _start_from(spec.weights, given, engine, journal)
                given = (
                    given if uses_weights_unchanged(spec) else None
                )  # a copy of the weights is not held while they learn
            ranks.check_same_step(engine.position.step)
            images = resumed_image_identity(read_journal(journal_path), image_identity(engine.dataset))
            journal.append(_started(engine, device, images))
            journal.log(engine.chosen.summary())
            training = True
            summary: dict[str, float] | None
            if given:
                with options.interruption.interruptible():
                    summary, given = _measured(given, engine, journal)
                journal.metrics(step=0, epoch=0, elapsed=0.0, values=summary)
            else:
                summary = engine.train(options)
            if summary is None:
                journal.append(Stopped(step=engine.position.step))
                return "stopped"
            if not ranks.is_main:
                return "finished"
            if given:
                told = given.metadata(spec, engine.dataset)
            else:
                told = training_metadata(spec, engine.dataset, summary["test/top1"])
            digest = save_weights(engine.model, out / WEIGHTS_NAME, told)
            journal.append(Finished(weights=WEIGHTS_NAME, sha256=digest, summary=summary))
            return "finished"
        except StopRequested:
            journal.append(Stopped(step=checkpoint.position.step if checkpoint else 0))
            return "stopped"
        except TrainingError as error:
            _fail(journal, error, ranks)
        except Exception as error:  # whatever it is, it must be on the run and not lost with the process
            if isinstance(error, OSError) and is_full_disk(error):
                journal.log(f"{error}; the run cannot go on here", "error")
                raise
            if isinstance(error, MachineError) or is_broken_gpu(error):
                journal.log(f"{error}; the run cannot go on here", "error")
                raise MachineError(str(error).partition("\n")[0]) from error
            if is_out_of_memory(error):
                _fail(journal, out_of_memory_error(error, spec.training.batch_size, training=training), ranks)
            else:
                journal.log(traceback.format_exc(), "error")
                reason = TrainingError("error", f"{type(error).__name__}: {error}")
                _fail(journal, reason, ranks, peer_lost=is_peer_lost(error))
        finally:
            if not journal.settle(_SETTLE_SECONDS):
                raise OSError(
                    errno.ENOSPC, "the disk is full, and the last events of the training could not be written"
                )
    return "failed"


def run_rank(
    place: RankInfo, spec: RunSpec, out: Path, teacher: TeacherSource | None, resume: Path | None, options: TrainOptions
) -> Result:
    """Train one run as one of several processes, see ``core.launch``. What fails is reported to whoever started it."""
    with process_group(place) as ranks:
        if ranks.is_main:
            with stop_on_sigterm(options) as stoppable:
                return run_training(spec, out, teacher, resume, stoppable, ranks)
        # The first rank is told to stop and tells the others, so that all stop at one step.
        with ignore_sigterm():
            return run_training(spec, out, teacher, resume, options, ranks)


def _say_where_it_begins(found: CheckpointLookup, journal: Journal) -> None:
    if found.problems:
        begins = "the one before it is used" if found.path else "the training starts from the beginning"
        journal.log("; ".join((*found.problems, begins)), "warning")


def _chosen(
    spec: RunSpec,
    dataset: Dataset,
    model: models.Network,
    checkpoint: Checkpoint | None,
    journal: Journal,
    ranks: Ranks,
) -> ExecutionPlan:
    """What a run began with, where this machine can go on so; else what is best here, and a warning."""
    device = dataset.device
    work = workload_of(spec, dataset)
    if device.type == "cpu":  # of a GPU's training the CPU's threads are not what takes the time
        work = replace(
            work, step_products=forward_multiplications(model, dataset) * spec.training.batch_size / ranks.size
        )
    chosen = plan_execution(spec.training.speed, device, work)
    if ranks.size > 1:  # they rewrite or record a step, in which the ranks now talk to each other
        for name in ("compile", "cuda_graphs"):
            chosen = chosen.without(name, "several ranks") if getattr(chosen, name) else chosen
    if checkpoint is None:
        return chosen
    reason = ""
    try:
        kept = ExecutionPlan.model_validate(checkpoint.chosen)
        if checkpoint.device != device.type:
            reason = f"it began on another kind of device ({checkpoint.device})"
        elif len(checkpoint.random) != ranks.size:
            reason = f"it began on {len(checkpoint.random)} ranks and goes on on {ranks.size}"
    except ValidationError:
        reason = "the checkpoint is of another version"
    if not reason:
        return kept
    journal.log(f"what was chosen for speed is chosen anew, since {reason}: results may differ by rounding", "warning")
    return chosen


def _fail(journal: Journal, error: TrainingError, ranks: Ranks, *, peer_lost: bool = False) -> None:
    """The reason as the run's last word, and in its log, where a person looks first."""
    if ranks.size > 1:  # the last word is had by whoever sees all ranks
        ranks.report(error, peer_lost=peer_lost)
        return
    journal.log(str(error), "error")
    journal.append(Failed(kind=error.kind, reason=str(error)))


@contextmanager
def journal_data_messages(journal: Journal, interruption: Interruption) -> Iterator[None]:
    """What the logger ``core.data`` says goes into the journal: reading images for the first time takes a while."""

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with interruption.shielded():
                journal.log(record.getMessage(), "warning" if record.levelno >= logging.WARNING else "info")

    logger, handler = logging.getLogger(data.__name__), Forward()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _prepare(
    spec: RunSpec,
    device: torch.device,
    source: TeacherSource | None,
    journal: Journal,
    checkpoint: Checkpoint | None,
    interruption: Interruption,
    ranks: Ranks,
) -> tuple[Engine, SuppliedWeights | None]:
    """The engine of a run, and the weights from elsewhere that it starts from, where it does."""
    try:
        with journal_data_messages(journal, interruption):
            dataset = data.load(spec.dataset).to(device)
    except data.DatasetError as error:
        raise TrainingError("error", str(error)) from error
    check_dataset_fits(spec, dataset)
    if spec.weights and spec.weights.fine_tune:
        dataset = with_supplied_normalization(spec.weights, dataset)
    given: SuppliedWeights | None = None
    if spec.weights and checkpoint is None:
        given = read_supplied_weights(spec, spec.weights, dataset, journal.log)
    torch.manual_seed(spec.seed)  # on the CPU, so that every device starts from the same weights
    model = build_network(spec.model, dataset, given.input if given else None)
    shown = replace(dataset, upscaled_size=given.input.image_size) if given and given.input else dataset
    chosen = _chosen(spec, shown, model, checkpoint, journal, ranks).apply()
    check_last_batch(spec, dataset, model)
    model.to(device)
    if checkpoint:
        for warning in compare_checkpoint(Metadata.parse(checkpoint.origin), spec, dataset):
            journal.log(warning, "warning")
    teacher: nn.Module | None = None
    teacher_key: dict[str, Any] | None = None
    if spec.teacher:
        if source is None or source.spec.fingerprint() != spec.teacher:
            raise TrainingError("spec", f"the run needs the teacher {spec.teacher}, which was not given")
        teacher, wanted = load_teacher(source, spec, dataset, journal)
        teacher.to(device).eval().requires_grad_(False)
        if spec.training.speed.reuse_teacher:
            teacher_key = {"model": source.spec.model.model_dump(mode="json"), "sha256": _sha256(source.weights)}
            if wanted:
                teacher_key["input"] = asdict(wanted)
    if ranks.rank:  # dropout is of each rank's own images
        torch.manual_seed(spec.seed + (ranks.rank << 32))
    loss = methods.build(spec.method)
    with journal_data_messages(journal, interruption):  # it may read images to test robustness on
        return Engine(spec, dataset, model, teacher, loss, journal, chosen, teacher_key, ranks), given


def workload_of(spec: RunSpec, dataset: Dataset) -> Workload:
    """How much a run has to do, which decides what pays."""
    steps = math.ceil(len(dataset.train) / spec.training.batch_size)
    return Workload(spec.training.epochs * len(dataset.train), steps, dataset.image_size)


def forward_multiplications(model: models.Network, dataset: Dataset) -> float:
    """Multiplications of a network's forward pass on one image. The network stays as it is."""
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    image = torch.zeros(1, dataset.channels, dataset.image_size, dataset.image_size, dtype=dtype)
    training = model.training
    model.eval()  # neither batch norm's statistics nor a dropout's random numbers are to move
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
    finally:
        model.train(training)
    return float(counter.get_total_flops()) / 2  # it counts additions too


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _start_from(weights: Weights, given: SuppliedWeights, engine: Engine, journal: Journal) -> None:
    assert isinstance(engine.model, models.Network)
    try:
        notes = models.load_supplied(
            engine.model, given.weights, any_classes=weights.fine_tune, fresh_last_layer=given.fresh_last_layer
        )
    except models.WeightsError as error:
        raise TrainingError("spec", f"the teacher's weights: {error}") from error
    use = "trained on" if weights.fine_tune else "used as they are"
    journal.log("; ".join((f"weights from {weights.source}, {use}", *notes)))


def _measured(given: SuppliedWeights, engine: Engine, journal: Journal) -> tuple[dict[str, float], SuppliedWeights]:
    """What weights used as they are are worth on the test images, and the same with what is suspicious of them."""
    dataset = engine.dataset
    network = adapt_teacher_input(engine.model, input_format_of(dataset), given.input).to(dataset.device)
    answers = sample_test_logits(network, dataset)
    summary = epoch_report(network, dataset)
    found = teacher_warnings(answers, dataset, summary["test/top1"], given.weights.metadata.top1)
    for doubt in found:
        journal.log(doubt, "warning")
    return summary, replace(given, warnings=(*given.warnings, *found))


def _started(engine: Engine, device: torch.device, images: dict[str, str]) -> Started:
    name = f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"
    # Whether they were rounded, not whether they were there: the numbers are the same with what is on the disk or not.
    kept = "kept" if engine.ranks.size == 1 else "rounded, not kept"
    teacher_logits = {"teacher_logits": kept if engine.spec.training.speed.reuse_teacher else "live"}
    return Started(
        total_steps=engine.total_steps,
        total_epochs=engine.spec.training.epochs,
        start_step=engine.position.step,
        train_size=len(engine.dataset.train),
        test_size=len(engine.dataset.test),
        parameters=models.count_parameters(engine.model),
        device=name,
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "processor": _processor(),
        }
        | engine.chosen.environment()
        | (teacher_logits if engine.teacher else {})
        | {RANKS_KEY: str(engine.ranks.size)}
        | images
        | provenance(),
    )


def _processor() -> str:
    """The CPU's name where Linux tells it, else what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine()) + f", {os.cpu_count()} cores"
