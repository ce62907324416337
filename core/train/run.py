"""One training from its spec to its weights, in a folder of its own that also holds the journal of its events."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from torch import nn

from core.errors import MachineError, TrainingError, is_broken_gpu, is_out_of_memory, out_of_memory_error
from core.events import IMAGES_KEY, JOURNAL_NAME, Failed, Finished, Journal, Stopped, is_full_disk, read_journal
from core.items.features import NetworkFeatures
from core.launch import RankInfo
from core.settings import TrainingSettings
from core.specs import RunSpec
from core.tasks.task import SuppliedWeights, Task, TeacherSource
from core.train.checkpoint import Checkpoint, CheckpointLookup, find_checkpoint, promote
from core.train.engine import Engine
from core.train.feature_log import report_unchanged
from core.train.interruption import StopRequested, TrainOptions, ignore_sigterm, stop_on_sigterm
from core.train.item_results import save_correlations, save_detections, save_features, save_items, save_pictures
from core.train.job import Job
from core.train.performance import restoring_threads
from core.train.preparation import prepare
from core.train.ranks import SINGLE_PROCESS, Ranks, is_peer_lost, process_group
from core.train.rehearsal import rehearse
from core.train.start_event import resumed_data_identity, start_event
from core.turns import in_group
from core.weights.network_weights import save_weights

WEIGHTS_NAME = "weights.safetensors"
_SETTLE_SECONDS = 20.0
"""How long a training waits for room on a full disk; a worker gives a training longer than this to end."""

Result = Literal["finished", "stopped", "failed"]


def run_training(
    spec: RunSpec,
    out: Path,
    teacher: TeacherSource | Sequence[TeacherSource] | None = None,
    resume: Path | None = None,
    options: TrainOptions | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    settings: TrainingSettings | None = None,
    students: Sequence[RunSpec] = (),
) -> Result:
    """Train one run. All its events, its failure included, are in ``out/events.jsonl``.

    A training that fails raises nothing: the reason is the last event of the journal. Faults of the machine are not
    failures of the run and are raised.

    Args:
        spec: The run.
        out: A folder for this attempt alone; it is created if it is missing.
        teacher: Where the teacher comes from; needed if ``spec.teacher`` names one. Several teachers in any order.
        resume: A checkpoint of an earlier attempt at the same run.
        options: When checkpoints are written, and how the training is stopped.
        ranks: The processes of this training. Each of them calls this function; only the first writes to ``out``.
        settings: What the training takes from its environment; None reads it from the environment.
        students: Of a teacher's run, those that wait for it. If none of them could be trained, the run fails before its
            first step; it warns of each that could not.

    Returns:
        "finished" with weights, "stopped" with a checkpoint, or "failed".

    Raises:
        MachineError: A GPU does not work.
        OSError: The disk is full, and the results cannot be written.
        SettingsError: ``settings`` is None, and a variable of the environment cannot be used.
    """
    settings = settings or TrainingSettings.from_environment()
    if ranks.info and not ranks.is_main:
        out = ranks.info.scratch
    out.mkdir(parents=True, exist_ok=True)
    lookup = find_checkpoint(resume, spec.fingerprint()) if resume else CheckpointLookup(None, None, [])
    journal_path = out / JOURNAL_NAME
    journal_path.unlink(missing_ok=True)
    if lookup.checkpoint:
        journal_path.write_bytes(lookup.checkpoint.journal)
    if ranks.is_main:
        promote(lookup.path, out)
    with Journal(journal_path) as journal:
        teachers = (teacher,) if isinstance(teacher, TeacherSource) else teacher or ()
        job = Job(spec, journal, settings, options or TrainOptions(), ranks, teachers, students)
        if lookup.problems:
            used = "the previous one is used" if lookup.path else "the training starts from the beginning"
            job.warn("; ".join((*lookup.problems, used)))
        return _run(job, lookup.checkpoint)


def run_rank(
    info: RankInfo,
    spec: RunSpec,
    out: Path,
    teacher: Sequence[TeacherSource],
    resume: Path | None,
    options: TrainOptions,
    settings: TrainingSettings,
    students: Sequence[RunSpec] = (),
) -> Result:
    """Train one run as one of several processes, see ``core.launch``.

    A failure is reported to the process that started the ranks. The other arguments, the result and the errors are
    those of ``run_training``.

    Args:
        info: Which of the processes this is.
    """
    with process_group(info) as ranks:
        if ranks.is_main:
            with stop_on_sigterm(options) as stoppable:
                return run_training(spec, out, teacher, resume, stoppable, ranks, settings, students)
        # The first rank receives the signal and tells the others, so that all of them stop at the same step.
        with ignore_sigterm():
            return run_training(spec, out, teacher, resume, options, ranks, settings, students)


def _run(job: Job, checkpoint: Checkpoint | None) -> Result:
    steps_begun = False
    with ExitStack() as threads:
        try:
            device = job.ranks.device(job.settings.gpus_given)
            threads.enter_context(restoring_threads(job.settings))
            with job.options.interruption.interruptible():
                engine, initial = prepare(job, device, checkpoint)
                if not (checkpoint or initial):
                    _check_students(job)
            if checkpoint:
                engine.restore(checkpoint)
            job.ranks.check_same_step(engine.progress.step)
            identity = resumed_data_identity(read_journal(job.journal.path), engine.task.data_identity())
            job.journal.append(start_event(engine, identity))
            job.journal.log(engine.plan.summary())
            steps_begun = True
            job.options.on_prepared()
            images = identity[IMAGES_KEY]
            return _evaluate_unchanged(engine, initial, images) if initial else _train(engine, images)
        except StopRequested:
            job.journal.append(Stopped(step=checkpoint.progress.step if checkpoint else 0))
            return "stopped"
        except TrainingError as error:
            _report_failure(job, error)
        except Exception as error:  # any other error must be on the run, and not be lost with the process
            if isinstance(error, OSError) and is_full_disk(error):
                job.journal.log(f"{error}; the run cannot continue here", "error")
                raise
            if isinstance(error, MachineError) or is_broken_gpu(error):
                job.journal.log(f"{error}; the run cannot continue here", "error")
                raise MachineError(str(error).partition("\n")[0]) from error
            if is_out_of_memory(error) and in_group():
                job.journal.log(f"no memory beside the other trainings of the process: {error}", "error")
                raise MachineError("no memory beside the other trainings of the process") from error
            if is_out_of_memory(error):
                batch_size = job.spec.training.batch_size
                _report_failure(job, out_of_memory_error(error, batch_size, training=steps_begun))
            else:
                job.journal.log(traceback.format_exc(), "error")
                reason = TrainingError("error", f"{type(error).__name__}: {error}")
                _report_failure(job, reason, peer_lost=is_peer_lost(error))
        finally:
            if not job.journal.settle(_SETTLE_SECONDS):
                raise OSError(
                    errno.ENOSPC, "the disk is full, and the last events of the training could not be written"
                )
    return "failed"


def _check_students(job: Job) -> None:
    """Check before a teacher is trained that its students can be, as far as that does not depend on its weights.

    Raises:
        TrainingError: None of them can be trained.
    """
    if not job.students:
        return
    found = rehearse(job.students, [job.spec], job.settings)
    names = [f"{student.method.label}: {reason}" for student, reason in found.refused]
    if found.all_refused:
        text = "; ".join(names)
        raise TrainingError("spec", f"not trained, because no run that waits for this teacher can be trained: {text}")
    if job.ranks.is_main:
        for name in names:
            job.warn(f"a run that waits for this teacher cannot be trained: {name}")


def _train(engine: Engine, images: str) -> Result:
    """Train to the end, and write down the weights and what each test sample got; ``images`` identifies the data."""
    job = engine.job
    summary = engine.train()
    if summary is None:
        job.journal.append(Stopped(step=engine.progress.step))
        return "stopped"
    if job.ranks.is_main:
        network = engine.network
        metadata = engine.task.metadata(network, summary[engine.task.headline])
        digest = save_weights(network, job.journal.path.parent / WEIGHTS_NAME, metadata)
        files = _item_files(job, engine.task, network, images, engine.features.found())
        job.journal.append(Finished(weights=WEIGHTS_NAME, sha256=digest, summary=summary, **files))
    return "finished"


def _evaluate_unchanged(engine: Engine, weights: SuppliedWeights, images: str) -> Result:
    """Evaluate weights that are not trained on, and write them down with the warnings about them."""
    job, task = engine.job, engine.task
    with job.options.interruption.interruptible():
        network = task.with_expected_inputs(engine.model, weights)
        summary, features = report_unchanged(task, network, job.spec.training)
        warnings = task.check_teacher(network, weights, summary)
        for warning in warnings:
            job.warn(warning)
    job.journal.metrics(step=0, epoch=0, elapsed=0.0, values=summary)
    if job.ranks.is_main:
        metadata = task.supplied_metadata(weights, warnings)
        digest = save_weights(engine.model, job.journal.path.parent / WEIGHTS_NAME, metadata)
        files = _item_files(job, task, network, images, features)
        job.journal.append(Finished(weights=WEIGHTS_NAME, sha256=digest, summary=summary, **files))
    return "finished"


def _item_files(
    job: Job, task: Task, network: nn.Module, images: str, features: NetworkFeatures | None
) -> dict[str, Any]:
    """Write down what each test sample got, and return the names of the files by field of ``Finished``.

    Args:
        job: The training.
        task: Its data.
        network: The network whose weights were written.
        images: What identifies the data.
        features: The features that the run has kept.
    """
    return {
        "items": save_items(job, task, network, images),
        "detections": save_detections(job, task, network, images),
        "pictures": save_pictures(job, task, network),
        "correlations": save_correlations(job, task, network, images),
        "features": save_features(job, task, features, images),
    }


def _report_failure(job: Job, error: TrainingError, *, peer_lost: bool = False) -> None:
    """Make the reason the run's last event, and log it, because people look into the log first."""
    if job.ranks.size > 1:  # the process that sees all ranks writes the last event
        job.ranks.report_failure(error, peer_lost=peer_lost)
        return
    job.journal.log(str(error), "error")
    job.journal.append(Failed(kind=error.kind, reason=str(error)))
