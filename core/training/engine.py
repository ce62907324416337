"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import IntEnum
from typing import Any

import torch
from torch import nn

from core.data import Batch, Dataset
from core.diagnostics.inference import predict_logits
from core.diagnostics.report import collapse_report, epoch_report, final_report
from core.events import Checkpointed, Journal, Metrics, read_journal
from core.methods import Loss
from core.models import Network
from core.specs import RunSpec
from core.training.cached_teacher import QuantizedTeacher, cached_teacher
from core.training.checkpoint import Checkpoint, Progress, RandomState, save_checkpoint
from core.training.compiling import CompilationError, ForwardFn, capture_stream, compile_network
from core.training.errors import TrainingError
from core.training.evaluation import perturbed_images
from core.training.interruption import StopRequested, TrainOptions
from core.training.metric_means import RunningMeans
from core.training.optimizer import build_optimizer, lr_factor, restore_optimizer
from core.training.performance import ExecutionPlan
from core.training.ranks import SINGLE_PROCESS, Ranks
from core.training.stepper import Stepper
from core.training.teacher import LiveTeacher, Teacher
from core.training.teacher_time import METRIC, TimedTeacher
from core.training.throughput import ThroughputMeter
from core.training.weights_metadata import training_metadata

CHECK_FINITE_EVERY = 100
"""Steps after which the sums are looked at: a loss that is not finite is found soon, and a GPU's queue is emptied
too seldom to cost anything."""


class StepAction(IntEnum):
    """What the ranks do before a step."""

    STEP = 0
    SAVE = 1
    STOP = 2


class Engine:
    """Trains one network: epochs, reports and checkpoints; the steps are the stepper's.

    Order, views and initialisation are decided by the spec's seeds alone.
    """

    def __init__(
        self,
        spec: RunSpec,
        dataset: Dataset,
        model: Network,
        teacher: nn.Module | None,
        loss: Loss,
        journal: Journal,
        chosen: ExecutionPlan,
        teacher_key: Mapping[str, Any] | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:
        """``teacher_key`` names the teacher's weights, and its logits are kept on disk under it; None: they are not."""
        self.ranks = ranks
        self.spec, self.dataset, self.model, self.teacher = spec, dataset, model, teacher
        self.journal = journal
        model.to(memory_format=chosen.memory_format)
        forward, self.chosen = self._forward(chosen)
        self.optimizer = build_optimizer(model, spec.training.optimizer, fused=chosen.fused)
        source: Teacher | None = None
        if teacher:
            source = live = LiveTeacher(teacher, self.chosen, self._warn)
            if teacher_key and ranks.size > 1:
                source = QuantizedTeacher(live)
            elif teacher_key:
                source = cached_teacher(live, teacher_key, spec, dataset, self.chosen, journal)
        self._timed = TimedTeacher(source, dataset.device) if source else None
        self.stepper = Stepper(
            model, self._timed, loss, self.optimizer, self.chosen, ranks=ranks, forward=forward, warn=self._warn
        )
        self.position = Progress()
        self._pace = ThroughputMeter()
        self._last: dict[str, float] = {}
        self._resumed_at = 0.0
        self._since = time.monotonic()
        self._saved_at = time.monotonic()
        # The teacher's answers to the test images never change.
        self._teacher_logits = predict_logits(teacher, dataset, dataset.test) if teacher and ranks.is_main else None
        self._perturbed = perturbed_images(spec.training, dataset)

    def _forward(self, chosen: ExecutionPlan) -> tuple[ForwardFn, ExecutionPlan]:
        """The model as it is run, and what is chosen once it is known what works."""
        if not chosen.compile:
            return self.ranks.parallelize(self.model, self.dataset.device), chosen
        dataset, size = self.dataset, min(self.spec.training.batch_size, len(self.dataset.train))
        example = torch.zeros(size, dataset.channels, dataset.image_size, dataset.image_size, device=dataset.device)
        self.model.train()
        began = time.monotonic()
        try:
            forward = compile_network(self.model, example.contiguous(memory_format=chosen.memory_format), chosen)
        except CompilationError as error:
            self._warn(f"the network is not compiled: {error}")
            return self.model, chosen.without("compile", "it did not work here")
        self.journal.log(f"the network was compiled in {time.monotonic() - began:.0f} s")
        return forward, chosen

    def _warn(self, text: str) -> None:
        self.journal.log(text, "warning")

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.dataset.train) / self.spec.training.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.spec.training.epochs

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint was written, whose journal is this engine's."""
        self.model.load_state_dict(checkpoint.model)
        restore_optimizer(self.optimizer, checkpoint.optimizer)
        if checkpoint.scaler:
            self.stepper.scaler.load_state_dict(checkpoint.scaler)
        device = self.dataset.device
        self.stepper.means = RunningMeans({name: sums.to(device) for name, sums in checkpoint.means.items()})
        self.position = checkpoint.position
        self._resumed_at = checkpoint.position.elapsed
        for record in read_journal(self.journal.path):
            if isinstance(record.event, Metrics):
                self._last |= record.event.values
        if self._timed:
            self._timed.seconds = self._last.get(METRIC, 0.0)
        if self.ranks.rank < len(checkpoint.random):
            checkpoint.random[self.ranks.rank].restore(device)

    def train(self, options: TrainOptions) -> dict[str, float] | None:
        """Train to the end. Returns the last value of every metric, or None where it was asked to stop.

        Raises TrainingError where a loss or a weight is no longer finite.
        """
        self._since = time.monotonic()
        with capture_stream(self.chosen, self.dataset.device):
            return self._train(options)

    def _train(self, options: TrainOptions) -> dict[str, float] | None:
        while self.position.epoch < self.spec.training.epochs:
            if not self._epoch(options):
                self.save()
                return None
            self.check_finite()
            of_teacher = self.stepper.teacher.end_epoch() if self.stepper.teacher else {}
            values = self._measured(options)
            if values is None:
                self.save()  # as after the epoch's last step: what was broken off is done again
                return None
            self._close(values | of_teacher)
        if self.stepper.teacher:
            self.stepper.teacher.finish()
        return self._last

    def _epoch(self, options: TrainOptions) -> bool:
        """The rest of the epoch under way; False where it was asked to stop before its end."""
        spec, position = self.spec, self.position
        self._set_mode()
        batches = self.dataset.batches(
            spec.training.batch_size,
            spec.data_seed,
            position.epoch,
            spec.training.augment,
            start=position.batch,
            share=self.ranks.share,
        )
        self._pace = ThroughputMeter()
        # Closed at once where the loop is left early: its thread must not read on while a checkpoint is written.
        with contextlib.closing(batches), self.chosen.deterministic_kernels():
            return self._steps(self._pace.of(batches), options)

    def _steps(self, batches: Iterator[Batch], options: TrainOptions) -> bool:
        position = self.position
        for batch in batches:
            order = self._order(options)
            if order is StepAction.STOP:
                return False
            if order is StepAction.SAVE:
                self.save()
            elif position.step % CHECK_FINITE_EVERY == 0:
                self._refuse_nonfinite_terms()
            self.stepper.step(batch, position.epoch, self._rate())
            position.batch += 1
            position.step += 1
        return True

    def _order(self, options: TrainOptions) -> StepAction:
        """What is to be done before the next step, by all ranks at one step."""
        if not self.ranks.should_sync(self.position.step, self.dataset.device):
            return StepAction.STEP
        order = StepAction.STEP
        if options.stop_requested():
            order = StepAction.STOP
        elif time.monotonic() - self._saved_at > options.checkpoint_seconds:
            order = StepAction.SAVE
        return StepAction(self.ranks.broadcast_int(order))

    def _set_mode(self) -> None:
        """Training mode, but for batch norm where the spec freezes it from this epoch on."""
        self.model.train()
        frozen_after = self.spec.training.freeze_batch_norm_after
        if frozen_after is not None and self.position.epoch >= frozen_after:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _rate(self) -> float:
        """Learning rate of the next step."""
        training = self.spec.training
        done = self.position.epoch + self.position.batch / self.steps_per_epoch
        return training.optimizer.lr * lr_factor(training.schedule, done, training.epochs)

    def _measured(self, options: TrainOptions) -> dict[str, float] | None:
        """What there is to say of the epoch whose steps are done; None where a stop was asked for meanwhile.

        Changes nothing, so that it may be broken off. The first rank alone evaluates; the others wait for it.
        """
        values: dict[str, float] | None = {}
        if self.ranks.is_main:
            try:
                with options.interruption.interruptible(), self.chosen.deterministic_kernels():
                    values = self._report()
            except StopRequested:
                values = None
        order = StepAction.STOP if values is None else StepAction.STEP
        return None if self.ranks.broadcast_int(order) == StepAction.STOP else values

    def _report(self) -> dict[str, float]:
        values = self.stepper.means.read()
        position, training = self.position, self.spec.training
        values |= self._pace.values() | {"lr": self.optimizer.param_groups[0]["lr"]}
        values |= epoch_report(self.model, self.dataset, self._teacher_logits)
        # Chosen by the test images themselves: reported because published numbers are such, never used for anything.
        values["oracle/top1"] = max(position.best_top1, values["test/top1"])
        epoch = position.epoch + 1
        if epoch == training.epochs:
            values |= final_report(self.model, self.teacher, self.dataset, self._perturbed)
        elif training.collapse_every and epoch % training.collapse_every == 0:
            values |= collapse_report(self.model, self.dataset)
        return values

    def _close(self, values: dict[str, float]) -> None:
        """Write an epoch's metrics down and go on to the next."""
        position, epochs = self.position, self.spec.training.epochs
        position.epoch += 1
        position.batch = 0
        position.elapsed = self._elapsed()
        self.stepper.means = RunningMeans()
        if not self.ranks.is_main:
            return
        position.best_top1 = values["oracle/top1"]
        self.journal.metrics(step=position.step, epoch=position.epoch, elapsed=position.elapsed, values=values)
        self.journal.log(
            f"epoch {position.epoch}/{epochs}: training loss {values['train/loss']:.4g}, "
            f"test accuracy {values['test/top1']:.2f} %"
        )
        self._last |= values

    def check_finite(self) -> None:
        """Raises TrainingError, with the step and the terms at fault, where a loss or a weight is not finite."""
        self._refuse_nonfinite_terms()
        state = {name: tensor for name, tensor in self.model.state_dict().items() if tensor.is_floating_point()}
        # One wait for the device, not one a tensor.
        finite = torch.stack([tensor.isfinite().all() for tensor in state.values()]).tolist()
        broken = [name for name, good in zip(state, finite, strict=True) if not good]
        if broken:
            more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
            self._refuse(f"the weights are not finite after step {self.position.step}: {', '.join(broken[:3])}{more}")

    def _refuse_nonfinite_terms(self) -> None:
        broken = {name: n for name, n in self.stepper.means.nonfinite().items() if name.startswith("train/")}
        if broken:
            first = min(broken.values())
            terms = ", ".join(name.removeprefix("train/") for name, before in broken.items() if before == first)
            step = self.position.step - self.position.batch + first + 1
            self._refuse(f"not finite at step {step} (of epoch {self.position.epoch + 1}): {terms}")

    def _refuse(self, what: str) -> None:
        advice = "a lower learning rate or a longer warm-up usually mends this"
        if self.chosen.precision != "float32":
            advice += f", or speed.precision: float32 in place of {self.chosen.precision}"
        raise TrainingError("nan", f"{what}; {advice}")

    def _elapsed(self) -> float:
        return self._resumed_at + time.monotonic() - self._since

    def save(self) -> None:
        """Write a checkpoint of now beside the journal, and say so in the journal; all ranks call this at one step.

        Where the disk refuses it, the training goes on: the next one may fit. Raises TrainingError where the weights
        are not finite: nobody could go on from them.
        """
        self.check_finite()
        random = self.ranks.random_states(self.dataset.device)
        self._saved_at = time.monotonic()
        if not self.ranks.is_main:
            return
        try:
            self._write(random)
        except OSError as error:
            reason = error.strerror or str(error)
            self.journal.log(f"no checkpoint could be written: {reason}; the training goes on without", "error")
        self._saved_at = time.monotonic()

    def _write(self, random: list[RandomState]) -> None:
        self.journal.sync()
        position = replace(self.position, elapsed=self._elapsed())
        path = save_checkpoint(
            self.journal.path.parent,
            Checkpoint(
                fingerprint=self.spec.fingerprint(),
                position=position,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                means=self.stepper.means.state(),
                journal=self.journal.path.read_bytes(),
                scaler=self.stepper.scaler.state_dict(),
                chosen=self.chosen.model_dump(),
                device=self.dataset.device.type,
                random=random,
                origin=training_metadata(self.spec, self.dataset).texts(),
            ),
        )
        self.journal.append(Checkpointed(step=position.step, path=path.name))
