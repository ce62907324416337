"""The training loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from enum import IntEnum

import torch
from torch import nn

from core.catalog.metrics import METRICS
from core.catalog.taps import STRONG_LOGITS
from core.errors import TrainingError
from core.events import Checkpointed, Metrics, read_journal
from core.tasks.task import Batch, LoadedTeacher, Task
from core.train.cached_teacher import reused_teacher
from core.train.checkpoint import Checkpoint, Progress, RandomState, save_checkpoint
from core.train.clock import Calendar, Clock
from core.train.compiling import CompilationError, ForwardFn, capture_stream, compile_network
from core.train.ema import AveragedWeights, averaged_names
from core.train.ensemble import EnsembleTeacher
from core.train.feature_log import FeatureLog
from core.train.interruption import StopRequested
from core.train.job import Job
from core.train.machine_report import MachineReport
from core.train.method import exported_network, prepare_objective
from core.train.metric_means import RunningMeans
from core.train.optimizer import build_optimizer, build_term_momentum, lr_factor, restore_optimizer
from core.train.peer import WithPeer
from core.train.performance import ExecutionPlan
from core.train.stepper import Stepper, Update
from core.train.teacher import LiveTeacher, Teacher
from core.train.teacher_time import TEACHER_SECONDS, TimedTeacher
from core.train.throughput import ThroughputMeter
from core.turns import pass_turn

CHECK_FINITE_EVERY = 100
"""Steps between two checks of the running sums. A loss that is not finite is found soon, and the queue of a GPU is
emptied too rarely for the checks to cost time."""

MEASURE_SHARES_EVERY = 100
"""Steps between two measurements of each term's share of the gradient, counted in the epoch. Each takes a backward pass
for each term."""


class StepAction(IntEnum):
    """What all ranks do before a step."""

    STEP = 0
    SAVE = 1
    STOP = 2


class Engine:
    """The training of one network: epochs, reports and checkpoints. The steps themselves are the stepper's.

    The order of the samples, their augmented views and the initialisation depend on the seeds of the spec alone.

    Args:
        job: The training.
        task: Its data, on the device it trains on.
        model: The network to train, on the same device.
        plan: How the network computes. If it cannot be compiled after all, ``self.plan`` says so.
        teacher: The teacher in eval mode, on the same device; None for a run without one.

    Attributes:
        objective: The method.
        exported: The network that the training leaves behind; the model itself unless the method adds a part of its
            own.
        progress: How far the training is.
        features: The penultimate features that it has kept.

    Raises:
        TrainingError: The data for the final report cannot be read, or the method does not fit the networks.
    """

    def __init__(
        self, job: Job, task: Task, model: nn.Module, plan: ExecutionPlan, teacher: LoadedTeacher | None
    ) -> None:
        self.job, self.task, self.model = job, task, model
        self.teacher = teacher.network if teacher else None
        spec = job.spec
        self.objective = prepare_objective(spec, task, model, self.teacher)
        self.exported = exported_network(job.spec, self.objective, model)
        self._peer = self.objective.peer()
        if self._peer:
            task.check_network(self._peer)
        self._trained = [network for network in (model, self._peer) if network]
        for network in self._trained:
            network.to(memory_format=plan.memory_format)
        training = spec.training
        self.clock = Clock(
            Calendar(task.train_size, training.batch_size, training.epochs, training.evaluate_every),
            job.options.checkpoint_seconds,
        )
        averaged = training.ema is not None and job.ranks.is_main
        self._average = AveragedWeights(self.exported, training.ema or 0.0) if averaged else None
        forward, eager, self.plan = self._build_forward(plan)
        self.optimizer = self._build_optimizer()
        self._timed_teacher = TimedTeacher(self._teacher_outputs(teacher), task.device) if teacher else None
        self.stepper = Stepper(
            task,
            model,
            self._timed_teacher,
            self.objective,
            self.optimizer,
            self.plan,
            ranks=job.ranks,
            forward=forward,
            eager=eager,
            update=Update.of(training),
            warn=job.warn,
        )
        self.progress = Progress()
        self._throughput = ThroughputMeter()
        self._last_values: dict[str, float] = {}
        self._machine = MachineReport(job, task.device)
        self.features = FeatureLog.of(task, self.exported, training, is_main=job.ranks.is_main)
        if self.features.schedule.on:
            task.keep_teacher_features(self.features.schedule.count)
        task.prepare_reports(self.teacher if job.ranks.is_main else None)

    def _build_optimizer(self) -> torch.optim.Optimizer:
        spec, own = self.job.spec.training.optimizer, list(self.objective.parameters())
        if self.objective.momenta:
            return build_term_momentum(self.model, own, spec, self.objective.momenta)
        optimizer = build_optimizer(self.model, spec, fused=self.plan.fused)
        if own:
            optimizer.add_param_group({"params": own})
        return optimizer

    def _teacher_outputs(self, teacher: LoadedTeacher) -> Teacher:
        if teacher.members:
            assert self.job.spec.ensemble
            members = [self._teacher_outputs(member) for member in teacher.members]
            return EnsembleTeacher(members, self.job.spec.ensemble, self.task)
        taps = self.objective.taps.teacher
        live = LiveTeacher(teacher.network, self.plan, self.task, taps, self.job.warn)
        if teacher.cache_key is None:
            if self.job.spec.training.speed.reuse_teacher:  # else nothing was to be cached
                self.job.journal.log("the teacher runs in every step: what the method reads of it is not cached")
            return live
        shape = self.task.teacher_shape(teacher.network, taps)
        return reused_teacher(live, teacher.cache_key, self.job, self.task, shape, self.plan)

    def _build_forward(self, plan: ExecutionPlan) -> tuple[ForwardFn, ForwardFn, ExecutionPlan]:
        """Return the model as a step calls it, the same without compilation, and the plan with what worked."""
        taps = self.objective.taps.student
        for network in self._trained:
            self.job.ranks.synchronize(network, self.task.device)
        network = self.task.tapped(self.model, taps) if taps else self.model
        if self._peer:
            network = WithPeer(network, self._peer)
        if not plan.compile:
            parallel = self.job.ranks.parallelize(network, self.task.device)
            return parallel, parallel, plan
        samples = min(self.job.spec.training.micro_batch_size, self.task.train_size)
        example = self.task.example(2 * samples if STRONG_LOGITS in taps else samples)
        network.train()
        began = time.monotonic()
        try:
            forward = compile_network(network, example.contiguous(memory_format=plan.memory_format), plan)
        except CompilationError as error:
            self.job.warn(f"the network is not compiled: {error}")
            return network, network, plan.without("compile", "it did not work here")
        self.job.journal.log(f"the network was compiled in {time.monotonic() - began:.0f} s")
        return forward, network, plan

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. The journal must already hold the checkpoint's journal."""
        self.model.load_state_dict(checkpoint.model)
        self.objective.load_state_dict(checkpoint.objective)
        restore_optimizer(self.optimizer, checkpoint.optimizer)
        if checkpoint.scaler:
            self.stepper.scaler.load_state_dict(checkpoint.scaler)
        device = self.task.device
        self.stepper.means = RunningMeans({name: sums.to(device) for name, sums in checkpoint.metric_sums.items()})
        self.progress = checkpoint.progress
        self.clock.start(checkpoint.progress.elapsed)
        if self._average and checkpoint.average:
            self._average.restore(checkpoint.average)
        self.features.restore(checkpoint.features)
        for record in read_journal(self.job.journal.path):
            if isinstance(record.event, Metrics):
                self._last_values |= record.event.values
        if self._timed_teacher:
            self._timed_teacher.seconds = self._last_values.get(TEACHER_SECONDS, 0.0)
        self._machine.restore(self._last_values, checkpoint.progress.elapsed)
        if self.job.ranks.rank < len(checkpoint.random):
            checkpoint.random[self.job.ranks.rank].restore(device)

    def train(self) -> dict[str, float] | None:
        """Train to the end, or until a stop is requested.

        Returns:
            The last value of every metric; None if the training was stopped, with a checkpoint.

        Raises:
            TrainingError: A loss or a weight is no longer finite.
        """
        self.clock.start()
        with self._machine.measuring(), capture_stream(self.plan, self.task.device):
            return self._train()

    def _train(self) -> dict[str, float] | None:
        while self.progress.epoch < self.job.spec.training.epochs:
            if not self._train_epoch():
                self.save()
                return None
            self.check_finite()
            teacher_values = self.stepper.teacher.end_epoch() if self.stepper.teacher else {}
            values = self._evaluate()
            if values is None:
                self.save()  # in the state after the epoch's last step: the evaluation is repeated on resume
                return None
            self._finish_epoch(values | teacher_values)
        if self.stepper.teacher:
            self.stepper.teacher.finish()
        return self._last_values

    def _train_epoch(self) -> bool:
        """Train the rest of the current epoch. Returns False if a stop was requested before its end."""
        training, progress = self.job.spec.training, self.progress
        self._set_train_mode()
        batches = self.task.batches(
            training,
            self.job.spec.data_seed,
            progress.epoch,
            start=progress.batch,
            share=self.job.ranks.share,
            strong_view=self.objective.taps.strong_view,
        )
        self._throughput = ThroughputMeter()
        # Closed at once if the loop ends early: its thread must not read on while a checkpoint is written.
        with contextlib.closing(batches), self.plan.deterministic_kernels():
            return self._train_steps(self._throughput.measure(batches))

    def _train_steps(self, batches: Iterator[Batch]) -> bool:
        progress = self.progress
        for batch in batches:
            pass_turn()
            action = self._next_action()
            if action is StepAction.STOP:
                return False
            if action is StepAction.SAVE:
                self.save()
            elif progress.step % CHECK_FINITE_EVERY == 0:
                self._check_finite_terms()
            if self.job.ranks.is_main and self.clock.reports(progress.batch):
                self._report_training()
            measure = self.objective.measures_shares and progress.batch % MEASURE_SHARES_EVERY == 0
            self.stepper.step(batch, progress.epoch, self._learning_rate(), measure=measure)
            if self._average:
                self._average.update(self.exported)
            progress.batch += 1
            progress.step += 1
        return True

    def _next_action(self) -> StepAction:
        """Return the request that is carried out before the next step; all ranks get the same one at the same step."""
        if not self.job.ranks.should_sync(self.progress.step, self.task.device):
            return StepAction.STEP
        options, action = self.job.options, StepAction.STEP
        if options.stop_requested():
            action = StepAction.STOP
        elif self.clock.saves():
            action = StepAction.SAVE
        return StepAction(self.job.ranks.broadcast_int(action))

    def _set_train_mode(self) -> None:
        """Set training mode, except for a network that the epoch does not train, and for frozen batch norm."""
        self.model.train(self.objective.trains(self.progress.epoch) != "none")
        self.objective.train()
        frozen_after = self.job.spec.training.freeze_batch_norm_after
        if frozen_after is not None and self.progress.epoch >= frozen_after:
            for module in (module for network in (*self._trained, self.exported) for module in network.modules()):
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        training = self.job.spec.training
        calendar = self.clock.calendar
        epochs_done = calendar.epochs_done(self.progress.epoch, self.progress.batch)
        factor = lr_factor(training.schedule, epochs_done, training.epochs, calendar.steps_per_epoch)
        return training.optimizer.lr * factor

    def _evaluate(self) -> dict[str, float] | None:
        """Return the metrics of the epoch whose steps are done, or None if a stop was requested meanwhile.

        It changes nothing, so it may be interrupted. The first rank alone evaluates; the others wait for it and
        return no metrics.
        """
        values: dict[str, float] | None = {}
        ranks = self.job.ranks
        if ranks.is_main:
            try:
                with self.job.options.interruption.interruptible(), self.plan.deterministic_kernels():
                    values = self._report()
            except StopRequested:
                values = None
        action = StepAction.STOP if values is None else StepAction.STEP
        return None if ranks.broadcast_int(action) == StepAction.STOP else values

    def _report_training(self) -> None:
        """Write down, in the middle of an epoch, what is known of it: the means of its steps so far."""
        progress, values = self.progress, self._training_values() | self._machine.values(self.clock.elapsed)
        epochs = self.clock.calendar.epochs_done(progress.epoch, progress.batch)
        self.job.journal.metrics(step=progress.step, epoch=epochs, elapsed=self.clock.elapsed, values=values)
        self._last_values |= values
        self.clock.reported()

    def _training_values(self) -> dict[str, float]:
        rate = {"lr": self.optimizer.param_groups[0]["lr"]}
        return self.stepper.means.read() | self._throughput.metrics() | rate

    def _report(self) -> dict[str, float]:
        values, training = self._training_values(), self.job.spec.training
        network = self.network
        if self.clock.calendar.evaluates(self.progress.epoch):
            values |= self.features.report(self.task, network, self.progress.epoch + 1)
            # The test split chooses this epoch, so nothing else uses it; published numbers are often of this kind.
            values[self._oracle] = max(self.progress.best_headline, values[self.task.headline])
            if self._average:
                average = self.objective.folded(self._average.network)
                values |= averaged_names(self.task.epoch_report(average))
        epoch = self.progress.epoch + 1
        if epoch == training.epochs:
            values |= self.task.extra_report(network, self.teacher, last=True)
            if self._peer:
                values[self.task.headline.replace("/", "/peer_")] = self.task.epoch_report(self._peer)[
                    self.task.headline
                ]
        elif training.collapse_every and epoch % training.collapse_every == 0:
            values |= self.task.extra_report(network, self.teacher, last=False)
        return values

    @property
    def network(self) -> nn.Module:
        """The network that is evaluated and saved, with the present weights."""
        return self.objective.folded(self.exported)

    @property
    def _oracle(self) -> str:
        """Name of the metric with the best value of the headline metric so far."""
        return f"oracle/{self._score}"

    @property
    def _score(self) -> str:
        return self.task.headline.rpartition("/")[2]

    def _finish_epoch(self, values: dict[str, float]) -> None:
        """Write the metrics of an epoch down, and move on to the next one."""
        progress, epochs, journal = self.progress, self.job.spec.training.epochs, self.job.journal
        progress.epoch += 1
        progress.batch = 0
        progress.elapsed = self.clock.elapsed
        self.clock.reported()
        self.stepper.means = RunningMeans()
        if not self.job.ranks.is_main:
            return
        values |= self._machine.values(progress.elapsed, last=progress.epoch == epochs)
        progress.best_headline = values.get(self._oracle, progress.best_headline)
        journal.metrics(step=progress.step, epoch=progress.epoch, elapsed=progress.elapsed, values=values)
        headline = METRICS[self.task.headline]
        text = f"epoch {progress.epoch}/{epochs}: training loss {values['train/loss']:.4g}"
        if headline.name in values:
            text += f", {headline.title[0].lower()}{headline.title[1:]} {values[headline.name]:.2f} {headline.unit}"
        journal.log(text)
        self._last_values |= values

    def check_finite(self) -> None:
        """Check that every loss and every weight is finite.

        Raises:
            TrainingError: One is not; the message names the step, and the terms or the weights.
        """
        self._check_finite_terms()
        everything = self.model.state_dict() | {
            f"{self.job.spec.method.full_name}.{name}": tensor for name, tensor in self.objective.state_dict().items()
        }
        state = {name: tensor for name, tensor in everything.items() if tensor.is_floating_point()}
        # Stacked, so that the device is waited for once and not for every tensor.
        finite = torch.stack([tensor.isfinite().all() for tensor in state.values()]).tolist()
        broken = [name for name, is_finite in zip(state, finite, strict=True) if not is_finite]
        if broken:
            more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
            names = f"{', '.join(broken[:3])}{more}"
            self._raise_not_finite(f"the weights are not finite after step {self.progress.step}: {names}")

    def _check_finite_terms(self) -> None:
        broken = {name: n for name, n in self.stepper.means.nonfinite().items() if name.startswith("train/")}
        if broken:
            first = min(broken.values())
            terms = ", ".join(name.removeprefix("train/") for name, before in broken.items() if before == first)
            step = self.progress.step - self.progress.batch + first + 1
            self._raise_not_finite(f"not finite at step {step} (of epoch {self.progress.epoch + 1}): {terms}")

    def _raise_not_finite(self, problem: str) -> None:
        advice = "a lower learning rate or a longer warm-up usually fixes this"
        if self.plan.precision != "float32":
            advice += f", or speed.precision: float32 instead of {self.plan.precision}"
        raise TrainingError("nan", f"{problem}; {advice}")

    def save(self) -> None:
        """Write a checkpoint beside the journal, and record it there. All ranks call this at the same step.

        If the disk refuses it, the training continues without: the next checkpoint may fit.

        Raises:
            TrainingError: The weights are not finite, so nothing could continue from them.
        """
        self.check_finite()
        random = self.job.ranks.random_states(self.task.device)
        self.clock.saved()
        if not self.job.ranks.is_main:
            return
        try:
            self._write_checkpoint(random)
        except OSError as error:
            reason = error.strerror or str(error)
            self.job.journal.log(
                f"no checkpoint could be written: {reason}; the training continues without one", "error"
            )
        self.clock.saved()

    def _write_checkpoint(self, random: list[RandomState]) -> None:
        journal, spec = self.job.journal, self.job.spec
        journal.sync()
        progress = replace(self.progress, elapsed=self.clock.elapsed)
        path = save_checkpoint(
            journal.path.parent,
            Checkpoint(
                fingerprint=spec.fingerprint(),
                progress=progress,
                model=self.model.state_dict(),
                objective=self.objective.state_dict(),
                average=self._average.state() if self._average else {},
                optimizer=self.optimizer.state_dict(),
                metric_sums=self.stepper.means.state(),
                journal=journal.path.read_bytes(),
                scaler=self.stepper.scaler.state_dict(),
                plan=self.plan.model_dump(),
                device=self.task.device.type,
                random=random,
                metadata=self.task.metadata(self.model).texts(),
                features=self.features.state(),
            ),
        )
        journal.append(Checkpointed(step=progress.step, path=path.name))
