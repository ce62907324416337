"""A step in micro-batches has the gradient of the whole batch, for every method, with mixtures, and on two ranks."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from core.catalog.methods.dml import DMLParams
from core.distill.logits.dml import DML
from core.distill.loss import build_loss
from core.distill.mixed_labels import MixedLabels
from core.distill.objective import LogitObjective, NetworkShape, Objective, Outputs, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, cross_entropy, with_gradient
from core.launch import RankInfo
from core.specs import MethodRef, Optimizer, Training
from core.tasks.classification.data import Batch
from core.tasks.task import Task
from core.train.accumulation import MicroBatches
from core.train.optimizer import build_optimizer
from core.train.peer import WithPeer
from core.train.performance import ExecutionPlan
from core.train.rank_loss import StepLoss, step_loss
from core.train.ranks import SINGLE_PROCESS, Ranks
from core.train.stepper import Stepper, Update
from tests.core.speed_runs import synthetic
from tests.core.task_of import task_of
from tests.core.test_methods import ALL, SETTINGS
from tests.services import free_port

CLASSES, SIZE = 5, 13


class RowHint(Objective):
    """A mean over rows with a parameter of its own, as feature methods have it."""

    scope = "row"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, step: Step) -> LossTerms:
        rows = step.rows
        ce = cross_entropy(rows.student32, rows.target, rows.weight)
        hint = rows.weigh((self.scale * rows.student).square().mean(1)).mean()
        return LossTerms(
            with_gradient(rows.student, ce.value, ce.gradient) + hint, {"ce": ce.value, "hint": hint.detach()}
        )


def network(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.Tanh(), *extra, nn.Flatten(), nn.Linear(12, CLASSES)
    return nn.Sequential(*layers).double()


def problem(mixed: bool = False) -> tuple[Batch, Outputs]:
    random = torch.Generator().manual_seed(1)
    images = torch.randn(SIZE, 1, 4, 4, generator=random, dtype=torch.float64)
    labels, partners = torch.randint(CLASSES, (2, SIZE), generator=random)
    mixture = MixedLabels(labels, partners, torch.rand(SIZE, generator=random)) if mixed else None
    teacher = Outputs(3 * torch.randn(SIZE, CLASSES, generator=random, dtype=torch.float64))
    return Batch(images, labels, torch.arange(SIZE), SIZE, mixture), teacher


def objective_of(setting: str) -> Objective:
    if setting == "row hint":
        return RowHint()
    if setting == "dml":
        other = network(nn.Conv2d(3, 3, 1))
        return DML(DMLParams(), Setting(NetworkShape(CLASSES), None, SIZE, build_network=lambda _: other))
    return LogitObjective(build_loss(MethodRef(name=setting.split()[0], params=SETTINGS[setting])))


def passes(model: nn.Module, objective: Objective, wrapped: Any = None, ranks: Ranks = SINGLE_PROCESS) -> MicroBatches:
    called = wrapped or with_peer(model, objective)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    task: Task = task_of()

    def forward(batch: Any) -> Outputs:
        return task.forward(called, batch, objective.student_outputs)

    return MicroBatches(task, model, objective, ranks, forward, called, scaler)


def with_peer(model: nn.Module, objective: Objective) -> nn.Module:
    peer = objective.peer()
    return WithPeer(model, peer) if peer else model


def gradients(model: nn.Module, objective: Objective) -> list[Tensor]:
    actual = [parameter.grad for module in (model, objective) for parameter in module.parameters()]
    assert all(gradient is not None for gradient in actual)
    return [gradient for gradient in actual if gradient is not None]


def whole_batch(model: nn.Module, objective: Objective, batch: Batch, teacher: Outputs) -> StepLoss:
    task = task_of()
    outputs = task.forward(with_peer(model, objective), batch, objective.student_outputs)
    step = task.step(outputs, teacher, batch, 2)
    loss = step_loss(objective, step, SIZE, SINGLE_PROCESS, copies=batch.copies)
    loss.local.backward()  # type: ignore[no-untyped-call]
    return loss


EVERY = pytest.mark.parametrize("setting", [*SETTINGS, "row hint", "dml"])


@EVERY
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("count", [2, 5])
def test_micro_batches_have_the_gradient_and_terms_of_the_whole_batch(setting: str, mixed: bool, count: int) -> None:
    batch, teacher = problem(mixed)
    model, reference = network(), network()
    objective, same = objective_of(setting), objective_of(setting)
    actual = passes(model, objective).backward(batch, count, teacher, epoch=2)
    expected = whole_batch(reference, same, batch, teacher)
    assert actual.terms.total.item() == pytest.approx(expected.terms.total.item(), rel=1e-6)
    assert actual.terms.values.keys() == expected.terms.values.keys()
    for name, value in expected.terms.values.items():
        assert actual.terms.values[name].item() == pytest.approx(value.item(), rel=1e-6), name
    for ours, theirs in zip(gradients(model, objective), gradients(reference, same), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)


def test_batch_norm_updates_its_statistics_once_per_micro_batch() -> None:
    batch, teacher = problem()
    model, reference = network(nn.BatchNorm2d(3)), network(nn.BatchNorm2d(3))
    passes(model, objective_of("kd")).backward(batch, 3, teacher, epoch=0)
    for part in (slice(0, 4), slice(4, 8), slice(8, 13)):
        reference(batch.images[part])
    for ours, theirs in zip(model.buffers(), reference.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_first_pass_leaves_the_statistics_of_both_networks_to_the_second() -> None:
    batch, _ = problem()
    peer = network(nn.BatchNorm2d(3))
    objective = DML(DMLParams(), Setting(NetworkShape(CLASSES), None, SIZE, build_network=lambda _: peer))
    steps = passes(network(nn.BatchNorm2d(3)), objective)
    steps._over_batch(batch, [slice(0, 6), slice(6, SIZE)], None, 0)
    assert [module.num_batches_tracked.item() for module in (steps.model[2], peer[2])] == [2, 2]  # type: ignore[index]


def test_second_pass_draws_the_same_dropout_as_the_first() -> None:
    batch, teacher = problem()
    model, seen = network(nn.Dropout(0.5)), []
    recording = model.register_forward_hook(lambda *parts: seen.append(parts[2].detach()))
    passes(model, objective_of("dist")).backward(batch, 4, teacher, epoch=0)
    recording.remove()
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert torch.equal(first, second)
    assert len(seen) == 8


def test_objective_over_rows_needs_one_forward_pass() -> None:
    batch, teacher = problem()
    model, seen = network(), []
    model.register_forward_hook(lambda *parts: seen.append(len(parts[2])))
    passes(model, RowHint()).backward(batch, 4, teacher, epoch=0)
    assert seen == [3, 3, 3, 4]


def _rank(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    results = {}
    for setting, mixed in itertools.product(("kd", "dist", "row hint", "dml"), (False, True)):
        batch, teacher = problem(mixed)
        part = slice(0, 6) if rank == 0 else slice(6, SIZE)
        model, objective = network(), objective_of(setting)
        parallel = nn.parallel.DistributedDataParallel(with_peer(model, objective))
        ranks = Ranks(RankInfo(rank, 2, Path(out)))
        steps = passes(model, objective, parallel, ranks)
        loss = steps.backward(batch.part(part), 3, Outputs(teacher.logits[part]), epoch=2)
        results[setting, mixed] = (loss.terms.total.item(), [p.grad for p in with_peer(model, objective).parameters()])
    torch.save(results, f"{out}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_micro_batches_equal_one_process(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(free_port(), str(tmp_path)), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    for rank in range(2):
        for (setting, mixed), (value, actual) in torch.load(tmp_path / f"rank{rank}.pt").items():
            batch, teacher = problem(mixed)
            model, objective = network(), objective_of(setting)
            expected = whole_batch(model, objective, batch, teacher)
            assert value == pytest.approx(expected.terms.total.item(), rel=1e-6), setting
            for ours, theirs in zip(actual, with_peer(model, objective).parameters(), strict=True):
                torch.testing.assert_close(ours, theirs.grad, rtol=1e-6, atol=1e-12)


class TestUpdate:
    def stepper(self, update: Update, lr: float = 0.1) -> Stepper:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, CLASSES))
        optimizer = build_optimizer(model, Optimizer(lr=lr, weight_decay=0.0))
        objective = LogitObjective(build_loss(MethodRef(name="ce")))
        plan = ExecutionPlan(threads=1)
        return Stepper(task_of(), model, None, objective, optimizer, plan, update=update)

    def test_number_of_micro_batches_follows_the_size_of_the_batch(self) -> None:
        update = Update.of(Training(epochs=1, batch_size=64, accumulate=4))
        assert [update.micro_batches(total) for total in (64, 33, 32, 1)] == [4, 3, 2, 1]
        assert Update.of(Training(epochs=1)).micro_batches(64) == 1

    def test_steps_with_micro_batches_equal_those_without(self) -> None:
        plain, divided = self.stepper(Update()), self.stepper(Update(micro_batch_size=8))
        for batch in synthetic(train_size=75).batches(32, 0, 0):
            plain.step(batch, 0, 0.1)
            divided.step(batch, 0, 0.1)
        for ours, theirs in zip(divided.model.parameters(), plain.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert divided.means.read() == pytest.approx(plain.means.read(), rel=1e-4)

    @pytest.mark.parametrize("update", [Update(clip_norm=0.01), Update(micro_batch_size=8, clip_norm=0.01)])
    def test_clip_norm_limits_the_length_of_a_step(self, update: Update) -> None:
        (batch, *_) = synthetic(train_size=75).batches(32, 0, 0)
        plain, limited = self.stepper(Update()), self.stepper(update)
        before = [parameter.detach().clone() for parameter in plain.model.parameters()]
        for stepper in (plain, limited):
            stepper.step(batch, 0, 0.1)
        moved = [
            [
                (parameter.detach() - start) / -0.1
                for parameter, start in zip(stepper.model.parameters(), before, strict=True)
            ]
            for stepper in (plain, limited)
        ]
        norms = [torch.cat([part.flatten() for part in parts]).norm().item() for parts in moved]
        assert norms[1] == pytest.approx(0.01, rel=1e-3)
        assert limited.means.read()["grad/norm"] == pytest.approx(norms[0], rel=1e-3)
        assert "grad/norm" not in plain.means.read()

    def test_gradient_below_the_clip_norm_is_unchanged(self) -> None:
        (batch, *_) = synthetic(train_size=75).batches(32, 0, 0)
        plain, limited = self.stepper(Update()), self.stepper(Update(clip_norm=1e6))
        for stepper in (plain, limited):
            stepper.step(batch, 0, 0.1)
        for ours, theirs in zip(limited.model.parameters(), plain.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)


@ALL
def test_loss_of_a_mixture_is_the_weighted_sum_over_both_labels(setting: str) -> None:
    """λ·L(first label) + (1 − λ)·L(second), row by row; of a loss over the batch the rows are there twice."""
    batch, teacher = problem(mixed=True)
    assert batch.mixed
    logits = torch.randn(SIZE, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    task, loss = task_of(), build_loss(MethodRef(name=setting.split()[0], params=SETTINGS[setting]))
    student = logits.clone().requires_grad_()
    actual = loss(task.step(Outputs(student), teacher, batch, 2).rows, 2)
    actual.total.backward()  # type: ignore[no-untyped-call]
    both = Rows(
        logits.repeat(2, 1).requires_grad_(),
        teacher.logits.repeat(2, 1),
        torch.cat((batch.mixed.target, batch.mixed.partner_target)),
        torch.cat((batch.mixed.lam, 1 - batch.mixed.lam)),
    )
    expected = loss(both, 2)
    (gradient,) = torch.autograd.grad(expected.total, both.student)
    assert actual.total.item() == pytest.approx(expected.total.item(), rel=1e-9)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, gradient[:SIZE] + gradient[SIZE:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("setting", [name for name in ("ce", "kd", "dkd", "nkd", "rld") if name in SETTINGS])
def test_mean_over_rows_is_the_mean_of_both_labels(setting: str) -> None:
    batch, teacher = problem(mixed=True)
    assert batch.mixed
    mixed = batch.mixed
    logits = torch.randn(SIZE, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    loss = build_loss(MethodRef(name=setting, params=SETTINGS[setting]))
    actual = loss(task_of().step(Outputs(logits), teacher, batch, 2).rows, 2).total
    total = 0.0
    for row in range(SIZE):
        for target, weight in ((mixed.target, mixed.lam[row]), (mixed.partner_target, 1 - mixed.lam[row])):
            one = Rows(logits[row : row + 1], teacher.logits[row : row + 1], target[row : row + 1])
            total += float(weight) * loss(one, 2).total.item() / SIZE
    assert actual.item() == pytest.approx(total, rel=1e-6)


def test_step_of_a_mixture_repeats_taps_and_indices() -> None:
    batch, teacher = problem(mixed=True)
    outputs = Outputs(torch.randn(SIZE, CLASSES), {"map": torch.randn(SIZE, 2, 3, 3)})
    step = task_of().step(outputs, replace(teacher, taps=outputs.taps), batch, 1, with_index=True)
    assert step.index is not None
    assert step.teacher
    for tensor in (
        step.rows.student,
        step.student.logits,
        step.student.taps["map"],
        step.teacher.taps["map"],
        step.index,
    ):
        assert torch.equal(tensor[:SIZE], tensor[SIZE:])
    accuracy = task_of().step_metrics(step.rows)
    assert batch.mixed
    hit = outputs.logits.argmax(1)
    expected = batch.mixed.lam * (hit == batch.mixed.target) + (1 - batch.mixed.lam) * (
        hit == batch.mixed.partner_target
    )
    assert float(accuracy["top1"]) == pytest.approx(100 * float(expected.mean()), rel=1e-5)
