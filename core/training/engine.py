"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from core.data import Dataset
from core.diagnostics.inference import logits_of
from core.diagnostics.report import collapse_report, epoch_report, final_report
from core.events import Checkpointed, Journal
from core.methods import Loss
from core.models import Network
from core.spec import RunSpec
from core.training.checkpoint import Checkpoint, Position, save_checkpoint
from core.training.errors import TrainingError
from core.training.evaluation import perturbed_images
from core.training.means import Means
from core.training.optimizer import build_optimizer, rate_factor
from core.training.speed import Chosen
from core.training.stepper import Stepper
from core.training.teacher import LiveTeacher, Teacher
from core.training.teacher_logits import reusing

CHECKPOINT_NAME = "checkpoint.pt"


@dataclass(frozen=True)
class Options:
    """How a training is run, none of which changes its numbers.

    Attributes:
        checkpoint_seconds: least time between two checkpoints; they are written between steps.
        stop_asked: polled between steps; True ends the training with a checkpoint.
    """

    checkpoint_seconds: float = 60.0
    stop_asked: Callable[[], bool] = lambda: False


class Engine:
    """Trains one network: epochs, reports and checkpoints; the steps are the stepper's.

    Order, views and initialisation are decided by the spec's seeds alone.
    """

    def __init__(
        self,
        spec: RunSpec,
        dataset: Dataset,
        model: Network,
        teacher: Network | None,
        loss: Loss,
        journal: Journal,
        chosen: Chosen,
        teacher_key: Mapping[str, Any] | None = None,
    ) -> None:
        """``teacher_key`` names the teacher's weights, and its logits are kept on disk under it; None: they are not."""
        self.spec, self.dataset, self.model, self.teacher = spec, dataset, model, teacher
        self.journal, self.chosen = journal, chosen
        self.optimizer = build_optimizer(model, spec.training.optimizer)
        source: Teacher | None = LiveTeacher(teacher, chosen) if teacher else None
        if source and teacher_key:
            source = reusing(source, teacher_key, spec, dataset, chosen, journal)
        self.stepper = Stepper(model, source, loss, self.optimizer, chosen)
        self.position = Position()
        self._resumed_at = 0.0
        self._since = time.monotonic()
        self._saved_at = time.monotonic()
        # The teacher's answers to the test images never change.
        self._teacher_logits = logits_of(teacher, dataset, dataset.test) if teacher else None
        self._perturbed = perturbed_images(spec.training, dataset)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.dataset.train) / self.spec.training.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.spec.training.epochs

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint was written."""
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        device = self.dataset.device
        self.stepper.means = Means({name: pair.to(device) for name, pair in checkpoint.means.items()})
        self.position = checkpoint.position
        self._resumed_at = checkpoint.position.elapsed

    def train(self, options: Options) -> dict[str, float] | None:
        """Train to the end. Returns the last value of every metric, or None where it was asked to stop.

        Raises TrainingError where the loss is no longer finite.
        """
        self._since = time.monotonic()
        last: dict[str, float] = {}
        while self.position.epoch < self.spec.training.epochs:
            if not self._epoch(options):
                self.save()
                return None
            last |= self._report()
        if self.stepper.teacher:
            self.stepper.teacher.finish()
        return last

    def _epoch(self, options: Options) -> bool:
        """The rest of the epoch under way; False where it was asked to stop before its end."""
        spec, position = self.spec, self.position
        self._set_mode()
        batches = self.dataset.batches(
            spec.training.batch_size, spec.data_seed, position.epoch, spec.training.augment, start=position.batch
        )
        for batch in batches:
            if options.stop_asked():
                return False
            if time.monotonic() - self._saved_at > options.checkpoint_seconds:
                self.save()
            self.stepper.step(batch, position.epoch, self._rate())
            position.batch += 1
            position.step += 1
        return True

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
        return training.optimizer.lr * rate_factor(training.schedule, done, training.epochs)

    def _report(self) -> dict[str, float]:
        """Close the epoch: check the losses, evaluate, and write the metrics down."""
        values = self.stepper.means.read()
        self._refuse_nonfinite(values)
        if self.stepper.teacher:
            values |= self.stepper.teacher.end_epoch()
        position = self.position
        before = position.elapsed
        position.elapsed = self._elapsed()
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        if position.elapsed > before:
            values["speed/images_per_second"] = len(self.dataset.train) / (position.elapsed - before)
        position.epoch += 1
        position.batch = 0
        values |= epoch_report(self.model, self.dataset, self._teacher_logits)
        # Chosen by the test images themselves: reported because published numbers are such, never used for anything.
        position.best_top1 = max(position.best_top1, values["test/top1"])
        values["oracle/top1"] = position.best_top1
        every = self.spec.training.collapse_every
        if position.epoch == self.spec.training.epochs:
            values |= final_report(self.model, self.teacher, self.dataset, self._perturbed)
        elif every and position.epoch % every == 0:
            values |= collapse_report(self.model, self.dataset)
        position.elapsed = self._elapsed()
        self.journal.metrics(step=position.step, epoch=position.epoch, elapsed=position.elapsed, values=values)
        self.journal.log(
            f"epoch {position.epoch}/{self.spec.training.epochs}: training loss {values['train/loss']:.4g}, "
            f"test accuracy {values['test/top1']:.2f} %"
        )
        self.stepper.means = Means()
        return values

    def _refuse_nonfinite(self, values: dict[str, float]) -> None:
        broken = [name for name, value in values.items() if name.startswith("train/") and not math.isfinite(value)]
        if broken:
            terms = ", ".join(name.removeprefix("train/") for name in broken)
            first = self.position.step - self.position.batch + 1
            raise TrainingError(
                "nan",
                f"not finite in epoch {self.position.epoch + 1} (steps {first} to {self.position.step}): {terms}; "
                f"a lower learning rate or a longer warm-up usually mends this",
            )

    def _elapsed(self) -> float:
        return self._resumed_at + time.monotonic() - self._since

    def save(self) -> Path:
        """Write a checkpoint of now beside the journal, and say so in the journal."""
        self.journal.sync()
        path = self.journal.path.parent / CHECKPOINT_NAME
        position = replace(self.position, elapsed=self._elapsed())
        save_checkpoint(
            path,
            Checkpoint(
                fingerprint=self.spec.fingerprint(),
                position=position,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                means=self.stepper.means.state(),
                journal=self.journal.path.read_bytes(),
            ),
        )
        self._saved_at = time.monotonic()
        self.journal.append(Checkpointed(step=position.step, path=path.name))
        return path
